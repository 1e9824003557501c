"""How good decoded speech is: the same sentences recorded, by Griffin-Lim, decoded and streamed.

Rows of the table: `real` recordings; `griffin_lim` of the recordings' own spectrograms, what no
training at all gives; `vocoder` of the same spectrograms, what the flow model could reach at best;
`offline` and `streaming`, codes decoded at once and block by block.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..audio import Excerpt, read_audio, resample
from ..data.manifest import ManifestRow, read_manifest
from ..errors import AudioError, ConfigError, DataError, require_within
from ..jobs.progress import track
from ..speech_decoder.decoder import SpeechDecoder
from ..speech_decoder.job import write_flac
from ..speech_decoder.mel import griffin_lim, log_mel
from ..speech_decoder.stream import feed_all
from ..speech_tokenizer.opened import OpenedSpeechTokenizer, open_speech_tokenizer
from ..speech_tokenizer.transcription import word_error_rate
from ..training.devices import require_device
from .recognisers import CodeRecogniser, Recogniser, ScriptedJudge, WhisperRecogniser
from .seams import seam_figures

ROWS = ("real", "griffin_lim", "vocoder", "offline", "streaming")
_SAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class EvaluateDecoderConfig:
    """Which decoder to judge, on which recordings."""

    decoder: Path
    """Folder of the speech decoder."""
    speech_tokenizer: Path
    """Folder of the speech tokenizer whose codes it speaks, recogniser included."""
    manifest: Path
    """Recordings with texts that were not trained on."""
    output: Path | None = None
    """JSON file for the results."""
    audio: Path | None = None
    """Folder for a few recordings as every row of the table has them."""
    vocoder: Path | None = None
    """Vocoder to use instead of the one in --decoder."""
    voice: str | None = None
    """Use this speaker's recordings alone."""
    speaker: str | None = None
    """Voice to speak with; by default that of each recording, where the decoder knows it."""
    limit: int | None = None
    """Recordings, from the start."""
    recognisers: tuple[Literal["tokenizer", "whisper"], ...] = ("tokenizer",)
    """Who reads: the speech tokenizer's own ASR, and an independent Whisper."""
    whisper: Path | None = None
    """The Whisper that reads: a folder (transformers, safetensors), or an id of the hub."""
    speaker_model: Path | None = None
    """TorchScript file, audio (1, n) of 16 kHz to a speaker embedding: adds speaker similarity."""
    utmos_model: Path | None = None
    """TorchScript file, audio (1, n) of 16 kHz to a score: adds UTMOS."""
    language: str = "en"
    """Language of the texts (ISO 639-1)."""
    seed: int = 0
    """Of the decoder's noise."""
    device: str = "cpu"
    """Torch device."""

    def __post_init__(self) -> None:
        require_device(self.device)
        require_within(self, 1, "limit")
        if ("whisper" in self.recognisers) != (self.whisper is not None):
            raise ConfigError(
                "--recognisers whisper and --whisper with its folder go together; "
                f"got --recognisers {' '.join(self.recognisers)} and --whisper {self.whisper}"
            )


@dataclass
class _Clip:
    """A recording and what was made of it; audio (n,) at 22,050 Hz."""

    row: ManifestRow
    real_16_khz: np.ndarray
    audio: dict[str, np.ndarray] = field(default_factory=dict)
    seams: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def evaluate_decoder(config: EvaluateDecoderConfig) -> dict[str, Any]:
    """Figures by row of the table, under `rows`, and of the streaming under `streaming`.

    Raises:
        ConfigError: a decoder of another speech tokenizer, or a --speaker that it does not know.
        DataError: no recording with a text that can be read.
    """
    tokenizer = open_speech_tokenizer(config.speech_tokenizer, config.device)
    decoder = SpeechDecoder.from_pretrained(config.decoder, config.device, config.vocoder)
    decoder.check_codes_of(tokenizer.frame_rate_hz, tokenizer.num_codes, tokenizer.fingerprint)
    decoder.speaker_number(config.speaker)
    readers = _recognisers(config, tokenizer)
    judges = {
        name: ScriptedJudge(path, config.device)
        for name, path in (("speaker", config.speaker_model), ("utmos", config.utmos_model))
        if path is not None
    }
    clips = _read_clips(config)
    for clip in track(clips, "decoding", len(clips), "recordings"):
        known = clip.row.speaker if clip.row.speaker in decoder.config.speakers else None
        _make_rows(clip, tokenizer, decoder, config.seed, config.speaker or known)
    rows = {row: _figures(clips, row, readers, judges, config.language) for row in ROWS}
    if config.audio is not None:
        for clip in clips[:_SAMPLES]:
            for row in ROWS:
                write_flac(
                    config.audio / f"{clip.row.id.replace('/', '-')}.{row}.flac", clip.audio[row]
                )
    return {
        "recordings": len(clips),
        "frame_rate_hz": decoder.frame_rate_hz,
        "rows": rows,
        "streaming": _streaming_figures(clips),
    }


def _recognisers(
    config: EvaluateDecoderConfig, tokenizer: OpenedSpeechTokenizer
) -> dict[str, Recogniser]:
    readers: dict[str, Recogniser] = {}
    if "tokenizer" in config.recognisers:
        readers["tokenizer"] = CodeRecogniser(tokenizer, config.language)
    if config.whisper is not None:
        readers["whisper"] = WhisperRecogniser(config.whisper, config.language, config.device)
    return readers


