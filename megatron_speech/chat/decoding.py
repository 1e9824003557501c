"""Tokens of an answer, one by one: keys and values kept, kinds of tokens masked, one drawn."""

from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..text.vocab import SpeechTextVocab
from .languages import in_language, scripts_of
from .rhythm import Kinds, TokenKind

_NEVER = -1


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the next token is chosen. Temperature and top p are the released demo's."""

    temperature: float = 0.2
    """0 takes the likeliest token."""
    top_p: float = 0.8
    """Draws from the likeliest tokens that make up this probability."""
    seed: int = 0
    """With the number of the turn, decides what is drawn."""
    language: str | None = None
    """Text tokens in the letters of this language (ISO 639-1) only; none leaves it to the model."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"--temperature is {self.temperature}; give 0 or more")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"--top-p is {self.top_p}; expected more than 0, at most 1")
        if self.language is not None:
            scripts_of(self.language)


class AnswerVocab:
    """Which kind each token is, and which may be chosen.

    Args:
        rows: rows of the model's output, padding included.
        stop_id: the token that ends an answer.
    """

    def __init__(
        self, vocab: SpeechTextVocab, rows: int, stop_id: int, language: str | None = None
    ):
        ids = np.arange(rows)
        kinds = np.full(rows, _NEVER, np.int8)
        kinds[: vocab.text.size] = TokenKind.TEXT
        unsayable = {*vocab.specials.values(), *vocab.text.special_ids(), vocab.eod_id}
        kinds[[token for token in unsayable if token < rows]] = _NEVER
        if language is not None:
            kinds[: vocab.text.size][~in_language(vocab.text, language)] = _NEVER
            if not (kinds == TokenKind.TEXT).any():
                raise ConfigError(f"the vocabulary has no token in the letters of {language!r}")
        kinds[vocab.is_speech(ids)] = TokenKind.CODE
        kinds[vocab.begin_of_audio_id] = TokenKind.BEGIN
        kinds[vocab.end_of_audio_id] = TokenKind.END
        kinds[stop_id] = TokenKind.STOP
        self._kinds = kinds
        self._masks: dict[Kinds, Tensor] = {}
        self._ids: dict[Kinds, list[int]] = {}

    def kind(self, token: int) -> TokenKind:
        """Of a token that was allowed."""
        return TokenKind(self._kinds[token])

    def is_text(self, token: int) -> bool:
        """Whether it may be part of an answer's text."""
        return self._kinds[token] == TokenKind.TEXT

    def ids(self, allowed: Kinds) -> list[int]:
        """Tokens of these kinds."""
        if allowed not in self._ids:
            self._ids[allowed] = np.flatnonzero(np.isin(self._kinds, list(allowed))).tolist()
        return self._ids[allowed]

    def only(self, allowed: Kinds) -> int | None:
        """The single token of these kinds, if there is only one."""
        ids = self.ids(allowed)
        return ids[0] if len(ids) == 1 else None

    def forbidden(self, allowed: Kinds) -> Tensor:
        """(rows,) bool: tokens of other kinds."""
        if allowed not in self._masks:
            mask = ~np.isin(self._kinds, list(allowed))
            self._masks[allowed] = torch.from_numpy(mask)
        return self._masks[allowed]


class TokenSource(Protocol):
    """What chooses the tokens of one conversation's answers."""

    def begin(self, prompt: list[int], seed: int, most_tokens: int) -> None:
        """Read a prompt; `seed` decides what is drawn of up to `most_tokens` behind it."""
        ...

    def choose(self, allowed: Kinds) -> int | None:
        """The next token, of one of these kinds; it counts once it is appended. None if `cancel`
        was called meanwhile."""
        ...

    def append(self, token: int) -> None:
        """Go on behind this token, whoever chose it."""
        ...

    def cancel(self) -> None:
        """From any thread: let a `choose` that waits return at once."""

    def end(self) -> None:
        """Stop working on the answer."""


class ModelTokens(TokenSource):
    """Tokens of a causal language model of transformers, in this process; its keys and values are
    kept from turn to turn. No token is waited for, and nothing goes on behind an answer."""

    def __init__(self, model: Any, kinds: AnswerVocab, sampling: SamplingConfig):
        self._model, self._kinds, self._sampling = model, kinds, sampling
        self._cache: Any = None
        self._read: list[int] = []  # what the cache holds
        self._unread: list[int] = []
        self._logits: Tensor
        self._random: torch.Generator

    def begin(self, prompt: list[int], seed: int, most_tokens: int) -> None:
        """What the tokens read so far begin with already is not computed again."""
        from transformers import DynamicCache

        self._random = torch.Generator().manual_seed(seed)
        known = zip(self._read, prompt[:-1], strict=False)
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], known))
        if self._cache is None or common == 0:
            self._cache, common = DynamicCache(config=self._model.config), 0
        elif common < len(self._read):
            self._cache.crop(common - len(self._read))  # below zero: as many from the end
        self._read, self._unread = prompt[:common], prompt[common:]
        self._extend()

    def choose(self, allowed: Kinds) -> int:
        if self._unread:
            self._extend()
        return choose(self._logits, self._kinds.forbidden(allowed), self._sampling, self._random)

    def append(self, token: int) -> None:
        self._unread.append(token)

    @torch.inference_mode()
    def _extend(self) -> None:
        """Read what is unread: the logits (rows,) of what comes next."""
        ids = torch.tensor([self._unread], device=self._model.device)
        output = self._model(
            input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1
        )
        self._read += self._unread
        self._unread = []
        self._logits = output.logits[0, -1].float()


def choose(logits: Tensor, forbidden: Tensor, config: SamplingConfig, random: Any) -> int:
    """One token that is not forbidden, by temperature and top p. `random` is a torch.Generator.

    Raises:
        CheckpointError: logits are NaN or infinite.
    """
    if not logits.isfinite().all():
        raise CheckpointError(
            "the model's logits are NaN or infinite, so nothing it says means anything; its "
            "weights are damaged or overflow in their type: load another checkpoint"
        )
    logits = logits.masked_fill(forbidden.to(logits.device), -torch.inf)
    if config.temperature == 0:
        return int(logits.argmax())
    shares = (logits / config.temperature).softmax(dim=-1).cpu()
    ordered, ids = shares.sort(descending=True)
    before = ordered.cumsum(dim=-1) - ordered
    kept = ordered * (before < config.top_p)
    return int(ids[torch.multinomial(kept, 1, generator=random)])
