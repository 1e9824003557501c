"""Text-to-token engines: texts in, codes out.

An engine is anything with what `Engine` lists; to add one, write a class
beside TransformersEngine and make it where corpus/generate.py makes its engine. Which texts share a
batch is decided here, by their lengths alone: a pure function of the request shard.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ..data.templates import speak_prompt
from ..errors import CheckpointError, ConfigError
from ..files import fingerprint_of, fingerprint_of_files
from ..vocab import SpeechTextVocab
from .sentences import split_sentences
from .spans import random_bits

_PART_PURPOSE = 101
_ENDLESS = 1 << 62  # positions of a model that names no limit


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How text-to-token codes are generated."""

    batch_size: int = 512
    """Texts decoded together; another batch size may round differently and change a few codes."""
    temperature: float = 0.0
    """0 takes the likeliest code; above 0 samples, with a seed of its own per request."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of weights and activations."""
    device: str = "auto"
    """auto (cuda if there is one), cpu, cuda or cuda:N."""
    most_characters: int = 300
    """Longer texts are split at sentence ends and their codes joined."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.most_characters < 1:
            raise ConfigError("batch_size and most_characters must be at least 1")
        if self.temperature < 0:
            raise ConfigError(f"temperature is {self.temperature}; expected 0 or more")


@dataclass(frozen=True)
class Generation:
    """What came of one text. `codes` (n,) int64; `ended` is False if the model did not stop.

    `batch` is the number of the batch, within the call, that held its (first) part; None if no
    part was decoded. `too_long` says why it did not stop: the model's positions were used up.
    """

    codes: np.ndarray
    ended: bool
    batch: int | None
    too_long: bool = False


class Engine(Protocol):
    """Generates codes for texts; the same call gives the same codes."""

    fingerprint: str
    """Identifies the model and all settings that change its codes."""
    num_codes: int
    speech_tokenizer: str | None
    """Fingerprint of the speech tokenizer whose codes it learned; None if unknown."""

    def generate(
        self,
        texts: Sequence[str],
        seeds: Sequence[int],
        most_codes: Callable[[str], int],
        advance: Callable[[int], None] = ...,
    ) -> list[Generation]:
        """One result per text; `most_codes` bounds codes, `advance` hears of texts done."""
        ...


@dataclass(frozen=True)
class Part:
    """A text, or a sentence group of a long one, to be decoded on its own."""

    text: str
    seed: int


def split_requests(
    texts: Sequence[str], seeds: Sequence[int], config: EngineConfig
) -> tuple[list[Part], list[list[int]]]:
    """The distinct parts to decode, and for each text the parts that make it up.

    Without sampling, equal texts have equal codes and are decoded once.
    """
    parts: list[Part] = []
    members: list[list[int]] = []
    known: dict[str, int] = {}
    for text, seed in zip(texts, seeds, strict=True):
        pieces = split_sentences(text, config.most_characters)
        own: list[int] = []
        for number, piece in enumerate(pieces):
            if config.temperature == 0 and piece in known:
                own.append(known[piece])
                continue
            known[piece] = len(parts)
            own.append(len(parts))
            parts.append(Part(piece, _part_seed(seed, number)))
        members.append(own)
    return parts, members


def _part_seed(seed: int, number: int) -> int:
    key = np.array([seed], dtype=np.uint64)
    return int(random_bits(key, _PART_PURPOSE, np.array([number]))[0])


def make_batches(lengths: Sequence[int], batch_size: int) -> list[np.ndarray]:
    """Indices of items of about equal length, `batch_size` at a time, longest first."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]


@dataclass(frozen=True)
class Identity:
    """What is known of an exported model without loading it; the fields are `Engine`'s."""

    vocab: SpeechTextVocab
    fingerprint: str

    @property
    def num_codes(self) -> int:
        return self.vocab.num_codes

    @property
    def speech_tokenizer(self) -> str | None:
        return self.vocab.speech_tokenizer


