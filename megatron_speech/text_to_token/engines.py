"""Text-to-token engines: texts in, codes out.

An engine is anything with what `Engine` lists. `PromptEngine` does what all of them share: long
texts are split and their codes joined, voices chosen, prompts built and limits set. To add one,
write its `decode` and name it in choose_engine.py. What is decoded together is a pure function of
the request shard.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from ..data.templates import speak_prompt, voiced_text
from ..errors import CheckpointError, ConfigError, require_within
from ..io.files import find_in, fingerprint_of, fingerprint_of_files, read_json_object
from ..io.model_folders import refuse_code
from ..jobs.randomness import random_bits
from ..text.sentences import sentence_splitter, split_sentences
from ..text.vocab import SpeechTextVocab
from ..training.devices import require_device

_PART_PURPOSE, _VOICE_PURPOSE = 101, 103
_ENDLESS = 1 << 62  # positions of a model that names no limit


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How text-to-token codes are generated."""

    engine: Literal["transformers", "vllm"] = "transformers"
    """transformers runs here; vllm in an environment of its own (--vllm-python)."""
    vllm_python: Path | None = None
    """Python of an environment that has vLLM."""
    vllm_cache_gib: float = 4.0
    """Memory for keys and values of vLLM; fixed, so that batches do not depend on what is free."""
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
    language: str = "en"
    """Language of the texts (ISO 639-1), for sentence ends and for reading codes back."""
    voices: tuple[str, ...] = ()
    """Tags of voices the model was trained with ("en, p225"); each text gets one of them by chance.
    None for a model trained without tags."""

    def __post_init__(self) -> None:
        require_device(self.device, here=False)
        require_within(self, 1, "batch_size", "most_characters")
        require_within(self, 0, "temperature")
        if (self.engine == "vllm") != (self.vllm_python is not None):
            raise ConfigError(
                "--engine vllm needs --vllm-python, the Python of an environment with vLLM "
                "(make test-vllm builds one), and no other engine takes it"
            )

    def require_here(self) -> None:
        """Refuse a device that this machine has not; vLLM's environment may have another torch."""
        require_device(self.device, here=self.engine != "vllm")


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
        *,
        sample: int = ...,
    ) -> list[Generation]:
        """One result per text; `most_codes` bounds codes, `advance` hears of texts done.

        `sample` numbers independent samples of the same texts in the same voices.
        """
        ...


@dataclass(frozen=True)
class Part:
    """A text, or a sentence group of a long one, to be decoded on its own."""

    text: str
    seed: int
    voice: str | None = None


def split_requests(
    texts: Sequence[str], seeds: Sequence[int], config: EngineConfig, sample: int = 0
) -> tuple[list[Part], list[list[int]]]:
    """The distinct parts to decode, and for each text the parts that make it up.

    Without sampling, equal texts in one voice have equal codes and are decoded once.
    """
    parts: list[Part] = []
    members: list[list[int]] = []
    known: dict[tuple[str, str | None], int] = {}
    for text, seed in zip(texts, seeds, strict=True):
        voice = voice_of(seed, config)
        own: list[int] = []
        for number, piece in enumerate(
            split_sentences(text, config.most_characters, config.language)
        ):
            if config.temperature == 0 and (piece, voice) in known:
                own.append(known[piece, voice])
                continue
            known[piece, voice] = len(parts)
            own.append(len(parts))
            parts.append(Part(piece, _bits(seed, _PART_PURPOSE, number + (sample << 32)), voice))
        members.append(own)
    return parts, members


def voice_of(seed: int, config: EngineConfig) -> str | None:
    """The voice that a request of this seed is spoken in, in all its samples."""
    if not config.voices:
        return None
    return config.voices[_bits(seed, _VOICE_PURPOSE, 0) % len(config.voices)]


