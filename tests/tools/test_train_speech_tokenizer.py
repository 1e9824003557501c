import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import WhisperForConditionalGeneration

from megatron_speech.data.manifest import read_manifest, write_manifest
from megatron_speech.errors import CheckpointError, ConfigError, DataError
from megatron_speech.io.files import read_json
from megatron_speech.recipes import speech_tokenizer_run
from megatron_speech.speech_tokenizer import SpeechTokenizer
from megatron_speech.speech_tokenizer.encoder import whisper_config
from megatron_speech.training.reporting import read_metrics
from tests.odd_audio import BAD, write_odd_audio, write_three_hours
from tests.tools.speech_training import arguments, rejected_ids, write_speech
from tools import train_speech_tokenizer


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_speech(tmp_path_factory.mktemp("speech"))


def test_trains_exports_and_resumes_bit_exactly(manifest, tmp_path):
    whole = train_speech_tokenizer.main(arguments(manifest, tmp_path / "whole"))
    assert whole.finished
    assert whole.export is not None
    tokenizer = SpeechTokenizer.from_pretrained(whole.export)
    names = load_file(whole.export / "model.safetensors")
    assert not [name for name in names if "character" in name]
    assert tokenizer.num_codes == 64
    name = manifest.parent.name
    held_out = ("wer", "asr loss", "codebook usage", "perplexity")
    assert {f"{key} {name}" for key in held_out} <= set(whole.metrics)
    assert '"broken"' in (tmp_path / "whole/rejected.jsonl").read_text()

    stopped = tmp_path / "stopped"
    shutil.copytree(tmp_path / "whole", stopped)
    shutil.rmtree(stopped / "export")
    shutil.rmtree(stopped / "iter_0000008")
    (stopped / "latest_checkpointed_iteration.txt").write_text("4\n")
    resumed = train_speech_tokenizer.main(arguments(manifest, stopped))
    assert resumed.export is not None
    weights = "model.safetensors"
    assert (resumed.export / weights).read_bytes() == (whole.export / weights).read_bytes()
    assert resumed.metrics == whole.metrics
    assert train_speech_tokenizer.main(arguments(manifest, tmp_path / "whole")) == whole


def test_the_export_of_a_prolonged_run_is_not_that_of_fewer_steps(manifest, tmp_path, monkeypatch):
    train_speech_tokenizer.main(arguments(manifest, tmp_path, "--train-iters", "1"))
    longer = arguments(manifest, tmp_path, "--train-iters", "2")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(speech_tokenizer_run, "_export", killed)
        with pytest.raises(KeyboardInterrupt):
            train_speech_tokenizer.main(longer)
    result = train_speech_tokenizer.main(longer)
    assert result.export is not None
    state = torch.load(tmp_path / "iter_0000002" / "state.pt")["model"]
    weight = "model.encoder.conv1.weight"
    assert torch.equal(load_file(result.export / "model.safetensors")[weight], state[weight])


def test_without_quantizer(manifest, tmp_path):
    result = train_speech_tokenizer.main(arguments(manifest, tmp_path, "--no-quantize"))
    name = manifest.parent.name
    assert list(result.metrics) == [f"wer {name}", f"asr loss {name}", f"ctc wer {name}"]


@pytest.mark.parametrize("quantizer", ["vq", "fsq"])
def test_learns_in_bfloat16_with_accumulation_and_restarts(manifest, tmp_path, quantizer):
    more = [
        "--micro-batch-size",
        "2",
        "--bf16",
        "--quantize-restart-interval",
        "1",
        "--tensorboard",
    ]
    fsq = ["--quantizer", quantizer, "--fsq-levels", "5", "4"]
    start = ["--quantize-start-step", "0"]
    result = train_speech_tokenizer.main(arguments(manifest, tmp_path, *more, *fsq, *start))
    codes = {"vq": 64, "fsq": 20}[quantizer]
    assert SpeechTokenizer.from_pretrained(result.export).num_codes == codes
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    name = manifest.parent.name
    held_out = {f"{key} {name} validation" for key in ("wer", "codebook usage", "perplexity")}
    trained = {"asr loss", "commitment loss", "codebook usage", "codebook perplexity"}
    restarts = {"codes restarted"} if quantizer == "vq" else set()
    assert held_out | trained | restarts <= set(events.Tags()["scalars"])
    losses = [event.value for event in events.Scalars("asr loss")]
    assert len(losses) == 8
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("quantizer", ["vq", "fsq"])
def test_bad_steps_change_nothing(manifest, tmp_path, quantizer):
    """Codebook and counts included: steps 4 to 8 are bad, the codebook began with the fourth."""
    flags = ["--quantizer", quantizer, "--fsq-levels", "5", "4", "--quantize-restart-interval", "1"]
    flags += ["--quantize-restart-threshold", "0.9", "--grad-norm-skip-threshold", "1e-9"]
    flags += ["--bad-step-policy", "skip", "--bad-step-limit", "100"]
    train_speech_tokenizer.main(arguments(manifest, tmp_path, *flags))
    assert all(record["number of skipped iterations"] for record in read_metrics(tmp_path))
    before, after = (torch.load(tmp_path / f"iter_{n:07d}/state.pt")["model"] for n in (4, 8))
    assert "model.encoder.quantizer.ema_count" in before
    for name, value in before.items():
        assert torch.equal(after[name], value), name