def _read_clips(config: EvaluateDecoderConfig) -> list[_Clip]:
    rows = [row for row in read_manifest(config.manifest) if config.voice in (None, row.speaker)]
    clips = []
    unreadable: list[str] = []
    for row in rows[: config.limit]:
        try:
            clip = _Clip(row, read_audio(row.path))
            clip.audio["real"] = read_audio(row.path, Excerpt(rate_hz=SpeechDecoder.sample_rate_hz))
        except AudioError as error:
            unreadable.append(str(error))
            continue
        if row.text.strip():
            clips.append(clip)
    if unreadable:
        print(f"{len(unreadable)} recordings cannot be read; the first: {unreadable[0]}")
    if not clips:
        raise DataError(
            f"{config.manifest} has no readable recording with a text"
            + (f" of the voice {config.voice!r}" if config.voice else "")
        )
    return clips


def _make_rows(
    clip: _Clip,
    tokenizer: OpenedSpeechTokenizer,
    decoder: SpeechDecoder,
    seed: int,
    speaker: str | None,
) -> None:
    codes = tokenizer.encode([clip.real_16_khz])[0]
    mel = log_mel(torch.from_numpy(clip.audio["real"])[None].to(decoder.device))
    with torch.no_grad():
        clip.audio["griffin_lim"] = griffin_lim(mel[0]).cpu().numpy()
        clip.audio["vocoder"] = decoder.vocoder(mel)[0].float().cpu().numpy()
    started = time.monotonic()
    clip.audio["offline"] = decoder.decode(codes, seed, speaker)
    clip.seconds["offline"] = time.monotonic() - started
    parts, joints = _stream(decoder, codes, seed, speaker, clip.seconds)
    clip.audio["streaming"] = np.concatenate(parts)
    clip.seams = seam_figures(
        clip.audio["streaming"], clip.audio["offline"], joints, decoder.sample_rate_hz
    )


def _stream(
    decoder: SpeechDecoder,
    codes: np.ndarray,
    seed: int,
    speaker: str | None,
    seconds: dict[str, float],
) -> tuple[list[np.ndarray], list[int]]:
    """Audio by blocks, and the samples at which blocks of codes or pieces of audio meet."""
    stream, started = decoder.stream(seed, speaker), time.monotonic()
    parts, soon = feed_all(stream, codes)
    seconds["streaming"] = time.monotonic() - started
    if soon is not None:
        seconds["first_audio"] = soon
    pieces = np.cumsum([len(part) for part in parts])[:-1].tolist()
    blocks = range(stream.block_codes, len(codes), stream.block_codes)
    return parts, pieces + [n * decoder.config.samples_per_code for n in blocks]


def _figures(
    clips: list[_Clip],
    row: str,
    readers: dict[str, Recogniser],
    judges: dict[str, ScriptedJudge],
    language: str,
) -> dict[str, float]:
    rate = SpeechDecoder.sample_rate_hz
    audio = [
        clip.real_16_khz if row == "real" else resample(clip.audio[row], rate).clip(-2, 2)
        for clip in clips
    ]
    texts = [clip.row.text for clip in clips]
    figures = {}
    for name, reader in readers.items():
        figures[f"wer_{name}"] = word_error_rate(texts, reader.read(audio), language)
    figures["mel_distance"] = float(
        np.mean([_mel_distance(clip.audio[row], clip.audio["real"]) for clip in clips])
    )
    if "speaker" in judges:
        pairs = [
            (judges["speaker"](a), judges["speaker"](c.real_16_khz))
            for a, c in zip(audio, clips, strict=True)
        ]
        figures["speaker_similarity"] = float(np.mean([_cosine(*pair) for pair in pairs]))
    if "utmos" in judges:
        figures["utmos"] = float(np.mean([judges["utmos"](clip)[0] for clip in audio]))
    return figures


def _mel_distance(made: np.ndarray, real: np.ndarray) -> float:
    """Mean absolute difference of log-mels over the frames that both have."""
    ours, theirs = (log_mel(torch.from_numpy(audio)[None])[0] for audio in (made, real))
    size = min(ours.shape[1], theirs.shape[1])
    return (ours[:, :size] - theirs[:, :size]).abs().mean().item()


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / max(float(np.linalg.norm(one) * np.linalg.norm(other)), 1e-9))


def _streaming_figures(clips: list[_Clip]) -> dict[str, float]:
    """Seams: worst difference and jump, mean level errors; speed over all clips."""
    worst = ("largest_difference", "largest_jump_ratio")
    mean = ("joint_energy_error_db", "other_energy_error_db")
    audio_s = sum(len(clip.audio["streaming"]) for clip in clips) / SpeechDecoder.sample_rate_hz
    first = [clip.seconds["first_audio"] for clip in clips if "first_audio" in clip.seconds]
    return {
        **{name: max(clip.seams[name] for clip in clips) for name in worst},
        **{name: float(np.mean([clip.seams[name] for clip in clips])) for name in mean},
        "first_audio_s": float(np.mean(first)) if first else float("nan"),
        "realtime_factor": sum(clip.seconds["streaming"] for clip in clips) / audio_s,
        "realtime_factor_offline": sum(clip.seconds["offline"] for clip in clips) / audio_s,
    }
