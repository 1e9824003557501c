"""Tokens from a vLLM server: a batch of many conversations, on GPUs of its own.

`vllm serve FOLDER` of the exported folder; what is read of it is the completions endpoint with
streams of token ids. Which kinds of tokens may come changes several times in an answer, and with
it the request: vLLM's prefix cache makes each a continuation of the last.
"""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from ..errors import ConfigError, ServiceError
from .decoding import AnswerVocab, SamplingConfig, TokenSource
from .rhythm import Kinds

_TIMEOUT_S = 60.0
_MOST_SAID = 500


class VllmServer:
    """Where tokens come from; shared by all conversations.

    Args:
        url: address, as http://127.0.0.1:8000; with /v1 behind it or without.
        rows: rows of the exported model's vocabulary; what the server has must hold them.

    Raises:
        ConfigError: the address is none.
        ServiceError: no vLLM server with such a model answers there.
    """

    def __init__(self, url: str, rows: int):
        parts, port = urlsplit(url), None
        with suppress(ValueError):
            port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        if port is None or parts.hostname is None or parts.scheme not in ("http", "https"):
            raise ConfigError(f"--vllm-url is {url!r}; expected http://HOST:PORT")
        self.url = url
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, port
        self._path = parts.path.rstrip("/").removesuffix("/v1")
        with self.ask("models") as reply:
            try:
                model = json.loads(reply.read())["data"][0]
                self._model: str = model["id"]
                self.context_tokens: int = int(model["max_model_len"])
                """Positions that the server grants a sequence."""
            except (ValueError, LookupError, TypeError, OSError, HTTPException) as error:
                raise ServiceError(f"what answers at {url} is no vLLM server ({error!r})") from None
        # one token out of the vocabulary's last row: a smaller model refuses it
        last = {"prompt": [0], "max_tokens": 1, "allowed_token_ids": [rows - 1]}
        self.ask("completions", last).close()

    def ask(
        self,
        endpoint: str,
        request: dict[str, Any] | None = None,
        connected: Callable[[socket.socket], None] = lambda _: None,
    ) -> HTTPResponse:
        """What the server says to a request to the model, or to none.

        Args:
            connected: is given the line before the server has begun its reply: whoever shuts it
                down ends the wait, and the server's work.

        Raises:
            ServiceError: the server is gone, or refuses the request.
        """
        kind = HTTPSConnection if self._secure else HTTPConnection
        connection = kind(self._host, self._port, timeout=_TIMEOUT_S)
        try:
            connection.connect()
            connected(connection.sock)
            connection.request(
                "GET" if request is None else "POST",
                f"{self._path}/v1/{endpoint}",
                None if request is None else json.dumps({"model": self._model, **request}),
                {"Content-Type": "application/json", "Connection": "close"},
            )
            reply = connection.getresponse()
        except (OSError, HTTPException) as error:
            connection.close()
            raise ServiceError(
                f"no vLLM server answers at {self.url} ({error}); start one with `vllm serve "
                "FOLDER`, FOLDER being the --model given here"
            ) from None
        if reply.status != 200:
            with reply:
                said = reply.read(_MOST_SAID).decode("utf-8", "replace")
            raise ServiceError(f"the vLLM server at {self.url} says {reply.status}: {said}")
        return reply


def token_ids(reply: HTTPResponse) -> Iterator[int]:
    """Ids of a stream's server-sent events; closes it behind them.

    Raises:
        ServiceError: the server says that it failed.
    """
    with reply:
        for line in reply:
            _, found, data = line.partition(b"data: ")
            if not found or data.strip() == b"[DONE]":
                continue
            event = json.loads(data)
            if "error" in event:
                raise ServiceError(f"the vLLM server says: {event['error']}"[:_MOST_SAID])
            yield from event["choices"][0].get("token_ids") or ()


class ServedTokens(TokenSource):
    """Tokens of a vLLM server."""

    def __init__(self, server: VllmServer, kinds: AnswerVocab, sampling: SamplingConfig):
        self._server, self._kinds, self._sampling = server, kinds, sampling
        self._allowed: Kinds = frozenset()
        self._line: socket.socket | None = None  # of the request under way
        self._ahead: Iterator[int] = iter(())
        self._cancelled = False
        self._tokens: list[int] = []
        self._seed = self._end = 0

    def begin(self, prompt: list[int], seed: int, most_tokens: int) -> None:
        """Note the prompt: the server reads it with the first request."""
        self.end()
        self._cancelled = False
        self._tokens, self._seed = list(prompt), seed
        self._end = len(prompt) + most_tokens

    def choose(self, allowed: Kinds) -> int | None:
        try:
            if self._line is None or allowed != self._allowed:
                self._start(allowed)
            return next(self._ahead)
        except (OSError, HTTPException, StopIteration, ValueError, LookupError) as error:
            self.end()
            if self._cancelled:
                return None
            if isinstance(error, ServiceError):
                raise
            raise ServiceError(
                f"the answer of the vLLM server at {self._server.url} broke off ({error!r})"
            ) from None

    def append(self, token: int) -> None:
        self._tokens.append(token)

    def cancel(self) -> None:
        self._cancelled = True
        self._shut(self._line)

    def end(self) -> None:
        self._shut(self._line)
        self._line, self._ahead = None, iter(())

    def _shut(self, line: socket.socket | None) -> None:
        """Whoever reads of it meets the end."""
        if line is not None:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def _start(self, allowed: Kinds) -> None:
        self.end()
        self._allowed = allowed
        sampling = self._sampling
        reply = self._server.ask(
            "completions",
            {
                "prompt": self._tokens,
                "max_tokens": max(1, self._end - len(self._tokens)),
                "temperature": sampling.temperature,
                "top_p": sampling.top_p if sampling.temperature else 1.0,
                "top_k": 0,
                "repetition_penalty": 1.0,
                "seed": self._seed + len(self._tokens),
                "allowed_token_ids": self._kinds.ids(allowed),
                "ignore_eos": True,
                "return_token_ids": True,
                "add_special_tokens": False,
                "stream": True,
            },
            self._hold,
        )
        self._ahead = token_ids(reply)

    def _hold(self, line: socket.socket) -> None:
        self._line = line
        if self._cancelled:  # while the line was made
            self._shut(line)
