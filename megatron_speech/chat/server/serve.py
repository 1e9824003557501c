"""The web server: the page, the WebSocket endpoint behind it, and uvicorn around both."""

import logging
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from fastapi.staticfiles import StaticFiles
from starlette.middleware.base import RequestResponseEndpoint
from starlette.responses import Response

from ...errors import ConfigError
from ..events import AudioChunk
from .config import ServerConfig
from .connections import Connections
from .door import ChatDoor
from .frames import BoundedWebSocket
from .listen import BoundedServer
from .requests import BoundedHttp

if TYPE_CHECKING:
    from ..engine import ChatEngine

_LOG = logging.getLogger(__name__)
_PAGE = Path(__file__).parents[1] / "page"
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "form-action 'none'; object-src 'none'",
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
    "Connection": "close",  # one request each, so that its time is the connection's time
}


def warm_up(engine: "ChatEngine") -> None:
    """Answer half a second of noise up to its first sound: no client waits for what loads late."""
    noise = np.random.default_rng(0).normal(0.0, 0.05, 8_000).astype(np.float32)
    for event in engine.session().respond(noise, 16_000):
        if isinstance(event, AudioChunk):
            break


def make_app(door: ChatDoor) -> FastAPI:
    """Page at /, WebSocket at /chat, counts of clients at /status."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        door.close()

    # FastAPI's own documentation pages load scripts from elsewhere
    app = FastAPI(lifespan=life, docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def headers(request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    @app.get("/status")
    async def status() -> dict[str, int]:
        lobby = door.lobby
        return {"served": lobby.served, "waiting": lobby.waiting, "max_sessions": lobby.seats}

    app.websocket("/chat")(door.connect)
    app.mount("/", StaticFiles(directory=_PAGE, html=True))
    return app


def make_server(engine: "ChatEngine", config: ServerConfig) -> BoundedServer:
    """A server to `run`, which raises ConfigError if it cannot listen.

    Raises:
        ConfigError: the token file or the certificate cannot be read, or too few files may be
            open.
    """
    settings = uvicorn.Config(
        make_app(ChatDoor(engine, config)),
        host=config.host,
        port=config.port,
        http=BoundedHttp,
        ws=BoundedWebSocket,  # reads no message before the last one was taken
        ws_max_size=config.message_bytes,
        ws_per_message_deflate=False,  # sound hardly shrinks; and nothing swells when unpacked
        ws_ping_interval=config.stall_s,
        ws_ping_timeout=config.stall_s,
        ssl_certfile=config.ssl_certfile,
        ssl_keyfile=config.ssl_keyfile,
        timeout_graceful_shutdown=2,
        log_level="error",  # what clients do wrong is no line each
        server_header=False,
    )
    try:
        settings.load()
    except OSError as error:  # of TLS too
        raise ConfigError(
            f"--ssl-certfile {config.ssl_certfile} and --ssl-keyfile {config.ssl_keyfile} cannot "
            f"be used: {error}; expected a certificate and its key in PEM format"
        ) from None
    return BoundedServer(settings, Connections(config))


def serve(engine: "ChatEngine", config: ServerConfig) -> None:
    """Serve until Ctrl-C.

    Raises:
        ConfigError: see `make_server`, or host and port cannot be listened on.
    """
    server = make_server(engine, config)
    if not config.is_local and config.token_file is None:
        _LOG.warning("whoever reaches %s may talk: give --token-file", config.address)
    hash_ = "/#token=..." if config.token_file else ""
    server.greeting = f"talk at {config.address}{hash_}   (Ctrl-C ends it)"
    try:
        server.run()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the engine's threads may yet hold us up
        print("closed", flush=True)
