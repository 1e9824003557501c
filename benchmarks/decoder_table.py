"""What a speech decoder makes of codes at several frame rates: one training for each tokenizer.

    python benchmarks/tokenizer_table.py --speech runs/demo/speech --output runs/tokenizer_table
    python benchmarks/decoder_table.py --tokenizers runs/tokenizer_table/*hz-seed*/export \\
        --speech runs/voice/speech --vocoder runs/voice/vocoder/export --output runs/decoder_table

Stop it at any time; the same command continues, and rows that are done are not trained again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import report

from megatron_speech.errors import ConfigError
from megatron_speech.io.files import read_json, write_json, write_text
from megatron_speech.jobs import cli
from megatron_speech.recipes.speech_decoder import RECIPES, SpeechDecoderRecipe
from megatron_speech.speech_tokenizer import SpeechTokenizer
from tools import evaluate_decoder, tokenize_speech, train_speech_decoder

_ROWS = ("real", "offline", "streaming")


@dataclass(frozen=True, kw_only=True)
class DecoderTableConfig:
    """What is trained and measured."""

    tokenizers: tuple[Path, ...]
    """Folders of speech tokenizers, recogniser included; each is a row."""
    speech: Path
    """Folder with `train` and `test`, each with a manifest.parquet, as the voice demo makes it."""
    vocoder: Path
    """Exported vocoder of all rows."""
    output: Path
    """Folder of codes and trainings."""
    recipe: str = "decoder-debug"
    """Recipe that all rows start from; blocks and crops keep their seconds."""
    steps: int | None = None
    """Steps of each training; None is the recipe's."""
    record: bool = True
    """Write benchmarks/results/decoder_table.json, as well as OUTPUT/table.md."""

    def __post_init__(self) -> None:
        if not isinstance(RECIPES.get(self.recipe, lambda: None)(), SpeechDecoderRecipe):
            raise ConfigError(f"--recipe {self.recipe!r} is no recipe of a speech decoder")


def measure_row(config: DecoderTableConfig, export: Path) -> dict[str, Any]:
    """Train and measure one row, or read what was measured before."""
    tokenizer = SpeechTokenizer.from_pretrained(export)
    run = config.output / tokenizer.fingerprint
    steps = config.steps or RECIPES[config.recipe]().loop.train_iters
    settings = {"recipe": config.recipe, "steps": steps, "vocoder": str(config.vocoder)}
    if (run / "figures.json").exists():
        found = read_json(run / "figures.json")
        if found["settings"] != settings:
            raise ConfigError(f"{run} was made with {found['settings']}; choose another --output")
        return found
    print(f"\n{export}, {tokenizer.frame_rate_hz:g} Hz:", flush=True)
    manifests = {name: config.speech / name / "manifest.parquet" for name in ("train", "test")}
    for name, manifest in manifests.items():
        flags = ["--input", manifest, "--speech-tokenizer", export, "--output", run / name]
        tokenize_speech.main([str(flag) for flag in flags])
    recipe = RECIPES[config.recipe]()
    assert isinstance(recipe, SpeechDecoderRecipe)
    growth = tokenizer.frame_rate_hz / recipe.model.frame_rate_hz
    flags = ["--manifest", manifests["train"], "--valid-manifest", manifests["test"]]
    flags += ["--codes", run / "train", run / "test", "--codebook-of", export]
    flags += ["--vocoder", config.vocoder, "--save", run / "decoder"]
    flags += ["--block-codes", round(growth * recipe.model.codes_in_block)]
    flags += ["--crop-codes", round(growth * recipe.objective.crop_codes)]
    flags += ["--train-iters", steps]
    trained = train_speech_decoder.main([config.recipe, *map(str, flags)])
    if not trained.finished:
        raise SystemExit("stopped; run the same command again to continue")
    flags = ["--decoder", run / "decoder" / "export", "--speech-tokenizer", export]
    flags += ["--manifest", manifests["test"], "--recognisers", "tokenizer"]
    rows = evaluate_decoder.main([str(flag) for flag in flags])["rows"]
    figures = {
        "settings": settings,
        "frame_rate_hz": tokenizer.frame_rate_hz,
        "num_codes": tokenizer.num_codes,
        **{f"wer_{name}": rows[name]["wer_tokenizer"] for name in _ROWS},
        **{f"mel_distance_{name}": rows[name]["mel_distance"] for name in _ROWS[1:]},
    }
    write_json(run / "figures.json", figures)
    return figures


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table for docs/speech_decoder.md."""
    head = ["rate", "codes", *(f"WER, {name}" for name in _ROWS), "mel distance, offline"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        wers = [f"{100 * row[f'wer_{name}']:.1f}%" for name in _ROWS]
        shown = [f"{row['frame_rate_hz']:g} Hz", f"{row['num_codes']:,}", *wers]
        lines.append([*shown, f"{row['mel_distance_offline']:.2f}"])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    config = cli.parse(DecoderTableConfig, argv, __doc__ or "")
    rows = [measure_row(config, export) for export in config.tokenizers]
    write_text(config.output / "table.md", markdown(rows))
    if config.record:
        steps = config.steps or RECIPES[config.recipe]().loop.train_iters
        figures: dict[str, Any] = {"recipe": config.recipe, "steps": steps, "rows": rows}
        report("decoder_table", "the recordings themselves", figures)
    print(f"\n{markdown(rows)}")
    return rows


if __name__ == "__main__":
    cli.run(main)
