"""Figures and samples of a finished run: report.json and what the page shows."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from examples.quickstart.bars import held_against_bars
from examples.quickstart.page_data import PageData, Recording, Segment
from examples.quickstart.runner import Demo, Done, Times
from examples.quickstart.sizes import BLENDS
from examples.quickstart.stages import arm_folder

_SHOWN = (("sentences", "held-out sentence", 2), ("held-out-voice", "held-out voice", 1),
          ("windows", "word window", 1))  # fmt: skip
HEADLINE_TASK = "topic"
_DOCUMENTS_READ, _DOCUMENTS_SHOWN = 24, 3


def build_report(demo: Demo, done: Done, times: Times) -> dict[str, Any]:
    """The contents of report.json."""
    codes, made = done["codes"], done["text_to_token"]
    report = {
        "size": demo.size.name,
        "text": list(demo.text),
        "machine": demo.machine,
        "settings": demo.size.settings(),
        "blends": BLENDS,
        "seconds": times.stages,
        "seconds_in_all": times.whole,
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
        "evaluation": _evaluation(demo, done["evaluation"]),
    }
    if demo.text:
        spans = done["interleaving"]
        report["text_to_token"] |= {
            "wer_user_text": spans["wer"],
            "wer_user_text_n": spans.get("wer_n"),
        }
    report["bars"] = held_against_bars(report) if demo.size.has_bars and not demo.text else []
    return report


def _word_errors(name: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    """A word error rate, and beside it the number of recordings or texts that it is of."""
    return {name: figures["wer"], f"{name}_n": figures["records"]}


def _speech_tokenizer(demo: Demo, done: Done) -> dict[str, Any]:
    """Figures of every test set; None for a codebook-less training that was not part of the run."""
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
    return {**facts, "num_codes": demo.size.num_codes, "frame_rate_hz": _frame_rate(demo)}


def _frame_rate(demo: Demo) -> float:
    from megatron_speech.data.code_shards import find_shards, read_shard_info

    return read_shard_info(find_shards(demo.path("codes", "sentences"))[0]).frame_rate_hz


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


def _evaluation(demo: Demo, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The first seed's results, accuracies averaged over seeds where there are several."""
    evaluation: dict[str, Any] = {}
    for arm, runs in found.items():
        results = list(runs.values())
        evaluation[arm] = average(results)
        if len(results) > 1:
            evaluation.setdefault("seeds", {})[arm] = dict(runs)
    return evaluation


def for_programs(report: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of report.json: `evaluation.<arm>.cloze` has the tasks, and by direction the
    headline task's figures.
    """
    arms = dict(report["evaluation"])
    for arm in BLENDS:
        cloze = arms[arm]["cloze"]
        arms[arm] = {**arms[arm], "cloze": {**cloze[HEADLINE_TASK], **cloze}}
    return {**report, "evaluation": arms}


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


def gather_page(demo: Demo, report: dict[str, Any]) -> PageData:
    """Read the samples that the page shows beside the figures."""
    from megatron_speech.data.code_shards import read_code_shards
    from megatron_speech.evaluation.codes import code_counts

    _, records = read_code_shards(demo.path("codes", "train"))
    counts = code_counts([record.codes for record in records], demo.size.num_codes)
    return PageData(
        report=report,
        recordings=_recordings(demo),
        code_counts=counts,
        curves=_curves(demo),
        documents=_documents(demo),
    )


def _recordings(demo: Demo) -> list[Recording]:
    from megatron_speech.audio import read_audio
    from megatron_speech.data.code_shards import read_code_shards
    from megatron_speech.data.manifest import read_manifest
    from megatron_speech.speech_tokenizer.tokenizer import SpeechTokenizer

    tokenizer = SpeechTokenizer.from_pretrained(demo.path("speech_tokenizer", "export"))
    chosen = []
    for name, kind, count in _SHOWN:
        rows = {row.id: row for row in read_manifest(demo.path("speech", name, "manifest.parquet"))}
        records = [r for r in read_code_shards(demo.path("codes", name))[1] if len(r.codes)]
        for record in records[:count]:
            samples = read_audio(rows[record.id].path)
            chosen.append((kind, rows[record.id], record.codes, samples))
    readings = tokenizer.decode_text([codes for _, _, codes, _ in chosen])
    return [
        Recording(
            kind=kind,
            text=row.text,
            reading=reading,
            codes=codes,
            samples=samples,
            sample_rate_hz=16_000,
            speaker=row.speaker,
        )
        for (kind, row, codes, samples), reading in zip(chosen, readings, strict=True)
    ]


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


def _documents(demo: Demo) -> list[list[Segment]]:
    """Some documents with speech in them: text, and spans with the words the codes stand for."""
    from megatron_speech.datasets.inspect import InspectConfig, inspect

    config = InspectConfig(vocab=demo.path("vocab"), documents=_DOCUMENTS_READ)
    shown = []
    for runs in inspect(demo.path("interleaved", "data"), config).documents:
        segments = [
            Segment(text=run.text.strip())
            if run.kind == "text"
            else Segment(text=run.spoken or "", num_codes=len(run.tokens))
            for run in runs
            if run.kind != "special"
        ]
        if any(segment.num_codes for segment in segments):
            shown.append([segment for segment in segments if segment.text or segment.num_codes])
    return shown[:_DOCUMENTS_SHOWN]
