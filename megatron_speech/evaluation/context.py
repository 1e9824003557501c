"""What an evaluation task is given and gives back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..data.code_shards import CodeShardInfo, read_code_shards
from ..errors import ConfigError, DataError
from ..speech_tokenizer.opened import OpenedSpeechTokenizer
from .scoring import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A share of items answered rightly, with its sample size and standard error."""

    accuracy: float
    n: int

    @property
    def stderr(self) -> float:
        """Standard error of a proportion, sqrt(p(1-p)/n)."""
        return float(np.sqrt(self.accuracy * (1 - self.accuracy) / self.n))

    def to_json(self) -> dict[str, Any]:
        return {"accuracy": self.accuracy, "n": self.n, "stderr": self.stderr}


@dataclass(frozen=True, kw_only=True)
class Result:
    """One line of the result table."""

    task: str
    """Name in `TASKS`."""
    part: str
    """Part of the task, such as topic or story."""
    direction: str
    """t2t, s2s, s2t or t2s: what the context is and what the ending or answer is."""
    headline: Figure
    rule: str
    """How the headline was decided."""
    rules: Mapping[str, Figure] = field(default_factory=dict)
    """All rules measured, the headline's included."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Anything else worth keeping: samples, further figures."""

    def to_json(self) -> dict[str, Any]:
        return {
            **self.headline.to_json(),
            "rule": self.rule,
            "rules": {name: figure.to_json() for name, figure in self.rules.items()},
            **self.details,
        }


class SpokenSentences(Protocol):
    """What knows the codes of sentences."""

    def codes(self, sentence: str) -> np.ndarray:
        """Codes (n,) of one sentence."""
        ...


class Utterances:
    """Codes of spoken sentences, found by their exact text."""

    def __init__(self, paths: str | Path | Sequence[str | Path], fingerprint: str | None = None):
        """Read code shards, refusing those of another speech tokenizer than `fingerprint`.

        Raises:
            DataError: shards that are missing, damaged, of another tokenizer, or without text.
        """
        info, records = read_code_shards(paths, fingerprint)
        self.info: CodeShardInfo = info
        self._codes: dict[str, np.ndarray] = {}
        for record in records:
            if record.text is None:
                raise DataError(
                    f"utterance {record.id!r} has no text, so no item can ask for it; "
                    "tokenize a manifest with a text column"
                )
            self._codes.setdefault(record.text, record.codes)

    def __len__(self) -> int:
        return len(self._codes)

    def require(self, sentences: Sequence[str]) -> None:
        """Check that every sentence was spoken.

        Raises:
            DataError: naming how many are missing and the first of them.
        """
        missing = sorted(set(sentences) - self._codes.keys())
        if missing:
            raise DataError(
                f"{len(missing)} of {len(set(sentences))} sentences have no codes, the first is "
                f"{missing[0]!r}; speak and tokenize them all, spelled exactly as in the items"
            )

    def codes(self, sentence: str) -> np.ndarray:
        """Codes (n,) of one sentence."""
        return self._codes[sentence]


@dataclass(frozen=True, kw_only=True)
class EvaluationContext:
    """What a task may use."""

    model: LanguageModel
    utterances: Utterances | None
    """None where nothing that is asked for needs speech."""
    speech_tokenizer: OpenedSpeechTokenizer | None = None
    cloze_paths: tuple[Path, ...] = ()
    qa_path: Path | None = None
    directions: tuple[str, ...] = ("t2t", "s2t", "s2s", "t2s")
    speech_paths: tuple[Path, ...] = ()
    """Code shards, for tasks that go through records and not sentences."""
    decoder_path: Path | None = None
    """Speech decoder, and the Whisper that listens to it."""
    whisper_path: Path | None = None
    limit: int | None = None
    """Items of each part, from the start of the file; None takes all."""

    def __post_init__(self) -> None:
        if self.utterances is not None:
            check_same_codes(self.model, self.utterances, self.speech_tokenizer)

    def spoken(self) -> Utterances:
        """Codes of the spoken sentences.

        Raises:
            ConfigError: there are none.
        """
        if self.utterances is None:
            raise ConfigError("codes of the spoken sentences are needed: give --speech")
        return self.utterances

    def transcriber(self, task: str) -> OpenedSpeechTokenizer:
        """The speech tokenizer, which `task` cannot do without."""
        if self.speech_tokenizer is None:
            raise ConfigError(f"task {task} reads codes back as text: give --speech-tokenizer")
        return self.speech_tokenizer


def check_same_codes(
    model: LanguageModel, utterances: Utterances, tokenizer: OpenedSpeechTokenizer | None
) -> None:
    """Refuse parts that number codes differently.

    Raises:
        DataError: codebook sizes or speech tokenizers that differ.
    """
    if utterances.info.num_codes != model.vocab.num_codes:
        raise DataError(
            f"the spoken sentences were tokenized with {utterances.info.num_codes} codes, the "
            f"model's vocabulary has {model.vocab.num_codes}; they belong to different tokenizers"
        )
    fingerprint = utterances.info.tokenizer_fingerprint
    model.vocab.require_speech_tokenizer(fingerprint, "the set of spoken sentences", "the model")
    if tokenizer is not None and tokenizer.fingerprint != utterances.info.tokenizer_fingerprint:
        raise DataError(
            f"the spoken sentences were made by speech tokenizer "
            f"{utterances.info.tokenizer_fingerprint}, --speech-tokenizer is "
            f"{tokenizer.fingerprint}; tokenize the sentences again with this tokenizer"
        )