def identify(model: Path, config: EngineConfig) -> Identity:
    """The vocabulary of an exported model, and the fingerprint of the codes it makes.

    Raises:
        CheckpointError: the folder holds no model.
        VocabularyError: the folder holds no speech-text vocabulary.
    """
    weights = sorted(model.glob("*.safetensors"))
    if not weights or not (model / "config.json").exists():
        raise CheckpointError(
            f"{model} holds no exported model (config.json and *.safetensors); make one with "
            "tools/convert_checkpoint.py megatron-to-hf"
        )
    vocab = SpeechTextVocab.from_pretrained(model)
    settings = {k: v for k, v in asdict(config).items() if k != "device"}
    fingerprint = fingerprint_of(
        fingerprint_of_files(model / "config.json", *weights),
        vocab.fingerprint,
        repr(sorted(settings.items())),
    )
    return Identity(vocab, fingerprint)


class TransformersEngine:
    """Decodes with a Hugging Face folder exported by tools/convert_checkpoint.py.

    Raises:
        CheckpointError: the folder holds no model.
        VocabularyError: the folder holds no speech-text vocabulary.
    """

    def __init__(self, model: Path, config: EngineConfig):
        import torch
        from transformers import AutoModelForCausalLM

        from .decoding import Decoder

        known = identify(model, config)
        self._vocab, self.fingerprint = known.vocab, known.fingerprint
        self._config = config
        self.num_codes = self._vocab.num_codes
        self.speech_tokenizer = self._vocab.speech_tokenizer
        device = config.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            model, dtype=getattr(torch, config.dtype)
        )
        if loaded.config.vocab_size < self._vocab.size:
            raise CheckpointError(
                f"{model}: the model has {loaded.config.vocab_size} rows, its vocabulary "
                f"{self._vocab.size} tokens; export it again"
            )
        self._positions: int = getattr(loaded.config, "max_position_embeddings", None) or _ENDLESS
        self._decoder = Decoder(
            loaded.to(device).eval(),
            first_code=self._vocab.code_offset,
            num_codes=self.num_codes,
            end_token=self._vocab.end_of_audio_id,
            temperature=config.temperature,
        )

    def generate(
        self,
        texts: Sequence[str],
        seeds: Sequence[int],
        most_codes: Callable[[str], int],
        advance: Callable[[int], None] = lambda count: None,
    ) -> list[Generation]:
        """Decode all texts; see `Engine.generate`.

        No part gets more codes than the model has positions left after its prompt; one that would
        need more, or whose prompt leaves none, comes back as `too_long`.
        """
        parts, members = split_requests(texts, seeds, self._config)
        encoded = self._vocab.text.encode_batch([part.text for part in parts])
        prompts = [speak_prompt(self._vocab, ids) for ids in encoded]
        wanted = [most_codes(part.text) for part in parts]
        room = [self._positions - len(prompt) for prompt in prompts]
        results = [Generation(np.zeros(0, np.int64), False, None, too_long=True)] * len(parts)
        fitting = [i for i in range(len(parts)) if room[i] > 0]
        batches = make_batches([len(prompts[i]) for i in fitting], self._config.batch_size)
        for number, places in enumerate(batches):
            batch = [fitting[place] for place in places]
            decoded = self._decoder.decode(
                [prompts[i] for i in batch],
                [min(wanted[i], room[i]) for i in batch],
                np.array([parts[i].seed for i in batch], dtype=np.uint64),
            )
            for i, (codes, ended) in zip(batch, decoded, strict=True):
                results[i] = Generation(codes, ended, number, not ended and room[i] < wanted[i])
            advance(round(len(texts) * len(batch) / len(parts)))
        return [_join([results[i] for i in own]) for own in members]


def _join(parts: list[Generation]) -> Generation:
    if len(parts) == 1:
        return parts[0]
    codes = np.concatenate([part.codes for part in parts])
    too_long = any(part.too_long for part in parts)
    return Generation(codes, all(part.ended for part in parts), parts[0].batch, too_long)
