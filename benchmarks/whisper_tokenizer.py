"""How a speech tokenizer should start from Whisper, and how it should be trained on little data.

    python benchmarks/whisper_tokenizer.py --whisper whisper-base --manifest train.parquet \\
        --valid-manifest librivox.parquet prompts.parquet --output runs/whisper_tokenizer

First the untrained starts: teacher-forced losses on the --valid-manifest sets, with each setting of
what is added above the quantizer, of silence behind the recordings and of the space before a text.
Then one training for each of --variants, word errors through the codes over the steps. Stop it at
any time; the same command continues, and what is done is not done again.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import batched, product
from pathlib import Path
from typing import Any, get_args

import torch
from common import report
from torch.nn import functional as F

from megatron_speech.data.manifest import manifest_name, read_manifest
from megatron_speech.errors import ConfigError
from megatron_speech.evaluation.codes import EvaluateCodesConfig, evaluate_codes
from megatron_speech.io.files import read_json, write_json
from megatron_speech.jobs import cli
from megatron_speech.recipes.speech_tokenizer import RECIPES
from megatron_speech.recipes.speech_tokenizer_run import train_speech_tokenizer
from megatron_speech.speech_tokenizer.config import SpeechTokenizerConfig
from megatron_speech.speech_tokenizer.dataset import IGNORED, AsrDataset, SpeechDataConfig
from megatron_speech.speech_tokenizer.model import SpeechTokenizerModel
from megatron_speech.speech_tokenizer.text import AsrText
from megatron_speech.speech_tokenizer.whisper import (
    SecondPositions,
    load_whisper,
    shaped_as_whisper,
)
from megatron_speech.training.reporting import read_metrics

_CLIPS_PER_BATCH = 8

VARIANTS: dict[str, str] = {
    "third": "",
    "zero": "--no-quantize",
    "sinusoids": "--no-quantize --second-positions sinusoids",
    "silence": "--no-quantize --trailing-silence-s 2",
    "at-once": "--quantize-start-step 0",
    "more-codes": "--vectors-per-code 16",
    "ctc": "--character-ctc-weight 0.3 --upper-character-ctc-weight 0.3",
    "low-commitment": "--quantize-commit-coefficient 0.1",
}
"""What differs from the recipe, whose codebook here begins after a third of the steps."""


@dataclass(frozen=True, kw_only=True)
class WhisperTokenizerConfig:
    """What is measured, on what."""

    whisper: Path
    """Folder of a released Whisper."""
    valid_manifest: tuple[Path, ...]
    """Held-out recordings, a set each."""
    output: Path
    """Folder of the trainings."""
    manifest: tuple[Path, ...] = ()
    """Recordings to train on."""
    recipe: str = "tokenizer-from-whisper-12.5hz"
    """Recipe that all variants start from."""
    variants: tuple[str, ...] = ("third", "at-once", "more-codes", "ctc", "low-commitment")
    """Trainings, in this order."""
    steps: int = 600
    """Steps of each training."""
    batch_size: int = 16
    """Recordings of each step."""
    eval_interval: int = 50
    """Steps between evaluations."""
    limit: int = 100
    """Recordings of each held-out set."""
    untouched: bool = True
    """Measure the word errors of the Whisper itself."""
    threads: int = 1
    """Of torch."""
    name: str = "whisper_tokenizer"
    """The results are benchmarks/results/NAME.json."""

    def __post_init__(self) -> None:
        if unknown := set(self.variants) - VARIANTS.keys():
            raise ConfigError(f"--variants {sorted(unknown)} are not among {list(VARIANTS)}")


class Unspaced(AsrText):
    """Texts without the space in front that Whisper's tokenizer puts there."""

    def encode(self, text: str, language: str | None = None) -> list[int]:
        return self._tokenizer.encode(text.strip())


