"""Figures and samples of a finished run: report.json and what the page shows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from examples.quickstart import samples
from examples.quickstart.bars import held_against_bars
from examples.quickstart.runner import Demo, Done
from examples.quickstart.sizes import BLENDS
from examples.quickstart.stages import arm_folder
from megatron_speech import pages

_SHOWN = (("sentences", "held-out sentence", 2), ("held-out-voice", "held-out voice", 1),
          ("windows", "word window", 1))  # fmt: skip
HEADLINE_TASK = "topic"
_DOCUMENTS_READ, _DOCUMENTS_SHOWN = 24, 3


def build_report(demo: Demo, done: Done, times: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of report.json."""
    codes, made = done["codes"], done["text_to_token"]
    report = {
        **demo.facts(),
        **times,
        "text": list(demo.text),
        "blends": BLENDS,
        "world": done["storyworld"],
        "speech": done["speech"],
        "speech_tokenizer": _speech_tokenizer(demo, done),
        "text_to_token": {
            **_word_errors("wer", made["sentences"]),
            **_word_errors("wer_real_codes", codes["sentences"]),
            **_word_errors("wer_windows", made["windows"]),
            **_word_errors("wer_real_codes_windows", codes["windows"]),
            "parameters": made["parameters"],
        },
        "interleave": done["interleaving"],
        "pretraining": _pretraining(demo, done),
        "evaluation": _evaluation(done["evaluation"]),
    }
    if demo.text:
        spans = done["interleaving"]
        own = {"wer_user_text": spans["wer"], "wer_user_text_n": spans["wer_n"]}
        report["text_to_token"] |= own
    report["bars"] = held_against_bars(report) if demo.size.has_bars and not demo.text else []
    return report


