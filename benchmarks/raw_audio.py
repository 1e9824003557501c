"""tools/prepare_speech.py on hours of mixed audio whose truth is known.

    python benchmarks/raw_audio.py --manifest prompts-en/manifest.tsv prompts-es/manifest.tsv \\
        --whisper whisper-base --fast-whisper whisper-tiny.en --output runs/raw_audio --hours 3

    python benchmarks/raw_audio.py ... --parts tasks    # with the recordings that are there

Speech of the manifests is mixed with music, noise and silence into long recordings; some of it is
clipped or drowned, and the first sixth of all is there again, softer and shifted. Measured are the
speech seconds found, what is no speech among what is kept, repeats removed, the word errors of
what is kept beside the same Whisper's on the clean clips, equal bytes for 1, 2 and 4 tasks and
after kills, and how much faster than real time a core is. Writes results/raw_audio.json and
results/raw_audio_tasks.json.
"""

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import soundfile
import torch
from common import report
from mixed_audio import Stretch, mix

from megatron_speech import cli
from megatron_speech.audio import SAMPLE_RATE_HZ, read_audio
from megatron_speech.data.manifest import read_manifest
from megatron_speech.errors import DataError
from megatron_speech.prepare_speech.readers import WhisperReader
from megatron_speech.speech_tokenizer.transcription import error_rate, word_error_rate, word_errors