def _bits(seed: int, purpose: int, number: int) -> int:
    key = np.array([seed], dtype=np.uint64)
    return int(random_bits(key, purpose, np.array([number]))[0])


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
        CheckpointError: the folder holds no model, or one that wants code of its own to be run.
        VocabularyError: the folder holds no speech-text vocabulary.
    """
    weights = find_in(model, "*.safetensors")
    if not weights or not (model / "config.json").exists():
        raise CheckpointError(
            f"{model} holds no exported model (config.json and *.safetensors); make one with "
            "tools/convert_checkpoint.py megatron-to-hf"
        )
    refuse_code(model)
    vocab = SpeechTextVocab.from_pretrained(model)
    settings = {k: v for k, v in asdict(config).items() if k not in ("device", "vllm_python")}
    fingerprint = fingerprint_of(
        fingerprint_of_files(model / "config.json", *weights),
        vocab.fingerprint,
        repr(sorted(settings.items())),
        sentence_splitter(config.language),
    )
    return Identity(vocab, fingerprint)


class PromptEngine(ABC):
    """Prompts, limits, voices and the joining of long texts around a `decode` of token ids.

    Raises:
        CheckpointError: the folder holds no model, or one smaller than its vocabulary.
        VocabularyError: the folder holds no speech-text vocabulary.
    """

    def __init__(self, model: Path, config: EngineConfig):
        known = identify(model, config)
        self.vocab, self.fingerprint = known.vocab, known.fingerprint
        self.config = config
        self.num_codes = self.vocab.num_codes
        self.speech_tokenizer = self.vocab.speech_tokenizer
        shape = read_json_object(model / "config.json", vocab_size=int)
        if shape["vocab_size"] < self.vocab.size:
            raise CheckpointError(
                f"{model}: the model has {shape['vocab_size']} rows, its vocabulary "
                f"{self.vocab.size} tokens; export it again"
            )
        self.positions: int = shape.get("max_position_embeddings") or _ENDLESS

    @abstractmethod
    def decode(
        self,
        prompts: Sequence[np.ndarray],
        most_codes: Sequence[int],
        seeds: np.ndarray,
        advance: Callable[[int], None],
        only: Collection[int] | None = None,
    ) -> list[Generation]:
        """Continue prompts (n,) of token ids by codes; `advance` hears of prompts done.

        With `only`, what the other prompts come to does not matter and need not be decoded.
        """

    def generate(
        self,
        texts: Sequence[str],
        seeds: Sequence[int],
        most_codes: Callable[[str], int],
        advance: Callable[[int], None] = lambda count: None,
        only: Collection[int] | None = None,
        *,
        sample: int = 0,
    ) -> list[Generation]:
        """Decode all texts, or replay what the call came to for `only` some; see `Engine.generate`.

        No part gets more codes than the model has positions left after its prompt; one that would
        need more, or whose prompt leaves none, comes back as `too_long`.
        """
        parts, members = split_requests(texts, seeds, self.config, sample)
        voiced = [voiced_text(part.text, part.voice) for part in parts]
        prompts = [speak_prompt(self.vocab, ids) for ids in self.vocab.text.encode_batch(voiced)]
        wanted = [most_codes(part.text) for part in parts]
        room = [self.positions - len(prompt) for prompt in prompts]
        results = [Generation(np.zeros(0, np.int64), False, None, too_long=True)] * len(parts)
        fitting = [i for i in range(len(parts)) if room[i] > 0]
        asked = {part for text in only or () for part in members[text]}
        decoded = self.decode(
            [prompts[i] for i in fitting],
            [min(wanted[i], room[i]) for i in fitting],
            np.array([parts[i].seed for i in fitting], dtype=np.uint64),
            lambda count: advance(round(len(texts) * count / len(parts))),
            None if only is None else [n for n, i in enumerate(fitting) if i in asked],
        )
        for i, result in zip(fitting, decoded, strict=True):
            cut_off = not result.ended and room[i] < wanted[i]
            results[i] = replace(result, too_long=cut_off)
        return [_join([results[i] for i in own]) for own in members]


def _join(parts: list[Generation]) -> Generation:
    if len(parts) == 1:
        return parts[0]
    codes = np.concatenate([part.codes for part in parts])
    too_long = any(part.too_long for part in parts)
    return Generation(codes, all(part.ended for part in parts), parts[0].batch, too_long)
