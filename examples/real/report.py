"""Figures of a finished run, and what is asked of them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples.quickstart import bars
from examples.quickstart.runner import tool
from examples.real import samples
from examples.real.model_stages import BASE
from examples.real.run import (
    MANY_VOICES,
    NARRATOR,
    NEURAL_VOICE,
    NEW_VOICE,
    STORY,
    TOPIC,
    RealDemo,
)
from examples.real.sizes import ARMS, BLENDS
from megatron_speech import pages

HEARD = "s2t"


def build_report(
    demo: RealDemo, done: Mapping[str, Any], times: Mapping[str, Any]
) -> dict[str, Any]:
    """The contents of report.json."""
    base, found = done["base"], done["materials"]
    arms = {arm: done[f"evaluation-{arm}"] for arm in (BASE, *ARMS)}
    report: dict[str, Any] = {
        **demo.facts(),
        **times,
        "blends": BLENDS,
        "materials": {
            "whisper": demo.whisper or Path(found["whisper"]).name,
            "base": demo.base or Path(found["base"]).name,
            "judge": found["judge"] and Path(found["judge"]).name,
            "notes": found["notes"],
        },
        "text": done["speech"],
        "recordings": done["recordings"],
        "speech_tokenizer": {
            **done["codes"],
            "validation": done["speech_tokenizer"]["validation"],
            "held_out": tool("evaluate_codes", codes=demo.path("codes", "items"))["items"],
        },
        "text_to_token": done["text_to_token"],
        "interleave": done["interleaving"],
        "base": base,
        "tokens": done["model"]["tokens"],
        "evaluation": {arm: _last(points) for arm, points in arms.items()},
        "curve": {arm: _curve(arms[arm], arms[BASE], demo) for arm in ARMS},
        "samples": done["samples"]["shown"],
    }
    report["headline"] = headline(report["evaluation"])
    report["bars"] = _bars(report) if demo.size.has_bars else []
    return report


def _last(points: Mapping[str, Any]) -> dict[str, Any]:
    return points[max(points, key=int)]


def _curve(points: Mapping[str, Any], base: Mapping[str, Any], demo: RealDemo) -> list[dict]:
    """Tokens seen with what was found then, from the untouched base on."""
    per_step = demo.size.windows_per_step * demo.size.seq_length
    found = [{"tokens": 0, **_last(base)}]
    return found + [{"tokens": int(step) * per_step, **points[step]}
                    for step in sorted(points, key=int)]  # fmt: skip


def headline(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What base, control and model understand of speech: S→T on topic items with n and standard
    errors, and the gain of the model over the control with the error of a difference.
    """
    cells = {
        arm: {key: found["cloze"][TOPIC][HEARD][key] for key in ("accuracy", "stderr", "n")}
        for arm, found in evaluation.items()
    }
    model, control = cells["model"], cells["control"]
    return {
        **cells,
        "gain": model["accuracy"] - control["accuracy"],
        "gain_stderr": math.hypot(model["stderr"], control["stderr"]),
        "above_chance_stderrs": (model["accuracy"] - 0.5) / math.sqrt(0.25 / model["n"]),
    }


def text_loss_rise(evaluation: Mapping[str, Any]) -> float:
    """By what share the loss on held-out text is above that of the untouched base."""
    return evaluation["model"]["text_loss"] / evaluation[BASE]["text_loss"] - 1


def _bars(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is asked of the demo, and what came."""
    found, sets = [], report["speech_tokenizer"]["sets"]
    for name, facts in report["recordings"].items():
        if name in sets and not facts["transcribed"]:
            untouched, codes = sets[name]["wer_whisper"], sets[name]["wer_codes"]
            name = f"Word errors through codes, {name}"
            found.append(bars.share(name, codes, most=2 * untouched + 0.05))
    held_out, made = report["speech_tokenizer"]["held_out"], report["text_to_token"]
    head = report["headline"]
    above, items = head["above_chance_stderrs"], head["model"]["n"]
    return [
        *found,
        bars.share(f"Codebook use on {held_out['codes']:,} held-out codes",
                   held_out["codebook_usage"], least=0.80),
        bars.points("Text-to-token: word errors beyond real codes",
                    made["made"]["wer"] - made["real"]["wer"], most=0.05),
        bars.points("S→T on topic items, above the control", head["gain"], least=0.10),
        bars.bar("S→T on topic items, above chance", "≥ 3 standard errors", f"{above:+.1f}",
                 above >= 3),
        bars.bar("Items", "≥ 500", str(items), items >= 500),
        bars.share("Rise of the loss on held-out text", text_loss_rise(report["evaluation"]),
                   most=0.03),
    ]  # fmt: skip


def build_page(report: Mapping[str, Any], **shown: Any) -> str:
    """The page as HTML.

    Args:
        report: the figures of report.json.
        shown: what `gather` found; parts that are left out are not shown.
    """
    values: dict[str, Any] = {"recordings": (), "beginnings": (), "passage": (), "curves": {}}
    return pages.render(
        Path(__file__).parent / "page.html",
        **values | shown,
        report=report,
        text_loss_rise=text_loss_rise(report["evaluation"]),
        over_tokens=[_over_tokens(report, direction) for direction in (HEARD, "t2s")],
        topic=TOPIC,
        story=STORY,
        voices={
            NARRATOR: "espeak-ng, the narrator",
            MANY_VOICES: "espeak-ng, many voices of the training",
            NEW_VOICE: "espeak-ng, a new voice",
            NEURAL_VOICE: "a neural voice of the training",
        },
    )


def _over_tokens(report: Mapping[str, Any], direction: str) -> tuple[str, dict, tuple]:
    """Accuracy in % against tokens seen: its title, by arm (tokens, value, error), and bounds."""
    curves = {
        arm: [
            (point["tokens"], 100 * cell["accuracy"], 100 * cell["stderr"])
            for point in report["curve"][arm]
            if (cell := point["cloze"].get(TOPIC, {}).get(direction))
        ]
        for arm in ARMS
    }
    values = [value for curve in curves.values() for _, value, _ in curve]
    title = f"{pages.charts.DIRECTIONS[direction]} on topic items over tokens"
    return title, curves, (min([40.0, *values]), max([80.0, *values]))


def gather(demo: RealDemo, report: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows beside the figures.

    `recordings`; `beginnings` of `report["samples"]`, (samples,) at 16 kHz each; `passage`, an
    interleaved document as segments, spans with a voice that says their words; `curves`: by arm,
    (step, training loss).
    """
    from megatron_speech.training.reporting import read_metrics

    return {
        "recordings": samples.recordings(demo),
        "beginnings": [samples.item_sound(demo, shown["context"]) for shown in report["samples"]],
        "passage": [
            (segment, samples.say(segment.text) if segment.num_codes and segment.text else None)
            for segment in samples.passage(demo)
        ],
        "curves": {
            arm: [(record["iteration"], record["lm loss"])
                  for record in read_metrics(demo.path(arm, "run")) if "lm loss" in record]
            for arm in ARMS
        },
    }  # fmt: skip
