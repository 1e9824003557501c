"""Check an entry for docs/records.md: tokens until S->T Topic-StoryCloze reaches 85%, three seeds.

    python benchmarks/check_record.py --run runs/full

Reads the folder that `make demo-full` leaves (`model-SEED/run`, `model-SEED/hf*`,
`evaluation/model-SEED*.json`) and prints the entry as JSON, or says which rule it breaks. A seed
may have several exports, made and evaluated while it was trained; the first one at 85% counts.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from megatron_speech.jobs.starting import starting

with starting(__name__):
    import hashlib
    import json
    import re
    from collections.abc import Mapping, Sequence
    from dataclasses import dataclass
    from itertools import pairwise
    from statistics import mean
    from typing import Any

    import pyarrow.parquet as pq

    from megatron_speech import cli
    from megatron_speech.errors import DataError
    from megatron_speech.io.files import read_json_object, read_yaml_object
    from megatron_speech.model.card import RUN_CONFIG
    from megatron_speech.recipes import lm, speech_tokenizer
    from megatron_speech.recipes.resume import flat, plain
    from megatron_speech.training.reporting import read_metrics

RULES = Path(__file__).with_name("records.json")
FREE = {
    "loop.save": "where it is written",
    "data.manifest": "where the recordings are",
    "data.valid_manifest": "likewise",
    "data.vocab": "where the vocabulary is",
    "data.data_path": "where the dataset is",
    "optimizer.bf16": "what the machine is fast at",
    "precision": "likewise",
}
"""Settings of the given models that may be other ones than the recipe's."""


@dataclass(frozen=True, kw_only=True)
class CheckRecordConfig:
    """Which run."""

    run: Path
    """Folder of the run, in the layout of `make demo-full`. Run this where the run was made: its
    datasets are found by the paths that its settings have."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """An export of a seed's run: tokens read until then, and how it does on the items."""

    tokens: int
    parameters: int
    accuracy: float
    speech_tokenizer: str


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Print the entry and return it.

    Raises:
        DataError: a rule is broken, or a file of the run is missing or says something else.
    """
    config = cli.parse(CheckRecordConfig, argv, __doc__ or "")
    rules = read_json_object(RULES)["rules"]
    try:
        entry = check_entry(config.run, rules)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"a settings file, log or evaluation of {config.run} lacks {error}; expected a run of "
            "`make demo-full`, by this version"
        ) from None
    print(json.dumps(entry, indent=1))
    return entry


def check_entry(run: Path, rules: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of an entry that keeps the rules. Raises as `main` does."""
    items = hashlib.sha256(_require(run / "storyworld/eval/cloze.jsonl").read_bytes()).hexdigest()
    _expect("the cloze items (SHA-256)", items, rules["items_sha256"])
    for name, folder in (("speech_tokenizer", ""), ("text_to_token", "run")):
        changed = changed_settings(run / name / folder / RUN_CONFIG, **rules[name])
        _expect(f"changed settings of {name}", changed, {})
    seeds = {seed: _points(run, seed, rules) for seed in rules["seeds"]}
    reached = {seed: _reached(seed, points, rules["accuracy"]) for seed, points in seeds.items()}
    tokenizers = {point.speech_tokenizer for points in seeds.values() for point in points}
    engines = set().union(*(_text_to_token(run, seed) for seed in seeds))
    for what, found in (("speech tokenizers", tokenizers), ("text-to-token models", engines)):
        if len(found) != 1:
            raise DataError(f"{run} has the {what} {sorted(found)}; expected one for all seeds")
    minutes = [_minutes(run, seed, points, reached[seed]) for seed, points in seeds.items()]
    return {
        "mean_tokens": round(mean(point.tokens for point in reached.values())),
        "tokens": {str(seed): point.tokens for seed, point in reached.items()},
        "accuracy": {str(seed): point.accuracy for seed, point in reached.items()},
        "parameters": max(point.parameters for point in reached.values()),
        "minutes": None if None in minutes else round(mean(filter(None, minutes)), 1),
        "fingerprints": {
            "items": items,
            "speech_tokenizer": tokenizers.pop(),
            "text_to_token": engines.pop(),
        },
    }