@torch.no_grad()
def start_losses(config: WhisperTokenizerConfig) -> dict[str, dict[str, float]]:
    """Losses of untrained starts: mean of all text tokens, of the first, of the end."""
    recipe = RECIPES[config.recipe]().model
    whole = SpeechTokenizerConfig(
        pooling_kernel_size=1, quantize_causal_block_size=None, encoder_causal_convolution=False
    )
    found = {}
    settings = product(("whisper", "recipe"), get_args(SecondPositions), (0.0, 2.0), (True, False))
    for layout, positions, silence_s, spaced in settings:
        if not spaced and (positions, silence_s) != ("zero", 2.0):
            continue
        shape = replace(recipe if layout == "recipe" else whole, quantize_vocab_size=None)
        shape = shaped_as_whisper(shape, config.whisper)
        text = (AsrText if spaced else Unspaced)(config.whisper)
        shape = replace(shape, eos_token_id=text.eos_id, decoder_start_token_id=text.start_id)
        model = SpeechTokenizerModel(shape, "sdpa").eval()
        load_whisper(model, config.whisper, positions)
        data = SpeechDataConfig(trailing_silence_s=silence_s, num_workers=1)
        rows = [
            row for path in config.valid_manifest for row in read_manifest(path)[: config.limit]
        ]
        name = f"{layout}, {positions}, {silence_s:g} s of silence, "
        name += "space" if spaced else "no space"
        found[name] = _losses(model, AsrDataset([rows], text, shape, data))
        print(name, found[name], flush=True)
    return found


def _losses(model: SpeechTokenizerModel, dataset: AsrDataset) -> dict[str, float]:
    sums = {"all": 0.0, "first": 0.0, "end": 0.0}
    tokens = 0
    for indices in batched(range(len(dataset)), _CLIPS_PER_BATCH):
        batch = dataset.batch(indices)
        output = model(batch.mel, batch.mel_lengths, batch.decoder_input, False)
        losses = F.cross_entropy(
            output.logits.transpose(1, 2), batch.labels, ignore_index=IGNORED, reduction="none"
        )
        told = batch.labels != IGNORED
        places = torch.arange(told.shape[1])
        tokens += int(told.sum())
        sums["all"] += losses[told].sum().item()
        sums["first"] += losses[places == told.int().argmax(1, keepdim=True)].sum().item()
        last = torch.where(told, places, -1).amax(1, keepdim=True)
        sums["end"] += losses[places == last].sum().item()
    return {name: s / (tokens if name == "all" else len(dataset)) for name, s in sums.items()}


def train_variant(config: WhisperTokenizerConfig, name: str) -> dict[str, Any]:
    """Train a variant, or go on; word errors of each set over the steps, and of the export."""
    run = config.output / name
    if (run / "figures.json").exists():
        return read_json(run / "figures.json")
    files = ["--init-from", config.whisper, "--manifest", *config.manifest, "--save", run]
    files += ["--valid-manifest", *config.valid_manifest, "--valid-samples", config.limit]
    steps = ["--train-iters", config.steps, "--quantize-start-step", math.ceil(config.steps / 3)]
    steps += ["--eval-interval", config.eval_interval, "--save-interval", config.eval_interval]
    steps += ["--micro-batch-size", config.batch_size, "--global-batch-size", config.batch_size]
    flags = [*map(str, (*files, *steps)), "--no-tensorboard", *VARIANTS[name].split()]
    _, recipe = cli.parse_recipe(RECIPES, [config.recipe, *flags], None)
    result = train_speech_tokenizer(recipe)
    if not result.finished:
        raise SystemExit("stopped; run the same command again to continue")
    curve = [
        {key: value for key, value in record.items() if isinstance(value, int | float)}
        for record in read_metrics(run, "valid")
    ]
    figures: dict[str, Any] = {"flags": VARIANTS[name], "curve": curve}
    if "--no-quantize" not in flags:
        figures["export"] = read_sets(config, speech_tokenizer=result.export)
    write_json(run / "figures.json", figures)
    return figures


def read_sets(config: WhisperTokenizerConfig, **reader: Path | None) -> dict[str, Any]:
    """Word errors of each held-out set by a Whisper or a speech tokenizer."""
    return evaluate_codes(
        EvaluateCodesConfig(manifest=config.valid_manifest, limit=config.limit, **reader)
    )


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    config = cli.parse(WhisperTokenizerConfig, argv, __doc__ or "")
    torch.set_num_threads(config.threads)
    config.output.mkdir(parents=True, exist_ok=True)
    done = config.output / "start.json"
    if not done.exists():
        write_json(done, start_losses(config))
    untouched = config.output / "whisper.json"
    if config.untouched and not untouched.exists():
        found = read_sets(config, whisper=config.whisper)
        write_json(untouched, found)
    figures = {
        "whisper": config.whisper.name,
        "sets": {manifest_name(path): len(read_manifest(path)) for path in config.valid_manifest},
        "recordings_of_each": config.limit,
        "steps": config.steps,
        "untrained_starts": read_json(done),
        "whisper_untouched": read_json(untouched) if config.untouched else None,
        "trainings": {name: train_variant(config, name) for name in config.variants},
    }
    report(config.name, "the released Whisper", figures)
    return figures


if __name__ == "__main__":
    cli.run(main)
