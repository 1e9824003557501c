"""Settings of the chat server: who may talk, how many at once, for how long."""

from dataclasses import dataclass
from pathlib import Path

from ...errors import ConfigError, flag, require_within

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Where the server listens and what it grants to its clients."""

    host: str = "127.0.0.1"
    """Address to listen on. Anything else than this machine's own needs --allow-origin."""
    port: int = 8765
    """Port to listen on."""
    allow_origin: tuple[str, ...] = ()
    """Further origins whose pages may connect, such as https://chat.example.org; this machine's
    own names are always among them."""
    token_file: Path | None = None
    """File whose first line a client must know; the page takes it from its address, #token=..."""
    ssl_certfile: Path | None = None
    """Certificate in PEM format: browsers lend a microphone to this machine's own pages and to
    https, to nobody else."""
    ssl_keyfile: Path | None = None
    """Private key of the certificate."""
    max_sessions: int = 2
    """Conversations at once; who comes later waits."""
    max_waiting: int = 20
    """Clients that may wait for a place; more are turned away."""
    session_s: float = 900.0
    """Longest conversation."""
    idle_s: float = 180.0
    """A conversation ends when its client has said nothing for so long."""
    question_s: float = 30.0
    """Longest question."""
    hearing_s: float = 1.0
    """Shortest time between two looks at a question that is still being spoken, to show what was
    understood so far; of a long one, a quarter of it. 0: shown when it is complete."""
    message_bytes: int = 1 << 18
    """Largest message from a client; a connection with a larger one is closed unread."""
    stall_s: float = 10.0
    """A client that takes nothing from its connection for so long is given up."""
    hello_s: float = 10.0
    """Time a new connection has for its request and to take the answer, and then a client to
    introduce itself."""
    max_per_address: int = 64
    """Conversations of one address, served or waiting, and as many connections that have not begun
    one. 0: no limit, for a server behind a proxy, where all have the proxy's address."""

    def __post_init__(self) -> None:
        for name in ("max_sessions", "session_s", "idle_s", "question_s", "stall_s", "hello_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{flag(name)} is {getattr(self, name)}; give more than 0")
        if not 0 <= self.hearing_s < float("inf"):
            raise ConfigError(f"--hearing-s is {self.hearing_s}; give seconds, or 0 for never")
        require_within(self, 0, "max_waiting", "max_per_address")
        require_within(self, 1024, "message_bytes")
        require_within(self, 1, "port", most=65535)  # pages of a port chosen late cannot connect
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ConfigError("--ssl-certfile and --ssl-keyfile belong together")
        for origin in self.allow_origin:
            if not origin.startswith(("http://", "https://")) or origin.count("/") != 2:
                raise ConfigError(
                    f"--allow-origin {origin!r} is no origin; expected scheme, name and maybe a "
                    "port, as in https://chat.example.org"
                )

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"{self._scheme}://{_bracketed(self.host)}:{self.port}"

    @property
    def origins(self) -> frozenset[str]:
        """Pages that may connect. Fixed names, so that a foreign name that was made to point here
        (DNS rebinding) does not become one of ours."""
        names = [*_LOOPBACK, _bracketed(self.host)]
        port = f":{self.port}"
        if self.port == {"http": 80, "https": 443}[self._scheme]:
            port = ""
        return frozenset(f"{self._scheme}://{name}{port}" for name in names) | {*self.allow_origin}

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return _bracketed(self.host) in _LOOPBACK

    @property
    def _scheme(self) -> str:
        return "https" if self.ssl_certfile else "http"

    def read_token(self) -> str | None:
        """The secret of --token-file.

        Raises:
            ConfigError: the file cannot be read, or its first line is empty.
        """
        if self.token_file is None:
            return None
        try:
            lines = self.token_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--token-file {self.token_file} cannot be read: {error}") from None
        if not lines or not lines[0].strip():
            raise ConfigError(f"the first line of --token-file {self.token_file} is empty")
        return lines[0].strip()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