def _word_errors(name: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """A word error rate, and beside it the number of recordings or texts that it is of."""
    return {name: figures["wer"], f"{name}_n": figures["records"]}


def _speech_tokenizer(demo: Demo, done: Done) -> dict[str, Any]:
    """Figures of every test set; None for a codebook-less training that was not part of the run."""
    from megatron_speech.data.code_shards import find_shards, read_shard_info
    from megatron_speech.recipes import speech_tokenizer

    codes, facts = done["codes"], {}
    without = done.get("tokenizer_without_vq", {}).get("validation", {})
    most = speech_tokenizer.RECIPES[demo.size.recipes[0]]().data.valid_samples
    for name, suffix in (("sentences", ""), ("held-out-voice", "_held_out_voice"),
                         ("windows", "_windows")):  # fmt: skip
        found, bare = codes[name], without.get(f"wer {name}")
        facts |= _word_errors(f"wer{suffix}" if suffix else "wer_vq", found)
        facts[f"wer_no_vq{suffix}"] = bare
        facts[f"wer_no_vq{suffix}_n"] = None if bare is None else min(found["records"], most)
        facts[f"codebook_usage{suffix}"] = found["codebook_usage"]
        facts[f"perplexity{suffix}"] = found["perplexity"]
    rate = read_shard_info(find_shards(demo.path("codes", "sentences"))[0]).frame_rate_hz
    return {**facts, "num_codes": demo.size.num_codes, "frame_rate_hz": rate}


def _pretraining(demo: Demo, done: Done) -> dict[str, Any]:
    from megatron_speech.recipes import lm

    recipe = lm.RECIPES[demo.size.recipes[2]]()
    arms = {
        arm: [done[arm_folder(demo.size, arm, seed)] for seed in demo.size.seeds] for arm in BLENDS
    }
    losses = {
        arm: {name: _mean([run[name] for run in runs]) for name in ("text_loss", "speech_loss")}
        for arm, runs in arms.items()
    }
    first = arms["model"][0]
    return {
        **losses["model"],
        "control": losses["control"],
        "parameters": first["parameters"],
        "tokens": first["windows"] * recipe.data.seq_length,
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _evaluation(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Results by arm, averaged over seeds where there are several.

    `<arm>.cloze` has the tasks and, by direction, the headline task's figures.
    """
    evaluation: dict[str, Any] = {}
    for arm, runs in found.items():
        merged = average(list(runs.values()))
        evaluation[arm] = {**merged, "cloze": {**merged["cloze"][HEADLINE_TASK], **merged["cloze"]}}
        if len(runs) > 1:
            evaluation.setdefault("seeds", {})[arm] = dict(runs)
    return evaluation


def average(results: list[Any]) -> Any:
    """Merge results of equal shape: `accuracy` becomes the mean, with `seed_std` beside it.

    The items are the same for every seed, so n and the standard error over items stay those of
    one; the spread over seeds is told apart from it.
    """
    first = results[0]
    if not isinstance(first, dict):
        return first
    merged = {key: average([result[key] for result in results]) for key in first}
    if "accuracy" in first and len(results) > 1:
        accuracies = np.array([result["accuracy"] for result in results])
        mean = float(accuracies.mean())
        merged |= {
            "accuracy": mean,
            "stderr": float(np.sqrt(mean * (1 - mean) / first["n"])),
            "seed_std": float(accuracies.std(ddof=1)),
        }
    return merged


def build_page(report: Mapping[str, Any], **shown: Any) -> str:
    """The page as HTML.

    Args:
        report: the figures of report.json.
        shown: what `gather` found; parts that are left out are not shown.
    """
    curves = shown.pop("curves", {})

    def curve(run: str, loss: str) -> list[tuple[float, float]]:
        return pages.charts.smooth(curves.get(run, {}).get(loss, []))

    nothing = {"recordings": (), "code_counts": np.zeros(1, np.int64), "documents": ()}
    template = Path(__file__).parent / "page.html"
    return pages.render(template, report=report, curve=curve, **nothing | shown)


def gather(demo: Demo) -> dict[str, Any]:
    """What the page shows beside the figures.

    `recordings`, `code_counts` (K,), `documents` as lists of segments, and `curves`: by run and
    name of the loss, (step, value).
    """
    from megatron_speech.data.code_shards import read_code_shards
    from megatron_speech.evaluation.codes import code_counts

    _, records = read_code_shards(demo.path("codes", "train"))
    counts = code_counts([record.codes for record in records], demo.size.num_codes)
    found = samples.documents(demo.path("interleaved", "data"), demo.path("vocab"), _DOCUMENTS_READ)
    spoken = [segments for segments in found if any(segment.num_codes for segment in segments)]
    return {
        "recordings": _recordings(demo),
        "code_counts": counts,
        "curves": _curves(demo),
        "documents": spoken[:_DOCUMENTS_SHOWN],
    }


def _recordings(demo: Demo) -> list[samples.Recording]:
    from megatron_speech.data.code_shards import read_code_shards
    from megatron_speech.data.manifest import read_manifest

    chosen, codes = [], []
    for name, kind, count in _SHOWN:
        rows = {row.id: row for row in read_manifest(demo.manifest(name))}
        records = [r for r in read_code_shards(demo.path("codes", name))[1] if len(r.codes)]
        chosen += [(kind, rows[record.id]) for record in records[:count]]
        codes += [record.codes for record in records[:count]]
    return samples.recordings(demo.speech_tokenizer, chosen, codes)


def _curves(demo: Demo) -> dict[str, dict[str, list[tuple[float, float]]]]:
    from megatron_speech.training.reporting import read_metrics

    seed = demo.size.seeds[0]
    runs = {arm: demo.path(arm_folder(demo.size, arm, seed), "run") for arm in BLENDS}
    runs |= {
        "text_to_token": demo.path("text_to_token", "run"),
        "speech_tokenizer": demo.path("speech_tokenizer"),
    }
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, folder in runs.items():
        found = curves.setdefault(name, {})
        for record in read_metrics(folder):
            for key, value in record.items():
                if key.endswith("loss"):
                    found.setdefault(key, []).append((record["iteration"], value))
    return curves
