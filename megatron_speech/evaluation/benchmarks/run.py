"""Benchmarks from folders to figures, with what was spoken, compared and left out beside them."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...errors import ConfigError, DataError
from ..context import EvaluationContext, Result
from ..items import first_of_each
from ..printing import print_rows
from .config import BenchmarkConfig
from .contamination import Contamination, find_contaminated
from .items import Choice, Item, Pair, Question, Utterance, utterances_of
from .printed_figures import PUBLISHED
from .registry import Benchmark, benchmark_named
from .score_answers import DIRECTIONS as ASKED
from .score_answers import evaluate_questions
from .score_choices import DIRECTIONS as CHOSEN
from .score_choices import evaluate_choices
from .score_pairs import directions_of, evaluate_pairs, said_in
from .sound import Sounds


def run_benchmarks(
    config: BenchmarkConfig, context: EvaluationContext, speech: Sequence[Path], device: str
) -> tuple[list[Result], dict[str, Any]]:
    """Results of all, and a report of each by name.

    Raises:
        DataError: a folder in another layout, or codes of another speech tokenizer.
        ConfigError: an unknown name, or nothing that can be evaluated with what was given.
    """
    chosen = {name: benchmark_named(name) for name in config.benchmark}
    items: dict[str, Sequence[Item]] = {}
    for (name, benchmark), path in zip(chosen.items(), config.benchmark_path, strict=True):
        found = first_of_each(
            benchmark.read(path, config.benchmark_split), lambda item: item.parts[0], context.limit
        )
        if not found:
            raise DataError(f"{path} holds no items; expected {benchmark.layout}")
        items[name] = found
    contaminated: dict[str, Contamination] = {}
    if config.contamination_against:
        contaminated = find_contaminated(items, config.contamination_against, config.text_key)
    sounds = Sounds(
        vocab=context.model.vocab,
        shards=speech,
        tokenizer=context.speech_tokenizer,
        text_to_token=config.text_to_token,
        device=device,
    )
    results, reports = [], {}
    for name, benchmark in chosen.items():
        found, report = _run(name, benchmark, items[name], context, sounds, contaminated.get(name))
        results += found
        reports[name] = report
    return results, reports


def _run(
    name: str,
    benchmark: Benchmark,
    items: Sequence[Item],
    context: EvaluationContext,
    sounds: Sounds,
    contamination: Contamination | None,
) -> tuple[list[Result], dict[str, Any]]:
    report: dict[str, Any] = {
        "source": benchmark.source,
        "split": benchmark.split,
        "published_rule": benchmark.rule,
        "ours": benchmark.ours,
        "contamination": contamination.report if contamination else "not compared",
        "published": [asdict(row) for row in PUBLISHED.get(name, [])],
        "directions": {},
    }
    if contamination and not contamination.report["compared"]:
        report["contamination"] = "not compared: the items have no texts"
    results: list[Result] = []
    missing: dict[str, str] = {}
    for direction in directions_for(items):
        if direction not in context.directions:
            continue
        lacking = _lacking(items, direction, context, sounds)
        if lacking is not None:
            missing[direction] = lacking
            continue
        heard = [said for item in items for said in _said(item, direction, "s")]
        origins = sounds.prepare(heard)
        usable = [item for item in items if all(map(sounds.has, _said(item, direction, "s")))]
        report["directions"][direction] = {
            "items": len(usable),
            "left_out": len(items) - len(usable),
            "codes": origins,
        }
        if not usable:
            missing[direction] = "the text-to-token model came to an end with none of its texts"
        else:
            seen = contamination.seen if contamination else frozenset()
            results += _figures(name, usable, direction, context, sounds, seen)
    if missing:
        report["not_evaluated"] = missing
    if not results:
        wanted = ", ".join(directions_for(items))
        raise ConfigError(
            f"{name}: none of the directions asked for can be evaluated (it has {wanted}): "
            f"{missing or 'give other --directions'}"
        )
    return results, report


def directions_for(items: Sequence[Item]) -> tuple[str, ...]:
    """Directions that a benchmark's items have."""
    if isinstance(items[0], Pair):
        return directions_of([item for item in items if isinstance(item, Pair)])
    return ASKED if isinstance(items[0], Question) else CHOSEN


