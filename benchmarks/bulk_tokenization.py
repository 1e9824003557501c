"""Recordings to code shards, against a plain loop that pads batches of 16 to 30 s.

    python benchmarks/bulk_tokenization.py --speech-tokenizer runs/demo/speech_tokenizer/export \
        --manifest runs/demo/speech/evaluation/manifest.parquet
    python benchmarks/bulk_tokenization.py --gpu      (whisper-large-v3's shape, audio in memory)

The peer is what one writes without the bulk tool: read, pad to 30 s, log-mel of the batch, the same
encoder (transformers' Whisper layers), the same look-up. Both must give the same codes before times
are shown. On a CPU core-seconds are compared, as ours reads with threads of its own.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from common import SMOKE, report, time_pair

from megatron_speech import cli
from megatron_speech.audio import HOP_SAMPLES, SAMPLE_RATE_HZ, log_mel, read_audio
from megatron_speech.data.code_shards import read_code_shards
from megatron_speech.data.manifest import ManifestRow, read_manifest, write_manifest
from megatron_speech.errors import ConfigError
from megatron_speech.speech_tokenizer import SpeechTokenizer, SpeechTokenizerConfig
from megatron_speech.speech_tokenizer.bulk.encoding import ShardEncoder
from megatron_speech.speech_tokenizer.bulk.job import tokenize
from megatron_speech.speech_tokenizer.bulk.plan import TokenizeConfig, TokenizePlan
from megatron_speech.speech_tokenizer.model import SpeechTokenizerModel

_PEER_BATCH = 16
_MOST_DIFFERING = 1e-4


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What is timed."""

    speech_tokenizer: Path | None = None
    """Folder of the speech tokenizer."""
    manifest: Path | None = None
    """Manifest of recordings of at most 30 s."""
    clips: int = 96
    """Recordings that are tokenized."""
    join_s: float = 0.0
    """Join recordings to clips of 0 to twice this length, at most 30 s; 0 leaves them."""
    batch_seconds: float | None = None
    """Audio per batch of ours; none means 240 s, on a GPU 1,920 s."""
    rounds: int = 3
    """Times that both run."""
    gpu: bool = False
    """Time the encoder of whisper-large-v3's shape on a GPU in bf16 instead, random weights."""
    windows: int = 4096
    """With --gpu: windows of 30 s."""

    def __post_init__(self) -> None:
        if not self.gpu and (self.speech_tokenizer is None or self.manifest is None):
            raise ConfigError("--speech-tokenizer and --manifest are needed, or --gpu")

    @property
    def seconds(self) -> float:
        """Audio per batch of ours."""
        return self.batch_seconds or (1920.0 if self.gpu else 240.0)


