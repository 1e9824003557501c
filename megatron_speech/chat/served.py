"""Tokens from a vLLM server: a batch of many conversations, on GPUs of its own.

`vllm serve FOLDER` of the exported folder; what is read of it is the completions endpoint with
streams of token ids. Which kinds of tokens may come changes several times in an answer, and with
it the request: vLLM's prefix cache makes each a continuation of the last.
"""

import json
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from ..errors import ConfigError
from .decoding import SamplingConfig, TokenKinds
from .rhythm import Kinds

_TIMEOUT_S = 60.0


class VllmServer:
    """Where tokens come from; shared by all conversations.

    Args:
        url: address, as http://127.0.0.1:8000; with /v1 behind it or without.
        rows: rows of the exported model's vocabulary; what the server has must hold them.

    Raises:
        ConfigError: no vLLM server answers there.
    """

    def __init__(self, url: str, rows: int):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--vllm-url is {url!r}; expected http://HOST:PORT")
        self.url = url
        self._secure, self._host, self._port = parts.scheme == "https", parts.hostname, parts.port
        self._path = parts.path.rstrip("/").removesuffix("/v1")
        (model, *_) = json.loads(self._ask("GET", "/v1/models").read())["data"]
        self._model: str = model["id"]
        self.context_tokens: int = model["max_model_len"]
        """Positions that the server grants a sequence."""
        self._require_row(rows - 1)

    def completion(self, request: dict[str, Any]) -> HTTPResponse:
        """A completion, with `stream` one under way: closing it stops the server's work.

        Raises:
            ConfigError: the server is gone, or refuses the request.
        """
        return self._ask("POST", "/v1/completions", {"model": self._model, **request})

    def _require_row(self, token: int) -> None:
        """One token out of the vocabulary's last row: a smaller model refuses it."""
        request = {"prompt": [0], "max_tokens": 1, "allowed_token_ids": [token]}
        self.completion(request).close()

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> HTTPResponse:
        kind = HTTPSConnection if self._secure else HTTPConnection
        connection = kind(self._host, self._port, timeout=_TIMEOUT_S)
        try:
            connection.request(
                method,
                self._path + path,
                None if body is None else json.dumps(body),
                {"Content-Type": "application/json"},
            )
            response = connection.getresponse()
        except (OSError, HTTPException) as error:
            raise self.gone(error) from None
        if response.status != 200:
            said = response.read(500).decode("utf-8", "replace")
            response.close()
            raise ConfigError(f"the vLLM server at {self.url} says {response.status}: {said}")
        return response

    def gone(self, error: Exception) -> ConfigError:
        """What to tell of a server that does not answer."""
        return ConfigError(
            f"no vLLM server answers at {self.url} ({error}); start one with `vllm serve FOLDER`, "
            "FOLDER being the --model given here"
        )


class ServedTokens:
    """A `TokenSource` of a vLLM server."""

    def __init__(self, server: VllmServer, kinds: TokenKinds, sampling: SamplingConfig):
        self._server, self._kinds, self._sampling = server, kinds, sampling
        self._allowed: Kinds = frozenset()
        self._response: HTTPResponse | None = None
        self._ahead: Iterator[int] = iter(())
        self._tokens: list[int] = []
        self._seed = self._end = 0

    def begin(self, prompt: list[int], seed: int, most_tokens: int) -> None:
        """Note the prompt: the server reads it with the first request."""
        self.end()
        self._tokens, self._seed = list(prompt), seed
        self._end = len(prompt) + most_tokens

    def choose(self, allowed: Kinds) -> int:
        """See `TokenSource`.

        Raises:
            ConfigError: the server is gone, or refuses the request.
        """
        if self._response is None or allowed != self._allowed:
            self._start(allowed)
        try:
            return next(self._ahead)
        except (OSError, HTTPException, StopIteration) as error:
            self.end()
            raise self._server.gone(error) from None

    def append(self, token: int) -> None:
        """See `TokenSource`."""
        self._tokens.append(token)

    def end(self) -> None:
        """Stop the request under way, if there is one."""
        if self._response is not None:
            with suppress(OSError):
                self._response.close()
        self._response = None

    def _start(self, allowed: Kinds) -> None:
        self.end()
        self._allowed = allowed
        sampling = self._sampling
        self._response = self._server.completion(
            {
                "prompt": self._tokens,
                "max_tokens": max(1, self._end - len(self._tokens)),
                "temperature": sampling.temperature,
                "top_p": sampling.top_p if sampling.temperature else 1.0,
                "top_k": 0,
                "repetition_penalty": 1.0,
                "seed": self._seed + len(self._tokens),
                "allowed_token_ids": self._kinds.ids(allowed).tolist(),
                "ignore_eos": True,
                "return_token_ids": True,
                "add_special_tokens": False,
                "stream": True,
            }
        )
        self._ahead = _token_ids(self._response)


def _token_ids(response: HTTPResponse) -> Iterator[int]:
    """Ids of server-sent events."""
    for line in response:
        _, found, data = line.partition(b"data: ")
        if found and data.strip() != b"[DONE]":
            event = json.loads(data)
            if "error" in event:
                raise ConfigError(f"the vLLM server says: {event['error'].get('message')}")
            yield from event["choices"][0].get("token_ids") or ()
