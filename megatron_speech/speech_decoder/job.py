"""Many utterances to audio files: from code shards, from recordings, from a model's output."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from ..audio import read_audio
from ..data.code_shards import find_shards, read_code_shards
from ..data.list_files import read_jsonl_rows
from ..errors import AudioError, ConfigError, DataError, VocabularyError
from ..io.audio_files import encoded
from ..io.files import atomic_path, fingerprint_of, fingerprint_of_files
from ..io.rejected import Rejected, describe_counts, write_rejected
from ..jobs.claims import exclusive
from ..jobs.folders import same_job
from ..jobs.progress import Progress
from ..speech_tokenizer.opened import open_speech_tokenizer
from ..text.vocab import SpeechTextVocab
from ..training.devices import require_device
from .decoder import SpeechDecoder
from .stream import feed_all

_LOUDEST = 32767 / 32768


@dataclass(frozen=True, kw_only=True)
class DecodeSpeechConfig:
    """What to speak. Exactly one of --codes, --audio and --generated is given."""

    decoder: Path
    """Folder of the speech decoder."""
    output: Path
    """Folder for one FLAC file of 22,050 Hz an utterance, named by its id."""
    codes: tuple[Path, ...] = ()
    """Code shards, or folders of them."""
    audio: tuple[Path, ...] = ()
    """Recordings of any rate, which go through --speech-tokenizer and back."""
    generated: Path | None = None
    """JSON lines of a language model's output: `id`, and `tokens` (ids of its vocabulary, text
    among them is left out)."""
    vocab: Path | None = None
    """Vocabulary folder, or exported model, of --generated."""
    speech_tokenizer: Path | None = None
    """Folder of the speech tokenizer for --audio."""
    vocoder: Path | None = None
    """Vocoder to use instead of the one in --decoder."""
    speaker: str | None = None
    """Voice, if the decoder has an embedding of it."""
    streaming: bool = False
    """Feed the codes block by block and report how soon the audio comes."""
    euler_steps: int | None = None
    """Euler steps instead of the decoder's own number."""
    guidance: float | None = None
    """Strength of classifier-free guidance instead of the decoder's own."""
    temperature: float | None = None
    """Standard deviation of the noise instead of the decoder's own."""
    seed: int = 0
    """Of the noise."""
    limit: int | None = None
    """Utterances, from the start."""
    device: str = "cpu"
    """Torch device."""

    def __post_init__(self) -> None:
        require_device(self.device)
        given = [bool(self.codes), bool(self.audio), self.generated is not None]
        if sum(given) != 1:
            raise ConfigError("give exactly one of --codes, --audio and --generated")
        if self.audio and self.speech_tokenizer is None:
            raise ConfigError("--audio needs --speech-tokenizer to make codes of recordings")
        if self.generated is not None and self.vocab is None:
            raise ConfigError("--generated holds token ids; name their --vocab")


@dataclass(frozen=True, kw_only=True)
class DecodeSummary:
    """What was made."""

    spoken: int
    """Files written now."""
    reused: int
    """Files found finished."""
    audio_s: float
    """Seconds of audio written now."""
    seconds: float
    """How long their decoding took, without reading and writing."""
    first_audio_s: float | None
    """With --streaming: mean time from a first whole block of codes to its audio."""
    rejected: dict[str, int]
    """Utterances set aside, by reason."""


Item = tuple[str, np.ndarray] | Rejected


def decode_files(config: DecodeSpeechConfig) -> DecodeSummary:
    """Write `OUTPUT/ID.flac` for each utterance; those that exist are kept.

    Raises:
        ConfigError: codes of another speech tokenizer or frame rate than the decoder's, or an
            output folder begun with another decoder, other settings or another input.
        DataError: nothing to speak, or not one usable utterance.
        InUseError: another process speaks into the folder.
    """
    rejected: list[Rejected] = []
    seen: set[str] = set()
    spoken = reused = 0
    audio_s = seconds = 0.0
    first: list[float] = []
    with exclusive(config.output, inside=True):
        decoder = open_decoder(config)
        items = _items(config, decoder)
        _check_same_job(config, decoder)
        with Progress("decoding", None, "utterances") as progress:
            for item in items:
                progress.advance()
                found = item if isinstance(item, Rejected) else _flaw(item, decoder, seen)
                if found is not None:
                    rejected.append(found)
                    continue
                assert not isinstance(item, Rejected)
                seen.add(item[0])
                path = config.output / f"{quote(item[0], safe=' ')}.flac"
                if path.exists():
                    reused += 1
                    continue
                started = time.monotonic()
                if config.streaming:
                    stream = decoder.stream(config.seed, config.speaker)
                    parts, soon = feed_all(stream, item[1])
                    audio = np.concatenate(parts)
                    first += [soon] if soon is not None else []
                else:
                    audio = decoder.decode(item[1], config.seed, config.speaker)
                seconds += time.monotonic() - started
                write_flac(path, audio)
                spoken, audio_s = spoken + 1, audio_s + len(audio) / decoder.sample_rate_hz
        counts = write_rejected(config.output / "rejected.jsonl", rejected)
    if not spoken + reused:
        raise DataError(f"no usable utterance; set aside: {describe_counts(counts)}")
    return DecodeSummary(
        spoken=spoken,
        reused=reused,
        audio_s=audio_s,
        seconds=seconds,
        first_audio_s=float(np.mean(first)) if first else None,
        rejected=counts,
    )


