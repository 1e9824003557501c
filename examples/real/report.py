"""Figures of a finished run, and what is asked of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from examples.quickstart import bars
from examples.quickstart.page_data import Recording, Segment
from examples.quickstart.runner import Times
from examples.real import samples
from examples.real.model_stages import BASE
from examples.real.run import TOPIC, TRAINED_VOICES, RealDemo
from examples.real.sizes import ARMS, BLENDS

HEARD = "s2t"


@dataclass(frozen=True, kw_only=True)
class RealPage:
    """Everything the page shows."""

    report: Mapping[str, Any]
    recordings: Sequence[Recording] = ()
    beginnings: Sequence[np.ndarray] = ()
    """Of `report["samples"]`, (samples,) at 16 kHz each."""
    passage: Sequence[tuple[Segment, np.ndarray | None]] = ()
    """An interleaved document, spans with a voice that says their words."""
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    """Arm -> (step, training loss)."""


def build_report(demo: RealDemo, done: Mapping[str, Any], times: Times) -> dict[str, Any]:
    """The contents of report.json."""
    base, found = done["base"], done["materials"]
    arms = {arm: done[f"evaluation-{arm}"] for arm in (BASE, *ARMS)}
    report: dict[str, Any] = {
        "size": demo.size.name,
        "machine": demo.machine,
        "settings": demo.size.settings(),
        "blends": BLENDS,
        "seconds": times.stages,
        "seconds_in_all": times.whole,
        "materials": {
            "whisper": demo.whisper or Path(found["whisper"]).name,
            "base": demo.base or Path(found["base"]).name,
            "judge": found["judge"] and Path(found["judge"]).name,
            "notes": found["notes"],
        },
        "text": done["speech"],
        "recordings": done["recordings"],
        "speech_tokenizer": {**done["codes"], "validation": done["speech_tokenizer"]["validation"]},
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
            found.append(bars.at_most(f"Word errors through codes, {name}", codes,
                                      2 * untouched + 0.05))  # fmt: skip
    use = sets[TRAINED_VOICES]["codebook_usage"]
    found.append(bars.at_least("Codebook use, synthetic voices", use, 0.80))
    made = report["text_to_token"]
    found.append(bars.points("Text-to-token: word errors beyond real codes",
                             made["made"]["wer"] - made["real"]["wer"], 0.05))  # fmt: skip
    head = report["headline"]
    above = head["above_chance_stderrs"]
    found += [
        bars.gain("S→T on topic items, above the control", head["gain"], 0.10),
        bars.bar("S→T on topic items, above chance", "≥ 3 standard errors", f"{above:+.1f}",
                 above >= 3),
        bars.bar("Items", "≥ 500", str(head["model"]["n"]), head["model"]["n"] >= 500),
        bars.at_most("Rise of the loss on held-out text", text_loss_rise(report["evaluation"]),
                     0.03),
    ]  # fmt: skip
    return found


def gather_page(demo: RealDemo, report: Mapping[str, Any]) -> RealPage:
    """Read the samples that the page shows beside the figures."""
    from megatron_speech.training.reporting import read_metrics

    spans = [
        (segment, samples.say(segment.text) if segment.num_codes and segment.text else None)
        for segment in samples.passage(demo)
    ]
    return RealPage(
        report=report,
        recordings=samples.recordings(demo),
        beginnings=[samples.item_sound(demo, shown["context"]) for shown in report["samples"]],
        passage=spans,
        curves={
            arm: [(record["iteration"], record["lm loss"])
                  for record in read_metrics(demo.path(arm, "run")) if "lm loss" in record]
            for arm in ARMS
        },
    )  # fmt: skip
