"""Codes of what a benchmark says: looked up, encoded from its audio, or spoken by a model."""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from ...audio import read_audio, stream_audio
from ...data.code_shards import read_code_shards
from ...errors import ConfigError, DataError
from ...jobs.progress import Progress
from ...speech_tokenizer.opened import OpenedSpeechTokenizer
from ...text.vocab import SpeechTextVocab
from ...text_to_token.choose_engine import make_engine
from ...text_to_token.engines import Engine, EngineConfig
from .items import Utterance

_CLIPS_AT_ONCE = 16
_MOST_CODES = (32, 10)
"""Codes after which a text should have been said: so many, and so many a character (50 Hz)."""


@dataclass
class Sounds:
    """Where codes come from, in this order: shards, audio, the text-to-token model."""

    vocab: SpeechTextVocab
    shards: Sequence[Path] = ()
    tokenizer: OpenedSpeechTokenizer | None = None
    text_to_token: Path | None = None
    device: str = "cpu"
    _found: dict[str, np.ndarray] = field(default_factory=dict)
    _origin: dict[str, str] = field(default_factory=dict)
    _ids: dict[str, np.ndarray] = field(default_factory=dict)
    _texts: dict[str, np.ndarray] = field(default_factory=dict)
    _engine: Engine | None = None

    def __post_init__(self) -> None:
        if self.shards:
            self._index()
        if self.tokenizer is not None and self.vocab.num_codes:
            self._check(self.tokenizer.num_codes, self.tokenizer.fingerprint, "--speech-tokenizer")

    def _index(self) -> None:
        """Codes by id, by the end of an id (imported units have folders in theirs), by text."""
        info, records = read_code_shards(list(self.shards))
        self._check(info.num_codes, info.tokenizer_fingerprint, "--speech")
        short: dict[str, list[np.ndarray]] = {}
        for record in records:
            self._ids.setdefault(record.id, record.codes)
            name = record.id.replace("/", "_")
            for place in [n + 1 for n, letter in enumerate(name) if letter == "_"]:
                short.setdefault(name[place:], []).append(record.codes)
            if record.text:
                self._texts.setdefault(record.text, record.codes)
        for name, codes in short.items():
            if len(codes) == 1:
                self._ids.setdefault(name, codes[0])

    def _check(self, num_codes: int, fingerprint: str | None, whose: str) -> None:
        if num_codes != self.vocab.num_codes:
            raise DataError(
                f"{whose} has {num_codes} codes, the model's vocabulary {self.vocab.num_codes}; "
                "they belong to different speech tokenizers"
            )
        self.vocab.require_speech_tokenizer(fingerprint, whose, "the model")

    def can(self, utterance: Utterance) -> bool:
        """Whether its codes can be had."""
        return self._source(utterance) is not None

    def needed_for(self, utterance: Utterance) -> str:
        """What would have to be given for its codes."""
        given = "--speech-tokenizer to encode its audio" if utterance.audio is not None else ""
        spoken = "--text-to-token to speak its text" if utterance.text else ""
        ways = [way for way in (given, spoken) if way]
        return " or ".join([*ways, f"--speech with codes of the id {utterance.key!r}"])

    def _source(self, utterance: Utterance) -> str | None:
        if self._in_shards(utterance) is not None:
            return "shards"
        if utterance.audio is not None and self.tokenizer is not None:
            return "audio"
        return "spoken" if utterance.text and self.text_to_token is not None else None

    def _in_shards(self, utterance: Utterance) -> np.ndarray | None:
        key = utterance.key
        for name in (key, key.replace("/", "_"), PurePosixPath(key).name):
            if name in self._ids:
                return self._ids[name]
        return self._texts.get(utterance.text) if utterance.text else None

    def prepare(self, utterances: Iterable[Utterance]) -> dict[str, int]:
        """Make the codes of all of them; returns how many came from where.

        What the text-to-token model does not end counts as `unspoken` and gets no codes.

        Raises:
            AudioError: a file that cannot be read.
            ConfigError: nothing gives the codes of one.
        """
        waiting: dict[str, list[Utterance]] = {"shards": [], "audio": [], "spoken": []}
        wanted = {utterance.key: utterance for utterance in utterances}
        for key, utterance in wanted.items():
            if key in self._origin:
                continue
            source = self._source(utterance)
            if source is None:
                raise ConfigError(f"{key} has no codes; give {self.needed_for(utterance)}")
            waiting[source].append(utterance)
        for utterance in waiting["shards"]:
            codes = self._in_shards(utterance)
            assert codes is not None
            self._keep(utterance, codes, "shards")
        self._encode(waiting["audio"])
        self._speak(waiting["spoken"])
        return dict(Counter(self._origin[key] for key in wanted))

    def _keep(self, utterance: Utterance, codes: np.ndarray, origin: str) -> None:
        self._found[utterance.key], self._origin[utterance.key] = codes, origin

    def _encode(self, utterances: Sequence[Utterance]) -> None:
        if not utterances:
            return
        assert self.tokenizer is not None
        with Progress("encode", len(utterances), "recordings") as progress:
            for first in range(0, len(utterances), _CLIPS_AT_ONCE):
                part = utterances[first : first + _CLIPS_AT_ONCE]
                for utterance, codes in zip(
                    part, self.tokenizer.encode([_audio(u) for u in part]), strict=True
                ):
                    self._keep(utterance, np.asarray(codes, np.int64), "audio")
                progress.advance(len(part))

    def _speak(self, utterances: Sequence[Utterance]) -> None:
        if not utterances:
            return
        assert self.text_to_token is not None
        if self._engine is None:
            self._engine = make_engine(self.text_to_token, EngineConfig(device=self.device))
        engine = self._engine
        self._check(engine.num_codes, engine.speech_tokenizer, "--text-to-token")
        texts = [utterance.text or "" for utterance in utterances]
        base, each = _MOST_CODES
        with Progress("speak", len(texts), "texts") as progress:
            made = engine.generate(
                texts, range(len(texts)), lambda text: base + each * len(text), progress.advance
            )
        for utterance, result in zip(utterances, made, strict=True):
            if result.ended and len(result.codes):
                self._keep(utterance, result.codes, "spoken")
            else:
                self._origin[utterance.key] = "unspoken"

    def has(self, utterance: Utterance) -> bool:
        """Whether `prepare` found codes."""
        return utterance.key in self._found

    def codes(self, utterance: Utterance) -> np.ndarray:
        """Codes (n,) of one that was prepared."""
        return self._found[utterance.key]


def _audio(utterance: Utterance) -> np.ndarray:
    audio = utterance.audio
    assert audio is not None
    if isinstance(audio, Path):
        return read_audio(audio)
    return np.concatenate(list(stream_audio(io.BytesIO(audio), f"recording {utterance.key}")))