def open_decoder(config: DecodeSpeechConfig) -> SpeechDecoder:
    """The decoder with what the command line changes about its sampling."""
    decoder = SpeechDecoder.from_pretrained(config.decoder, config.device, config.vocoder)
    names = ("euler_steps", "guidance", "temperature")
    changes = {n: getattr(config, n) for n in names if getattr(config, n) is not None}
    decoder.sample_by(replace(decoder.config.sampling, **changes))
    decoder.speaker_number(config.speaker)
    return decoder


def write_flac(path: Path, audio: np.ndarray) -> None:
    """Mono float audio (n,) as 16-bit FLAC of 22,050 Hz, whole or not at all."""
    limited = np.clip(audio, -_LOUDEST, _LOUDEST)
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded(limited, SpeechDecoder.sample_rate_hz))


def _flaw(item: tuple[str, np.ndarray], decoder: SpeechDecoder, seen: set[str]) -> Rejected | None:
    name, codes = item
    if name in seen:
        return Rejected(name, "duplicate_id", "the first utterance of this id is spoken")
    if not len(codes):
        return Rejected(name, "no_codes", "there is nothing to speak")
    if not 0 <= codes.min() <= codes.max() < decoder.num_codes:
        detail = f"codes {codes.min()}..{codes.max()}, expected 0..{decoder.num_codes - 1}"
        return Rejected(name, "code_out_of_range", detail)
    return None


def _items(config: DecodeSpeechConfig, decoder: SpeechDecoder) -> Iterator[Item]:
    if config.codes:
        items = _of_shards(config, decoder)
    elif config.audio:
        items = _of_recordings(config, decoder)
    else:
        items = _of_tokens(config, decoder)
    return islice(items, config.limit or None)


def _of_shards(config: DecodeSpeechConfig, decoder: SpeechDecoder) -> Iterator[Item]:
    info, records = read_code_shards(config.codes)
    decoder.check_codes_of(info.frame_rate_hz, info.num_codes, info.tokenizer_fingerprint)
    return ((record.id, record.codes) for record in records)


def _of_recordings(config: DecodeSpeechConfig, decoder: SpeechDecoder) -> Iterator[Item]:
    assert config.speech_tokenizer is not None
    tokenizer = open_speech_tokenizer(config.speech_tokenizer, config.device)
    decoder.check_codes_of(tokenizer.frame_rate_hz, tokenizer.num_codes, tokenizer.fingerprint)
    for path in config.audio:
        try:
            yield path.stem, tokenizer.encode([read_audio(path)])[0]
        except AudioError as error:
            yield Rejected(path.stem, error.reason, str(error))


def _of_tokens(config: DecodeSpeechConfig, decoder: SpeechDecoder) -> Iterator[Item]:
    assert config.generated is not None
    assert config.vocab is not None
    vocab = SpeechTextVocab.as_it_is(config.vocab)
    if vocab.num_codes != decoder.num_codes:
        raise ConfigError(
            f"--vocab {config.vocab} has {vocab.num_codes} codes, the speech decoder "
            f"{decoder.num_codes}; they belong to different speech tokenizers"
        )
    vocab.require_speech_tokenizer(decoder.fingerprint, "the speech decoder", "--generated")
    for row in read_jsonl_rows(config.generated, "tokens"):
        if isinstance(row, Rejected):
            yield row
            continue
        name = str(row.values.get("id") or f"{config.generated.stem}-{row.number:07d}")
        try:
            tokens = np.asarray(row.values["tokens"], dtype=np.int64)
            yield name, vocab.tokens_to_codes(tokens[vocab.is_speech(tokens)])
        except (ValueError, TypeError, OverflowError, VocabularyError) as error:
            yield Rejected(name, "bad_tokens", str(error)[:200])


def _check_same_job(config: DecodeSpeechConfig, decoder: SpeechDecoder) -> None:
    """Refuse sound made by another decoder, by other settings or of another input."""
    weights = [decoder.flow, decoder.vocoder]
    tensors = [v for model in weights for _, v in sorted(model.state_dict().items())]
    bytes_of = [value.cpu().float().numpy().tobytes() for value in tensors]
    job: dict[str, Any] = {
        "decoder": fingerprint_of(json.dumps(decoder.config.to_dict()), *bytes_of),
        "speaker": config.speaker,
        "seed": config.seed,
        "input": _fingerprint_of_input(config),
    }
    path = config.output / "job.json"
    if not any(config.output.glob("*.flac")):
        path.unlink(missing_ok=True)
    same_job(path, job)


def _fingerprint_of_input(config: DecodeSpeechConfig) -> str:
    """Of what is in the files, and of their names: a recording's is its id."""
    paths = find_shards(config.codes) if config.codes else list(config.audio)
    parts = []
    if config.generated is not None and config.vocab is not None:
        paths = [config.generated]
        parts.append(SpeechTextVocab.as_it_is(config.vocab).fingerprint)
    for path in paths:
        parts += [path.stem, fingerprint_of_files(path) if path.is_file() else "no file"]
    return fingerprint_of(*parts)