def _said(item: Item, direction: str, how: str) -> list[Utterance]:
    """What of an item has to be heard (`how` s) or read (t)."""
    if isinstance(item, Pair):
        return said_in(item, direction, how)
    return utterances_of(item) if direction[0] == how else []


def _lacking(
    items: Sequence[Item], direction: str, context: EvaluationContext, sounds: Sounds
) -> str | None:
    """Why a direction cannot be evaluated, or None."""
    for item in items:
        unwritten = next((u for u in _said(item, direction, "t") if u.text is None), None)
        if unwritten is not None:
            return f"{unwritten.key} has audio and no text"
        unheard = next((u for u in _said(item, direction, "s") if not sounds.can(u)), None)
        if unheard is not None:
            return f"{unheard.key} has no codes; give {sounds.needed_for(unheard)}"
    if isinstance(items[0], Question) and direction == "s2s" and context.speech_tokenizer is None:
        return "replies are codes; give --speech-tokenizer to read them"
    return None


def _figures(
    name: str,
    items: Sequence[Item],
    direction: str,
    context: EvaluationContext,
    sounds: Sounds,
    seen: frozenset[str],
) -> list[Result]:
    pairs = [item for item in items if isinstance(item, Pair)]
    questions = [item for item in items if isinstance(item, Question)]
    choices = [item for item in items if isinstance(item, Choice)]
    if pairs:
        return evaluate_pairs(context.model, name, pairs, direction, sounds, seen)
    if questions:
        return evaluate_questions(context, name, questions, direction, sounds, seen)
    return evaluate_choices(context.model, name, choices, direction, sounds, seen)


def print_published(results: Sequence[Result], reports: dict[str, Any]) -> None:
    """Our figures among what others printed for the same, and what to know of ours."""
    sources: list[str] = []
    rows = []
    for result in results:
        published = [
            row
            for row in reports[result.task]["published"]
            if (row["part"], row["direction"]) == (result.part, result.direction)
        ]
        if not published:
            continue
        name = f"{result.task} {result.part}"
        percent = f"{100 * result.headline.accuracy:.1f}"
        rows.append((name, result.direction, "this model", percent, ""))
        for row in published:
            if row["source"] not in sources:
                sources.append(row["source"])
            mark = f"[{sources.index(row['source']) + 1}]"
            rows.append((name, row["direction"], row["system"], f"{row['percent']:.1f}", mark))
    if rows:
        print_rows(
            "in print (other sets, voices and rules: context, not a league table)",
            ("benchmark", "direction", "system", "percent", "source"),
            rows,
        )
    for number, source in enumerate(sources, 1):
        print(f"[{number}] {source}")
    for line in describe(reports):
        print(line)


def describe(reports: dict[str, Any]) -> list[str]:
    """What a reader of the figures must know, a line each."""
    lines = []
    for name, report in reports.items():
        for direction, made in report["directions"].items():
            spoken = made["codes"].get("spoken", 0)
            if spoken:
                lines.append(
                    f"{name} {direction}: {spoken:,} texts without audio were spoken by the "
                    f"text-to-token model; {made['left_out']:,} items were left out"
                )
        for direction, why in report.get("not_evaluated", {}).items():
            lines.append(f"{name} {direction}: not evaluated: {why}")
        found = report["contamination"]
        if isinstance(found, dict):
            lines.append(
                f"{name}: {found['seen']:,} of {found['compared']:,} items with text occur in "
                f"{found['training_documents']:,} training documents"
            )
        else:
            lines.append(f"{name}: contamination {found}")
    return lines