def changed_settings(path: Path, recipe: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a run has instead of its recipe and `settings`, but for what is free to choose."""
    recipes = {**speech_tokenizer.RECIPES, **lm.RECIPES}
    expected = flat(plain(recipes[recipe]())) | dict(settings)
    found = flat(read_yaml_object(_require(path)))
    return {
        name: value
        for name, value in found.items()
        if name in expected
        and value != expected[name]
        and not FREE.keys() & {name, name.split(".")[0]}
    }


def _points(run: Path, seed: int, rules: Mapping[str, Any]) -> list[Point]:
    """All evaluated exports of a seed, by tokens."""
    folder = run / f"model-{seed}"
    config = read_yaml_object(_require(folder / "run" / RUN_CONFIG))
    _expect(f"{folder}: seed", config["batch"]["seed"], seed)
    _expect(f"{folder}: weights to start from", config["base"]["pretrained_checkpoint"], None)
    consumed = {
        record["iteration"]: round(record["consumed samples"] * config["data"]["seq_length"])
        for record in read_metrics(folder / "run")
    }
    points = []
    for path in sorted((run / "evaluation").glob(f"model-{seed}*.json")):
        report = read_json_object(path)
        card = _require(folder / Path(report["model"]).name / "README.md").read_text()
        cell = report["cloze"]["topic"]["s2t"]
        point = Point(
            tokens=_number(card, r"tokens seen: ([\d,]+)"),
            parameters=_number(card, r"language model of ([\d,]+) parameters"),
            accuracy=cell["accuracy"],
            speech_tokenizer=report["tokenizer_fingerprint"],
        )
        _expect(f"{path}: items", cell["n"], rules["items"])
        steps = _number(card, r"steps: ([\d,]+)")
        _expect(f"{path}: tokens that the run's log has at step {steps}",
                consumed.get(steps), point.tokens)  # fmt: skip
        if point.parameters > rules["most_parameters"]:
            raise DataError(
                f"{folder} has {point.parameters:,} parameters; expected at most "
                f"{rules['most_parameters']:,}"
            )
        points.append(point)
    points.sort(key=lambda point: point.tokens)
    for before, after in pairwise(points):
        if after.tokens - before.tokens < rules["least_tokens_between"]:
            raise DataError(
                f"{folder} was evaluated at {before.tokens:,} and {after.tokens:,} tokens; "
                f"expected at least {rules['least_tokens_between']:,} between evaluations"
            )
    return points


def _reached(seed: int, points: Sequence[Point], accuracy: float) -> Point:
    for point in points:
        if point.accuracy >= accuracy:
            return point
    best = max((point.accuracy for point in points), default=None)
    raise DataError(
        f"seed {seed} does not reach {accuracy:.1%} in {len(points)} evaluations (best: {best}); "
        "train it on, export and evaluate it again"
    )


def _text_to_token(run: Path, seed: int) -> set[str]:
    """Fingerprints of the models that made the codes of a run's interleaved datasets."""
    config = read_yaml_object(run / f"model-{seed}" / "run" / RUN_CONFIG)
    spans = (Path(f"{prefix}.spans.parquet") for prefix in config["data"]["data_path"])
    found: set[str] = set()
    for path in filter(Path.is_file, spans):
        column = pq.read_table(path, columns=["generator_fingerprint"])["generator_fingerprint"]
        found |= {value for value in column.to_pylist() if value is not None}
    return found


def _minutes(run: Path, seed: int, points: Sequence[Point], reached: Point) -> float | None:
    """Of training and export, in proportion to the tokens; None where the run does not say."""
    stage = run / "stages" / f"model-{seed}.json"
    if not stage.is_file():
        return None
    return read_json_object(stage)["seconds"] / 60 * reached.tokens / points[-1].tokens


def _number(card: str, pattern: str) -> int:
    found = re.search(pattern, card)
    if found is None:
        raise DataError(f"a model card does not say {pattern!r}; export the checkpoint again")
    return int(found[1].replace(",", ""))


def _require(path: Path) -> Path:
    if not path.is_file():
        raise DataError(f"{path} does not exist; expected a run in the layout of `make demo-full`")
    return path


def _expect(what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise DataError(f"{what}: {found!r}; expected {expected!r}")


if __name__ == "__main__":
    cli.run(main, starts_over=True)
