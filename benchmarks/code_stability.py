"""Do a clip's codes depend on anything but the clip? Batch mates, order, chunks, later audio.

Beside that: what the released look-up (distances rounded in the model's dtype) changes of them.

python benchmarks/code_stability.py --speech-tokenizer runs/demo/speech_tokenizer/export \
    --manifest runs/demo/speech/evaluation/manifest.parquet
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from common import report

from megatron_speech.audio import SAMPLE_RATE_HZ, read_audio
from megatron_speech.data.manifest import read_manifest
from megatron_speech.errors import ConfigError
from megatron_speech.jobs import cli
from megatron_speech.jobs.progress import track
from megatron_speech.speech_tokenizer import SpeechTokenizer

_LOOK_AHEAD_SAMPLES = 40  # 2.5 ms
Codes = Sequence[np.ndarray]


@dataclass(frozen=True, kw_only=True)
class StabilityConfig:
    """What is measured on what."""

    speech_tokenizer: Path
    """Folder of the speech tokenizer."""
    manifest: Path
    """Manifest of recordings; they are joined, and clips are cut from anywhere."""
    clips: int = 1000
    """Clips encoded alone, in batches of mixed lengths, and in another order."""
    streams: int = 200
    """Clips that are streamed in random chunks."""
    lookups: int = 12
    """Clips encoded with the released look-up, too, and in bf16; slow where a CPU has no bf16."""
    shortest_s: float = 0.05
    """Shortest clip; lengths are log-uniform."""
    longest_s: float = 45.0
    """Longest clip."""
    seed: int = 0
    """Seed of the clips, orders and chunks."""
    device: str = "cpu"
    """Where the encoder runs."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the encoder; the codebook stays fp32."""

    def __post_init__(self) -> None:
        if (
            not 0 < self.shortest_s < self.longest_s
            or min(self.clips, self.streams, self.lookups) < 1
        ):
            raise ConfigError("--shortest-s must lie below --longest-s, and some clips are needed")


def cut_clips(config: StabilityConfig, random: np.random.Generator) -> list[np.ndarray]:
    """Clips of log-uniform length, the shortest and the longest among them."""
    rows = read_manifest(config.manifest)
    chosen = random.permutation(len(rows))
    audio, enough = [], 8 * config.longest_s * SAMPLE_RATE_HZ
    for index in chosen:
        audio.append(read_audio(rows[index].path))
        if sum(map(len, audio)) > enough:
            break
    joined = np.concatenate(audio)
    lengths = np.exp(random.uniform(*np.log([config.shortest_s, config.longest_s]), config.clips))
    lengths[:2] = config.shortest_s, config.longest_s
    sizes = np.minimum((lengths * SAMPLE_RATE_HZ).astype(int), len(joined) - 1)
    starts = random.integers(0, len(joined) - sizes)
    return [joined[at : at + size] for at, size in zip(starts, sizes, strict=True)]


def differences(found: Codes, expected: Codes) -> dict[str, Any]:
    """Codes that differ, of how many, in how many clips."""
    wrong = [int((a != b).sum()) for a, b in zip(found, expected, strict=True)]
    total = sum(map(len, expected))
    return {
        "codes": total,
        "differing": sum(wrong),
        "rate": sum(wrong) / total,
        "clips_with_any": sum(map(bool, wrong)),
    }