def figures(run: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in record.items() if k != "kind"} for record in read_metrics(run)]


@pytest.mark.parametrize("quantizer", ["vq", "fsq"])
def test_two_processes_train_as_one(manifest, tmp_path, quantizer):
    """The same micro-batches, hence the same weights up to the order of sums."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", str(train_speech_tokenizer.__file__)]
    more = ["--micro-batch-size", "2", "--no-cache-features", "--quantize-restart-interval", "2"]
    more += ["--quantize-restart-threshold", "0.99", "--quantizer", quantizer]
    # sdpa rounds by its threads, and a restart makes a rounding a different code
    more += ["--fsq-levels", "5", "4", "--attention", "eager"]
    one = train_speech_tokenizer.main(arguments(manifest, tmp_path / "one", *more))
    result = subprocess.run(
        [*command, *arguments(manifest, tmp_path / "two", *more)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    tensors = [load_file(tmp_path / run / "export/model.safetensors") for run in ("one", "two")]
    for name, value in tensors[0].items():
        torch.testing.assert_close(
            tensors[1][name], value, rtol=2e-3, atol=2e-3, msg=lambda m, name=name: f"{name}: {m}"
        )
    train_metrics = {run: figures(tmp_path / run) for run in ("one", "two")}
    restarts = [[r.get("codes restarted") for r in train_metrics[run]] for run in ("one", "two")]
    assert restarts[0] == restarts[1]
    for alone, together in zip(train_metrics["one"], train_metrics["two"], strict=True):
        assert together == pytest.approx(alone, rel=2e-3, abs=2e-3)
    assert quantizer == "fsq" or sum(count or 0 for count in restarts[0]) > 10
    two = read_metrics(tmp_path / "two", "valid")[-1]
    assert {name: two[name] for name in one.metrics} == pytest.approx(one.metrics, abs=0.02)
    assert rejected_ids(tmp_path / "two") == rejected_ids(tmp_path / "one") == ["broken"]


def test_broken_recordings_are_set_aside_while_training(manifest, tmp_path, capsys):
    rows = [replace(row, duration_s=0.0) for row in read_manifest(manifest)]
    late = rows[3].path.with_name("late.flac")
    late.write_bytes(rows[3].path.read_bytes()[:4000])  # its header is whole
    known = read_manifest(manifest)[3].duration_s  # so that nothing reads it before its turn
    rows.append(replace(rows[3], id="late", path=late, duration_s=known))
    write_manifest(tmp_path / "manifest.parquet", rows)
    flags = ["--no-cache-features", "--train-iters", "20", "--global-batch-size", "4"]
    run = tmp_path / "run"
    result = train_speech_tokenizer.main(
        arguments(tmp_path / "manifest.parquet", run, *flags, "--valid-manifest", str(manifest))
    )
    assert result.finished
    assert rejected_ids(run) == ["broken", "late"]
    said = [line for line in capsys.readouterr().out.splitlines() if "set aside" in line]
    assert "recordings set aside: 1 unreadable;" in said[0]
    assert "recordings set aside: 2 unreadable;" in said[-1]


@pytest.mark.parametrize("cached", [True, False])
def test_odd_audio_is_trained_on_and_bad_audio_set_aside(manifest, tmp_path, cached):
    odd = write_odd_audio(tmp_path)
    hours = write_three_hours(tmp_path / "hours.wav")
    rows = [*odd, replace(odd[0], id="hours", path=hours), odd[0]]
    write_manifest(tmp_path / "manifest.parquet", rows)
    flags = ["--train-iters", "12", "--kmeans-vectors", "70", "--global-batch-size", "4"]
    flags += ["--cache-features" if cached else "--no-cache-features"]
    flags += ["--valid-manifest", str(manifest)]
    run = tmp_path / "run"
    assert train_speech_tokenizer.main(arguments(tmp_path / "manifest.parquet", run, *flags))
    lines = (run / "rejected.jsonl").read_text().splitlines()
    found = [(item["id"], item["reason"]) for item in map(json.loads, lines)]
    bad = [
        *BAD.items(),
        ("hours", "too_long"),
        (odd[0].id, "duplicate_id"),
        ("broken", "unreadable"),
    ]
    assert sorted(found) == sorted(bad)


def test_vanished_storage_ends_the_training(manifest, tmp_path):
    rows = [
        replace(row, id=f"{row.id}-{n}", path=tmp_path / "gone.flac", duration_s=1.0)
        for n in range(12)
        for row in read_manifest(manifest)
    ]
    write_manifest(tmp_path / "manifest.parquet", rows)
    flags = ["--no-cache-features", "--valid-manifest", str(manifest)]
    with pytest.raises(DataError, match="100 recordings in a row cannot be read"):
        train_speech_tokenizer.main(arguments(tmp_path / "manifest.parquet", tmp_path, *flags))


def test_the_best_model_is_kept_and_exported_on_demand(manifest, tmp_path):
    often = ["--eval-interval", "1", "--save-interval", "1", "--lr", "0.05", "--export", "best"]
    more = [*often, "--best-by", manifest.parent.name, "--train-iters", "12"]
    result = train_speech_tokenizer.main(arguments(manifest, tmp_path, *more))
    name = f"wer {manifest.parent.name}"
    records = read_metrics(tmp_path, "valid")
    through_codes = [r for r in records if any("usage" in key for key in r)]
    assert 0 < len(through_codes) < len(records)
    best = min(through_codes, key=lambda record: record[name])
    kept = read_json(tmp_path / "best/best.json")
    assert (kept["iteration"], kept["wer"]) == (best["iteration"], best[name])
    state = torch.load(tmp_path / f"iter_{best['iteration']:07d}/state.pt")["model"]
    exported = load_file(result.export / "model.safetensors")
    weight = "model.encoder.conv1.weight"
    assert torch.equal(exported[weight], state[weight])
    with pytest.raises(ConfigError, match="no such validation set"):
        train_speech_tokenizer.main(arguments(manifest, tmp_path / "new", "--best-by", "nothing"))


def test_starts_from_a_whisper_folder_with_its_tokenizer(manifest, tmp_path):
    first = train_speech_tokenizer.main(arguments(manifest, tmp_path / "a", "--train-iters", "1"))
    tokenizer = SpeechTokenizer.from_pretrained(first.export)
    sizes = replace(tokenizer.config, vocab_size=tokenizer.config.vocab_size + 5)
    folder = tmp_path / "whisper"
    whisper = WhisperForConditionalGeneration(whisper_config(sizes))
    whisper.save_pretrained(folder)
    tokenizer.text.save_pretrained(folder)
    flags = ["--init-from", str(folder), "--train-iters", "1", "--lr", "1e-9", "--ctc-weight", "0"]
    result = train_speech_tokenizer.main(arguments(manifest, tmp_path / "b", *flags))
    tensors = load_file(result.export / "model.safetensors")
    for name, value in whisper.state_dict().items():
        if name != "proj_out.weight":
            torch.testing.assert_close(tensors[name], value, rtol=0, atol=1e-6)
    again = SpeechTokenizer.from_pretrained(result.export)
    assert again.text.encode("the cat") == tokenizer.text.encode("the cat")
    flags = ["--init-from", str(tmp_path)]
    with pytest.raises(CheckpointError, match="expected the folder of a Whisper model"):
        train_speech_tokenizer.main(arguments(manifest, tmp_path / "c", *flags))


def test_a_run_is_not_continued_in_another_order(manifest, tmp_path):
    train_speech_tokenizer.main(arguments(manifest, tmp_path, "--train-iters", "2"))
    with pytest.raises(ConfigError, match="begun with 1234"):
        train_speech_tokenizer.main(arguments(manifest, tmp_path, "--seed", "7"))


def test_bad_input(manifest, tmp_path):
    with pytest.raises(ConfigError, match="--manifest"):
        train_speech_tokenizer.main(["tokenizer-smoke", "--save", str(tmp_path)])
    with pytest.raises(DataError, match="does not exist"):
        train_speech_tokenizer.main(arguments(tmp_path / "none.parquet", tmp_path))
    with pytest.raises(ConfigError, match="must be a multiple"):
        train_speech_tokenizer.main(arguments(manifest, tmp_path, "--global-batch-size", "5"))
    with pytest.raises(SystemExit):
        train_speech_tokenizer.main(["tokenizer-unknown"])
