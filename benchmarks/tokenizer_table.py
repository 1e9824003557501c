"""What frame rate and quantizer cost: one training for each row of a table, one after the other.

python benchmarks/tokenizer_table.py --speech runs/demo/speech --output runs/tokenizer_table

Stop it at any time; the same command continues, and rows that are done are not trained again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np
from common import report

from megatron_speech.audio import read_audio
from megatron_speech.data.manifest import ManifestRow, read_manifest
from megatron_speech.errors import ConfigError
from megatron_speech.evaluation.codes import code_counts, codebook_figures
from megatron_speech.io.files import read_json, write_json, write_text
from megatron_speech.jobs import cli
from megatron_speech.jobs.progress import track
from megatron_speech.recipes.speech_tokenizer import RECIPES
from megatron_speech.speech_tokenizer import SpeechTokenizer
from megatron_speech.speech_tokenizer.transcription import word_errors
from tools import train_speech_tokenizer

TEST_SETS = ("sentences", "windows", "held-out-voice")
_BASE_POOL = 4
_CLIPS_PER_BATCH = 100


@dataclass(frozen=True)
class Row:
    """One line of the table: what differs from the recipe, which has 12.5 Hz and VQ."""

    name: str
    title: str
    pool: int = _BASE_POOL
    growth: float = 1.0
    """Codes of the row by those of the recipe; they grow as the rate falls (paper section 2.1)."""
    flags: tuple[str, ...] = ()


ROWS = (
    Row("50hz", "VQ", pool=1, growth=1 / 4),
    Row("25hz", "VQ", pool=2, growth=1 / 4),
    Row("12.5hz", "VQ"),
    Row("6.25hz", "VQ", pool=8, growth=4, flags=("--quantize-causal-block-size", "104")),
    Row("12.5hz-fsq", "FSQ", flags=("--quantizer", "fsq")),
    Row("12.5hz-no-restarts", "VQ, no restarts", flags=("--quantize-restart-interval", "None")),
)


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """What is trained and measured."""

    speech: Path
    """Folder with `train` and the test sets `sentences`, `windows` and `held-out-voice`, each with
    a manifest.parquet, as the demo makes it."""
    output: Path
    """Folder of the trainings; about 100 MB each at the size of tokenizer-debug."""
    recipe: str = "tokenizer-debug"
    """Recipe that all rows start from."""
    steps: int | None = None
    """Steps of each training; a quarter is trained before quantization. None is the recipe's."""
    rows: tuple[str, ...] = tuple(row.name for row in ROWS)
    """Rows to train, in this order."""
    seeds: tuple[int, ...] = (1234,)
    """Each row is trained once for each seed."""
    usage_clips: int = 2000
    """Recordings of the training set on which the use of the codebook is counted."""
    record: bool = True
    """Write benchmarks/results/tokenizer_table.json, as well as OUTPUT/table.md."""

    def __post_init__(self) -> None:
        unknown = set(self.rows) - {row.name for row in ROWS}
        if unknown or self.recipe not in RECIPES or not self.seeds:
            raise ConfigError(
                f"--rows are among {[row.name for row in ROWS]}, --recipe among {list(RECIPES)}, "
                "and at least one seed is needed"
            )