def batch_figures(
    tokenizer: SpeechTokenizer, clips: list[np.ndarray], random: np.random.Generator
) -> dict[str, Any]:
    """Codes in large batches, and in small ones of another order, against each clip alone."""
    alone = [tokenizer.encode([clip])[0] for clip in track(clips, "alone")]
    together = tokenizer.encode(clips)
    order = random.permutation(len(clips))
    groups = np.split(order, np.cumsum(random.integers(1, 32, len(clips) // 8)))
    shuffled: dict[int, np.ndarray] = {}
    for group in track([group for group in groups if len(group)], "in other orders"):
        codes = tokenizer.encode([clips[index] for index in group])
        shuffled |= dict(zip(group.tolist(), codes, strict=True))
    other = [shuffled[index] for index in range(len(clips))]
    return {
        "distinct_codes_seen": len(set(np.concatenate(alone).tolist())),
        "large_batches": differences(together, alone),
        "other_orders": differences(other, alone),
    }


def streamed(
    tokenizer: SpeechTokenizer, clip: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Codes of a clip fed in chunks of 1 to 50,000 samples, log-uniform."""
    stream, parts, at = tokenizer.stream(), [], 0
    while at < len(clip):
        size = int(np.exp(random.uniform(0, np.log(50_000))))
        parts.append(stream.feed(clip[at : at + size]))
        at += size
    return np.concatenate([*parts, stream.finish()])


def stream_figures(
    tokenizer: SpeechTokenizer, clips: list[np.ndarray], random: np.random.Generator
) -> dict[str, Any]:
    """Streaming against the whole clip, with the tokenizer's own floor and with Whisper's."""
    figures = {}
    for name in dict.fromkeys((tokenizer.config.mel_dynamic_range, "clip_maximum")):
        ruled = SpeechTokenizer(tokenizer.model)
        ruled.config = replace(tokenizer.config, mel_dynamic_range=name)
        found = [streamed(ruled, clip, random) for clip in track(clips, f"streaming, {name}")]
        figures[f"streaming_{name}"] = differences(found, ruled.encode(clips))
    return figures


def causality_figures(
    tokenizer: SpeechTokenizer, clips: list[np.ndarray], random: np.random.Generator
) -> dict[str, Any]:
    """Codes of finished blocks after all audio 2.5 ms behind a block's end was replaced."""
    before, after = [], []
    block_samples = round(tokenizer.stream().block_s * SAMPLE_RATE_HZ)
    codes_per_block = block_samples // tokenizer.config.samples_per_code
    longest = tokenizer.config.window_samples
    usable = [c[:longest] for c in clips if len(c) > block_samples + _LOOK_AHEAD_SAMPLES]
    for clip in track(usable, "changing later audio"):
        blocks = int(random.integers(1, (len(clip) - _LOOK_AHEAD_SAMPLES) // block_samples + 1))
        changed = clip.copy()
        tail = changed[blocks * block_samples + _LOOK_AHEAD_SAMPLES :]
        tail[:] = random.uniform(-1, 1, len(tail))
        whole, other = tokenizer.encode([clip])[0], tokenizer.encode([changed])[0]
        before.append(whole[: blocks * codes_per_block])
        after.append(other[: blocks * codes_per_block])
    return {"later_audio": differences(after, before)}


def lookup_figures(config: StabilityConfig, clips: list[np.ndarray]) -> dict[str, Any]:
    """The released look-up and a bf16 encoder against the exact look-up behind an fp32 one."""
    codes = {}
    for dtype in (torch.float32, torch.bfloat16):
        tokenizer = SpeechTokenizer.from_pretrained(config.speech_tokenizer, config.device, dtype)
        quantizer = tokenizer.model.encoder.quantizer
        for rule in ("exact", "released"):
            quantizer.config = replace(quantizer.config, quantize_lookup=rule)
            codes[f"lookup_{rule}_{str(dtype).partition('.')[2]}"] = tokenizer.encode(clips)
    expected = codes.pop("lookup_exact_float32")
    return {name: differences(found, expected) for name, found in codes.items()}


def cost_figures(tokenizer: SpeechTokenizer) -> dict[str, Any]:
    """Milliseconds of each block of a window, and those of the same window as one clip."""
    window = np.random.default_rng(0).uniform(-0.3, 0.3, tokenizer.config.window_samples)
    stream = tokenizer.stream()
    size = round(stream.block_s * SAMPLE_RATE_HZ)
    rounds: list[list[float]] = []
    for _ in range(6):
        rounds.append([])
        for at in range(0, len(window), size):
            started = time.perf_counter()
            stream.feed(window[at : at + size])
            rounds[-1].append(1000 * (time.perf_counter() - started))
    blocks = [statistics.median(times) for times in zip(*rounds[1:], strict=True)]
    whole = []
    for _ in range(5):
        started = time.perf_counter()
        tokenizer.encode([window])
        whole.append(1000 * (time.perf_counter() - started))
    return {
        "block_s": stream.block_s,
        "first_block_ms": blocks[0],
        "dearest_block_ms": max(blocks),
        "all_blocks_ms": sum(blocks),
        "window_as_one_clip_ms": statistics.median(whole),
    }


def main(argv: Sequence[str] | None = None) -> None:
    config = cli.parse(StabilityConfig, argv, __doc__ or "")
    dtype = getattr(torch, config.dtype)
    tokenizer = SpeechTokenizer.from_pretrained(config.speech_tokenizer, config.device, dtype)
    random = np.random.default_rng(config.seed)
    clips = cut_clips(config, random)
    figures = {
        "clips": len(clips),
        "hours": sum(map(len, clips)) / SAMPLE_RATE_HZ / 3600,
        **batch_figures(tokenizer, clips, random),
        **stream_figures(tokenizer, clips[: config.streams], random),
        **causality_figures(tokenizer, clips[: config.streams], random),
        **lookup_figures(config, clips[: config.lookups]),
        **cost_figures(tokenizer),
    }
    rounding = "" if config.dtype == "float32" else f"_{config.dtype}"
    name = f"code_stability_{config.device}{rounding}_seed{config.seed}"
    report(name, "each clip whole and alone", figures)


if __name__ == "__main__":
    cli.run(main)