TOOL = Path(__file__).resolve().parents[1] / "tools" / "prepare_speech.py"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is mixed, and who reads it."""

    manifest: tuple[Path, ...]
    """Manifests of clean clips; those with texts are counted for word errors."""
    whisper: Path
    """Multilingual Whisper of the main run."""
    fast_whisper: Path | None = None
    """Whisper of the runs for speed, and for equal bytes."""
    output: Path = Path("runs/raw_audio")
    hours: float = 3.0
    equal_recordings: int = 4
    """Recordings, a quarter of an hour each, that are prepared again by several tasks and kills."""
    seed: int = 0
    parts: tuple[Literal["quality", "tasks"], ...] = ("quality", "tasks")
    """quality mixes recordings, prepares them once and judges what is kept; tasks takes those
    recordings and compares the files of several tasks and of killed ones."""


def run(flags: Sequence[object], wait: bool = True) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(TOOL), *map(str, flags)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if wait and process.wait():
        raise DataError(f"{' '.join(command)} failed")
    return process


def cpu_seconds(flags: Sequence[object]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(flags)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rows_of(output: Path) -> list[dict[str, Any]]:
    """All segments, with what became of them in the end."""
    rows = []
    for path in sorted((output / "parts").glob("*.parquet")):
        rows += pq.read_table(path).drop_columns(["marks", "frames"]).to_pylist()
    lines = (output / "rejected.jsonl").read_text().splitlines()
    reasons = {item["id"]: item["reason"] for item in map(json.loads, lines)}
    for row in rows:
        row["status"] = reasons.get(row["id"], "kept")
        row["stop_s"] = row["start_s"] + row["duration_s"]
    return rows


def overlap(one: Any, start_s: float, stop_s: float) -> float:
    return max(min(one.stop_s, stop_s) - max(one.start_s, start_s), 0.0)


def covered(stretches: Sequence[Stretch], rows: Sequence[dict[str, Any]]) -> float:
    """Seconds of stretches that lie in segments."""
    return sum(
        overlap(each, row["start_s"], row["stop_s"])
        for each in stretches
        for row in rows
        if row["recording"] == each.recording
    )


def seconds(stretches: Sequence[Stretch]) -> float:
    return sum(each.stop_s - each.start_s for each in stretches)


def measure(config: Config, truth: Sequence[Stretch], output: Path) -> dict[str, Any]:
    rows = rows_of(output)
    kept = [row for row in rows if row["status"] == "kept"]
    speech = [each for each in truth if each.kind == "speech"]
    other = [each for each in truth if each.kind in ("music", "noise")
             or (each.kind == "silence" and each.stop_s - each.start_s > 1.3)]  # fmt: skip
    again = [each for each in speech if each.recording == "repeat"]
    first = [each for each in speech if each.recording != "repeat"]
    sound = [each for each in first if not each.fault]
    kept_s = sum(row["duration_s"] for row in kept)
    duplicates = [row for row in rows if row["status"] == "duplicate"]
    return {
        "hours": sum(each.stop_s - each.start_s for each in truth) / 3600,
        "speech_s": seconds(speech),
        "speech_found": covered(speech, rows) / seconds(speech),
        "sound_speech_kept": covered(sound, kept) / seconds(sound),
        "kept_s": kept_s,
        "no_speech_in_kept": covered(other, kept) / max(kept_s, 1e-9),
        "repeated_kept": covered(again, kept) / max(seconds(again), 1e-9),
        "duplicates": len(duplicates),
        "duplicates_that_are_none": sum(row["recording"] != "repeat" for row in duplicates),
        "faults_kept": {
            fault: covered(bad, kept) / max(seconds(bad), 1e-9)
            for fault in ("clipped", "noisy")
            for bad in [[each for each in first if each.fault == fault]]
        },
        "statuses": {s: sum(r["status"] == s for r in rows) for s in {r["status"] for r in rows}},
        **word_error_figures(config, sound, first, kept),
    }


def word_error_figures(
    config: Config, sound: Sequence[Stretch], first: Sequence[Stretch], kept: list[dict[str, Any]]
) -> dict[str, Any]:
    """Of clips that are wholly in kept segments: as kept, and as the same Whisper reads each."""
    pairs, clips = list[tuple[str, str]](), set[str]()
    for row in kept:
        inside = [each for each in first if each.recording == row["recording"]
                  and overlap(each, row["start_s"], row["stop_s"]) > 0.1]  # fmt: skip
        whole = all(
            overlap(each, row["start_s"], row["stop_s"]) > 0.9 * (each.stop_s - each.start_s)
            for each in inside
        )
        if inside and whole and all(each.text and each.language == "en" for each in inside):
            pairs.append((" ".join(each.text for each in inside), row["text"]))
            clips |= {each.clip for each in inside}
    if not pairs:
        return {}
    rows = [
        r for path in config.manifest for r in read_manifest(path) if r.text and r.language == "en"
    ]
    used = {each.clip for each in sound}
    rows = [row for row in rows if row.id in used]
    reader = WhisperReader(config.whisper, "cpu", 240, torch.float32)
    audio = [read_audio(row.path)[: 30 * SAMPLE_RATE_HZ] for row in rows]
    read = [each.text for each in reader.read(audio, ["en"] * len(audio), 30)]
    errors = word_errors([row.text for row in rows], read)
    return {
        "wer_kept": word_error_rate([text for text, _ in pairs], [read for _, read in pairs]),
        "wer_kept_segments": len(pairs),
        "wer_clean": error_rate(errors),
        "wer_clean_of_kept": error_rate(
            e for row, e in zip(rows, errors, strict=True) if row.id in clips
        ),
        "wer_clean_clips": len(rows),
    }


def digests(output: Path) -> dict[str, str]:
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.rglob("*"))
        if path.is_file()
    }


def by_tasks(config: Config, source: Path) -> dict[str, Any]:
    """Some recordings by 1, 2 and 4 tasks, and killed: whether all files are the same; and the
    speed of the first run, without start-up."""
    recordings = sorted(source.glob("*.flac"))[: config.equal_recordings]
    if not recordings:
        raise DataError(f"{source} holds no recordings; --parts quality mixes them")
    some = config.output / "some"
    for name in ("some", "tasks-1", "tasks-2", "tasks-4", "killed"):
        shutil.rmtree(config.output / name, ignore_errors=True)
    some.mkdir()
    for path in recordings:
        shutil.copy(path, some)
    whisper = config.fast_whisper or config.whisper
    common = ["--input", some, "--whisper", whisper, "--shard-size", 1]
    whole = config.output / "tasks-1"
    start_s = cpu_seconds([*common, "--output", whole, "--dry-run"])
    spent_s = cpu_seconds([*common, "--output", whole]) - start_s
    audio_s = sum(soundfile.info(path).duration for path in some.glob("*.flac"))
    expected, equal = digests(whole), {}
    for tasks in (2, 4):
        output = config.output / f"tasks-{tasks}"
        for task in reversed(range(tasks)):
            run([*common, "--output", output, "--task", task, "--tasks", tasks])
        equal[f"{tasks} tasks"] = digests(output) == expected
    output = config.output / "killed"
    for wanted in range(1, config.equal_recordings):
        process = run([*common, "--output", output], wait=False)
        while len(list(output.glob("parts/*.parquet"))) < wanted and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
        process.wait()
    run([*common, "--output", output])
    equal["after kills"] = digests(output) == expected
    return {"fast_cpu_x_real_time": audio_s / spent_s, "equal": equal}


def quality(config: Config, source: Path) -> dict[str, Any]:
    """All recordings, mixed anew, by one task: what is kept, and the speed with start-up."""
    shutil.rmtree(config.output, ignore_errors=True)
    truth = mix(config.manifest, config.hours, config.seed, source)
    flags = ["--input", source, "--shard-size", 1]
    prepared = config.output / "prepared"
    cpu_s = cpu_seconds([*flags, "--whisper", config.whisper, "--output", prepared])
    figures = measure(config, truth, prepared)
    return figures | {"cpu_x_real_time": figures["hours"] * 3600 / cpu_s}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure both parts, each with a file of figures of its own."""
    config = cli.parse(Config, argv, __doc__ or "")
    source = config.output / "mixed"
    if "quality" in config.parts:
        report("raw_audio", "the same Whisper on the clean clips", quality(config, source))
    if "tasks" in config.parts:
        report("raw_audio_tasks", "one task, undisturbed", by_tasks(config, source))


if __name__ == "__main__":
    cli.run(main, starts_over=True)