def training_flags(config: TableConfig, row: Row) -> list[str]:
    """Flags that make the row out of the recipe."""
    base = RECIPES[config.recipe]()
    assert base.model.quantize_vocab_size is not None
    codes = round(row.growth * base.model.quantize_vocab_size)
    steps = config.steps or base.loop.train_iters
    # As many vectors per code and step as the restart's threshold was chosen for, at most.
    scale = min(1.0, _BASE_POOL / row.pool / row.growth)
    threshold = base.model.restart_threshold * scale
    levels = 3 * [str(round(codes ** (1 / 3)))]
    flags = ["--pooling-kernel-size", str(row.pool), "--quantize-vocab-size", str(codes)]
    flags += ["--quantize-restart-threshold", str(threshold), "--fsq-levels", *levels]
    flags += ["--train-iters", str(steps), "--quantize-start-step", str(steps // 4)]
    return [*flags, "--eval-interval", "0", *row.flags]


def train_row(config: TableConfig, row: Row, seed: int) -> dict[str, Any]:
    """Train and measure one row, or read what was measured before."""
    run = config.output / f"{row.name}-seed{seed}"
    if (run / "figures.json").exists():
        return read_json(run / "figures.json")
    print(f"\n{row.name}, seed {seed}:", flush=True)
    sets = [config.speech / name / "manifest.parquet" for name in TEST_SETS]
    files = ["--manifest", str(config.speech / "train/manifest.parquet")]
    files += ["--valid-manifest", *map(str, sets), "--save", str(run), "--seed", str(seed)]
    result = train_speech_tokenizer.main([config.recipe, *files, *training_flags(config, row)])
    if result.export is None:
        raise SystemExit("stopped; run the same command again to continue")
    tokenizer = SpeechTokenizer.from_pretrained(result.export)
    figures: dict[str, Any] = {
        "frame_rate_hz": tokenizer.frame_rate_hz,
        "num_codes": tokenizer.num_codes,
        "bits_per_s": tokenizer.frame_rate_hz * math.log2(tokenizer.num_codes),
    }
    for name, path in zip(TEST_SETS, sets, strict=True):
        rows = read_manifest(path)
        codes = encode(tokenizer, rows, name)
        figures[name] = word_errors([row.text for row in rows], tokenizer.decode_text(codes))
    heard = read_manifest(config.speech / "train/manifest.parquet")[: config.usage_clips]
    counts = code_counts(encode(tokenizer, heard, "training speech"), tokenizer.num_codes)
    figures |= {"codes_counted": int(counts.sum()), **codebook_figures(counts)}
    write_json(run / "figures.json", figures)
    return figures


def encode(tokenizer: SpeechTokenizer, rows: list[ManifestRow], name: str) -> list[np.ndarray]:
    """Codes of recordings, some at a time."""
    batches = list(batched(rows, _CLIPS_PER_BATCH))
    return [
        codes
        for batch in track(batches, f"encoding {name}")
        for codes in tokenizer.encode([read_audio(row.path) for row in batch])
    ]


def error_rate(runs: list[list[tuple[int, int]]]) -> tuple[float, float]:
    """Word errors per word over all runs, and half the width of its 95% bootstrap interval.

    Utterances are drawn anew, for all runs alike, and where there are several, runs too.
    """
    counts = np.array(runs, dtype=float)  # (runs, utterances, 2)
    random = np.random.default_rng(0)
    rates = []
    for _ in range(1000):
        chosen = counts[random.integers(0, len(counts), len(counts))]
        drawn = chosen[:, random.integers(0, counts.shape[1], counts.shape[1])].sum(axis=(0, 1))
        rates.append(drawn[0] / drawn[1])
    low, high = np.percentile(rates, [2.5, 97.5])
    total = counts.sum(axis=(0, 1))
    return float(total[0] / total[1]), float(high - low) / 2


def summarise(row: Row, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of a row over its seeds."""
    shared = {name: runs[0][name] for name in ("frame_rate_hz", "num_codes", "bits_per_s")}
    figures = {"quantizer": row.title, **shared, "seeds": len(runs)}
    for name in TEST_SETS:
        wer, error = error_rate([run[name] for run in runs])
        figures |= {f"wer_{name}": wer, f"wer_{name}_error": error}
    for name in ("codebook_usage", "perplexity", "codes_counted"):
        figures[name] = float(np.mean([run[name] for run in runs]))
    return figures


def markdown(table: dict[str, dict[str, Any]]) -> str:
    """The table for docs/speech_tokenizer.md."""
    names = [name.replace("-", " ") for name in TEST_SETS]
    head = ["rate", "quantizer", "codes", "bit/s", *(f"WER, {name}" for name in names)]
    head += ["codebook used", "perplexity"]
    lines = [head, ["---"] * len(head)]
    for row in table.values():
        wers = [(row[f"wer_{name}"], row[f"wer_{name}_error"]) for name in TEST_SETS]
        lines.append(
            [
                f"{row['frame_rate_hz']:g} Hz",
                row["quantizer"],
                f"{row['num_codes']:,}",
                f"{row['bits_per_s']:.0f}",
                *(f"{100 * wer:.1f} ± {100 * error:.1f}%" for wer, error in wers),
                f"{100 * row['codebook_usage']:.0f}%",
                f"{row['perplexity']:,.0f}",
            ]
        )
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    config = cli.parse(TableConfig, argv, __doc__ or "")
    rows = {row.name: row for row in ROWS}
    table = {
        name: summarise(rows[name], [train_row(config, rows[name], s) for s in config.seeds])
        for name in config.rows
    }
    write_text(config.output / "table.md", markdown(table))
    if config.record:
        steps = config.steps or RECIPES[config.recipe]().loop.train_iters
        settings = {"recipe": config.recipe, "steps": steps}
        report("tokenizer_table", "the recipe as it is, 12.5 Hz and VQ", {**settings, **table})
    print(f"\n{markdown(table)}")
    return table


if __name__ == "__main__":
    cli.run(main)