@torch.no_grad()
def plain_loop(tokenizer: SpeechTokenizer, clips: Iterator[np.ndarray]) -> list[np.ndarray]:
    """Codes of clips of at most 30 s in batches of 16, each padded to a window."""
    config, codes, batch = tokenizer.config, [], []

    def encode() -> None:
        padded = np.zeros((len(batch), config.window_samples), np.float32)
        for row, clip in zip(padded, batch, strict=True):
            row[: len(clip)] = clip
        audio = torch.from_numpy(padded).to(tokenizer.device)
        mel = log_mel(audio, config.num_mel_bins, config.mel_dynamic_range).to(tokenizer.dtype)
        lengths = [-(-len(clip) // HOP_SAMPLES) for clip in batch]
        lower = tokenizer.model.encoder.lower(mel, torch.tensor(lengths, device=tokenizer.device))
        for row, valid in zip(lower.hidden, lower.valid, strict=True):
            codes.append(tokenizer.codes_of(row[valid]).cpu().numpy())
        batch.clear()

    for clip in clips:
        batch.append(clip)
        if len(batch) == _PEER_BATCH:
            encode()
    if batch:
        encode()
    return codes


def differing(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """Share of codes that differ."""
    wrong = sum(int((a != b).sum()) for a, b in zip(ours, theirs, strict=True))
    return wrong / sum(map(len, theirs))


def refuse_if_different(share: float, most: float) -> None:
    if share > most:
        raise SystemExit(f"{share:.2%} of the codes differ; no times are shown")


def files_figures(config: BenchmarkConfig) -> dict[str, Any]:
    """From recordings on the disk to code shards on the disk; loading the model is in our time."""
    assert config.manifest is not None
    assert config.speech_tokenizer is not None
    tokenizer = SpeechTokenizer.from_pretrained(config.speech_tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        rows = read_manifest(config.manifest)
        rows = _joined(rows, config, Path(folder)) if config.join_s else rows[: config.clips]
        seconds = [len(read_audio(row.path)) / SAMPLE_RATE_HZ for row in rows]
        if max(seconds) > 30:
            raise SystemExit("the peer takes recordings of at most 30 s")
        job = _job(Path(folder), rows, config)

        def ours(name: str) -> None:
            tokenize(TokenizePlan.make(replace(job, output=Path(folder) / name), {}))

        def peer() -> list[np.ndarray]:
            return plain_loop(tokenizer, (read_audio(row.path) for row in rows))

        ours("first")
        _, records = read_code_shards(Path(folder) / "first")
        share = differing([record.codes for record in records], peer())
        refuse_if_different(share, _MOST_DIFFERING)
        runs = iter(range(config.rounds + 1))
        clock = time.process_time
        figures = time_pair(lambda: ours(str(next(runs))), peer, config.rounds, clock)
    return _with_speeds(figures, sum(seconds)) | {
        "clips": len(rows),
        "mean_clip_s": sum(seconds) / len(rows),
        "share_of_codes_differing": share,
    }


def _joined(rows: list[ManifestRow], config: BenchmarkConfig, folder: Path) -> list[ManifestRow]:
    """Recordings put together to clips of uniformly distributed lengths."""
    random = np.random.default_rng(0)
    source, clips = iter(rows), []
    for number in range(config.clips):
        wanted = min(random.uniform(0, 2 * config.join_s), 30.0)
        parts = [read_audio(next(source).path)]
        while sum(map(len, parts)) < wanted * SAMPLE_RATE_HZ:
            parts.append(read_audio(next(source).path))
        path = folder / f"{number}.wav"
        soundfile.write(path, np.concatenate(parts)[: 30 * SAMPLE_RATE_HZ], SAMPLE_RATE_HZ)
        clips.append(ManifestRow(id=str(number), path=path, text=""))
    return clips


def _job(folder: Path, rows: list[ManifestRow], config: BenchmarkConfig) -> TokenizeConfig:
    assert config.speech_tokenizer is not None
    write_manifest(folder / "manifest.parquet", rows)
    return TokenizeConfig(
        input=(folder / "manifest.parquet",),
        speech_tokenizer=config.speech_tokenizer,
        output=folder,
        batch_seconds=config.seconds,
        num_workers=2,
    )


def _with_speeds(figures: dict[str, Any], seconds: float) -> dict[str, Any]:
    return figures | {
        "hours": seconds / 3600,
        "ours_x_real_time": seconds / figures["ours_s"],
        "peer_x_real_time": seconds / figures["peer_s"],
    }


def gpu_figures(config: BenchmarkConfig) -> dict[str, Any]:
    """Mel, 16 layers and look-up of whisper-large-v3's shape in bf16, audio in host memory.

    At smoke size a small shape, without a GPU on the CPU.
    """
    torch.manual_seed(0)
    shape = SpeechTokenizerConfig(quantize_encoder_only=True)
    if SMOKE:
        layers = {"encoder_layers": 4, "pooling_position": 2, "quantize_position": 2}
        shape = replace(shape, d_model=160, encoder_ffn_dim=320, quantize_vocab_size=256, **layers)
    device = "cpu" if SMOKE and not torch.cuda.is_available() else "cuda"
    model = SpeechTokenizerModel(shape, "sdpa").to(device)
    tokenizer = SpeechTokenizer(model)
    random = np.random.default_rng(0)
    pool = [0.1 * random.standard_normal(shape.window_samples, np.float32) for _ in range(64)]
    _spread_codebook(tokenizer, pool[:8])
    checked = pool[: 4 if SMOKE else 16]
    share = differing(tokenizer.encode(checked), plain_loop(tokenizer, iter(checked)))
    refuse_if_different(share, 1e-3)  # fp32; batches of another shape
    tokenizer._round_encoder(torch.bfloat16)
    windows = [pool[number % len(pool)] for number in range(config.windows)]

    def ours() -> None:
        encoder = ShardEncoder(tokenizer, round(config.seconds * SAMPLE_RATE_HZ))
        for number, window in enumerate(windows):
            encoder.add(number, window)
        encoder.finish()

    def peer() -> None:
        plain_loop(tokenizer, iter(windows))

    figures = _with_speeds(time_pair(ours, peer, config.rounds), 30.0 * len(windows))
    figures |= {"windows": len(windows), "share_of_codes_differing_fp32": share}
    if torch.cuda.is_available():
        figures["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    return figures


@torch.no_grad()
def _spread_codebook(tokenizer: SpeechTokenizer, windows: list[np.ndarray]) -> None:
    """Codes among the vectors that the random encoder gives, so that look-ups are no ties."""
    quantizer = tokenizer.model.encoder.quantizer
    assert quantizer is not None
    audio = torch.from_numpy(np.stack(windows)).to(tokenizer.device)
    mel = log_mel(audio, tokenizer.config.num_mel_bins)
    lengths = torch.full((len(windows),), mel.shape[-1], device=mel.device)
    hidden = tokenizer.model.encoder.lower(mel, lengths).hidden.flatten(0, 1)
    chosen = torch.randint(len(hidden), (len(quantizer.codebook.weight),), device=mel.device)
    noise = hidden.std() * torch.randn_like(quantizer.codebook.weight)
    quantizer.codebook.weight.copy_(hidden[chosen] + 0.5 * noise)


def main() -> None:
    config = cli.parse(BenchmarkConfig, None, __doc__ or "")
    started = time.monotonic()
    name = "bulk_tokenization_joined" if config.join_s else "bulk_tokenization"
    if config.gpu:
        name, figures = "bulk_tokenization_gpu", gpu_figures(config)
    else:
        figures = files_figures(config)
    figures["batch_seconds"] = config.seconds
    figures["took_s"] = time.monotonic() - started
    report(name, "a plain loop of batches of 16 padded to 30 s", figures)


if __name__ == "__main__":
    main()
