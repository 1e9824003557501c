"""Stages are done once, continue where they were stopped, and start afresh if settings changed."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from examples.quickstart import demo as quickstart
from examples.quickstart import runner
from examples.quickstart.chain import chain
from examples.quickstart.machine import expected_minutes, measure_machine
from examples.quickstart.runner import Demo, Stage, run_stages, to_flags
from examples.quickstart.sizes import BLENDS, SIZES
from examples.voice import demo as voice
from examples.voice.stages import CHAIN
from megatron_speech.errors import CheckpointError, DataError, InUseError
from megatron_speech.io.files import fingerprint_of, read_json, write_json
from megatron_speech.jobs.claims import exclusive
from megatron_speech.recipes import lm, speech_tokenizer


@pytest.fixture
def demo(tmp_path):
    return Demo(size=SIZES["smoke"], output=tmp_path, machine={"precision": "fp32"})


def recorded(name, calls, **options):
    def run(demo, done):
        calls.append(name)
        folder = demo.path(name)
        folder.mkdir(exist_ok=True)
        before = len(list(folder.iterdir()))
        (folder / f"piece-{before}").touch()
        if options.get("fails_at") == before:
            raise KeyboardInterrupt
        return {"pieces": len(list(folder.iterdir())), "seen": sorted(done)}

    return Stage(name, name, run, settings=options.get("settings", ()))


def test_stages_run_in_order_and_see_what_was_done(demo):
    calls = []
    done, times = run_stages([recorded("a", calls), recorded("b", calls)], demo)
    assert calls == ["a", "b"]
    assert done == {"a": {"pieces": 1, "seen": []}, "b": {"pieces": 1, "seen": ["a"]}}
    assert set(times["seconds"]) == {"a", "b"}
    assert times["seconds_in_all"] == pytest.approx(sum(times["seconds"].values()))


def test_a_second_run_does_nothing_and_reports_the_same(demo, capsys):
    calls = []
    first = run_stages([recorded("a", calls), recorded("b", calls)], demo)
    again = run_stages([recorded("a", calls), recorded("b", calls)], demo)
    assert again == first
    assert calls == ["a", "b"]
    assert "done before" in capsys.readouterr().out


def test_a_stopped_stage_continues_with_what_it_has(demo):
    calls = []
    stages = [recorded("a", calls), recorded("b", calls, fails_at=0)]
    with pytest.raises(KeyboardInterrupt):
        run_stages(stages, demo)
    done, times = run_stages(stages, demo)
    assert calls == ["a", "b", "b"]
    assert done["b"]["pieces"] == 2
    marker = read_json(demo.path("stages", "b.json"))
    assert marker["seconds"] == times["seconds"]["b"] > 0


def test_a_stage_whose_removal_was_cut_off_is_not_done(demo, monkeypatch):
    """Its marker goes before its files: else the old settings, given again, would believe it."""
    calls = []
    stages = [recorded("a", calls)]
    run_stages(stages, demo)

    def cut_off(folder):
        (folder / "piece-0").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runner, "remove_folder", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run_stages(stages, replace(demo, machine={"precision": "bf16"}))
    done, _ = run_stages(stages, demo)
    assert calls == ["a", "a"]
    assert done["a"]["pieces"] == 1


@pytest.mark.parametrize(
    ("main", "more"), [(quickstart.main, []), (voice.main, ["--demo", "runs/none"])]
)
def test_a_second_demo_in_one_folder_is_told_so(main, more, tmp_path):
    with exclusive(tmp_path, inside=True), pytest.raises(InUseError, match="in use by process"):
        main(["--size", "smoke", "--output", str(tmp_path), *more])


@dataclass(frozen=True, kw_only=True)
class Listening(Demo):
    whisper: Path | None = None


def test_a_model_that_is_given_later_or_changes_is_met_by_the_stages_it_is_for(demo, tmp_path):
    calls, model = [], tmp_path / "whisper"
    model.mkdir()
    stages = [recorded("a", calls), replace(recorded("b", calls), models=("whisper",))]
    for_b = Listening(size=demo.size, output=demo.output, machine=demo.machine)
    run_stages([recorded("a", calls), recorded("b", calls)], demo)
    run_stages(stages, for_b)  # without one, what was done before there was a choice is kept
    assert calls == ["a", "b"]
    for content in ("one", "two"):
        (model / "config.json").write_text(content)
        calls.clear()
        for _ in range(2):
            run_stages(stages, replace(for_b, whisper=model))
        assert calls == ["b"]


def test_the_voice_demo_reads_its_speech_again_by_another_whisper():
    assert [stage.name for stage in CHAIN if "whisper" in stage.models] == ["quality"]


def test_the_voice_demo_refuses_what_is_no_whisper_before_it_begins(tmp_path):
    write_json(tmp_path / "demo/report.json", {})
    write_json(tmp_path / "demo/machine.json", {"precision": "fp32"})
    given = ["--demo", "demo", "--output", "voice", "--whisper", "demo"]
    given = [word if word.startswith("-") else str(tmp_path / word) for word in given]
    with pytest.raises(CheckpointError, match="expected the folder of a Whisper"):
        voice.main(["--size", "smoke", *given])


def test_changed_settings_start_the_stage_and_all_after_it_afresh(demo):
    calls = []
    stages = [
        recorded("a", calls),
        recorded("b", calls, settings=("tokenizer_steps",)),
        recorded("c", calls),
    ]
    run_stages(stages, demo)
    calls.clear()
    longer = replace(demo, size=replace(demo.size, tokenizer_steps=21))
    done, _ = run_stages(stages, longer)
    assert calls == ["b", "c"]
    assert done["b"]["pieces"] == 1
    assert done["c"]["pieces"] == 1


@pytest.mark.parametrize("given", ["", "x.jsonl", "*.jsonl"])
def test_other_text_starts_everything_afresh(demo, tmp_path, given):
    """Whether a folder, a file or a pattern was given; an edit may leave the size as it was."""
    place, calls = tmp_path / "texts", []
    place.mkdir()
    (place / "x.jsonl").write_text('{"text": "one"}\n')
    (place / "notes.md").write_text("no corpus")
    own = replace(demo, text=(str(place / given),))

    def afresh(demo):
        calls.clear()
        run_stages([recorded("a", calls)], demo)
        return calls == ["a"]

    assert afresh(demo)
    assert afresh(own)
    (place / "notes.md").write_text("nor now, however long")
    assert not afresh(own)
    (place / "x.jsonl").write_text('{"text": "two"}\n')
    assert afresh(own)


def test_a_run_without_a_text_is_known_by_its_precision_alone(demo):
    """Else runs that are finished would start afresh."""
    assert demo.identity() == fingerprint_of("fp32", "[]")


def test_a_text_that_is_not_there_stops_before_the_first_stage(demo):
    calls = []
    with pytest.raises(DataError, match=r"none\.parquet does not exist"):
        run_stages([recorded("a", calls)], replace(demo, text=("none.parquet",)))
    assert calls == []


@pytest.mark.parametrize("name", SIZES)
def test_sizes_fit_their_recipes(name):
    size = SIZES[name]
    tokenizer, t2t, model = size.recipes
    recipe = speech_tokenizer.RECIPES[tokenizer]()
    assert recipe.model.quantize_vocab_size == size.num_codes
    assert {t2t, model} <= lm.RECIPES.keys()
    stages = chain(size)
    assert len({stage.name for stage in stages}) == len(stages)
    assert all(hasattr(size, setting) for stage in stages for setting in stage.settings)


def test_full_adds_seeds_and_the_tokenizer_without_vq():
    names = [stage.name for stage in chain(SIZES["full"])]
    assert "tokenizer_without_vq" in names
    assert sum(name.startswith("model-") for name in names) == 3
    assert sum(name.startswith("control-") for name in names) == 3


def test_blends_are_a_fair_comparison():
    for blend in BLENDS.values():
        assert sum(blend.values()) == pytest.approx(1)
    assert BLENDS["model"]["text"] == 0.30
    assert BLENDS["model"]["speech"] == BLENDS["control"]["speech"]
    assert "interleaved" not in BLENDS["control"]


def test_machine_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setattr("examples.quickstart.machine._gflops", lambda dtype: 100.0)
    facts = measure_machine(tmp_path / "machine.json")
    assert facts["precision"] == "fp32"
    monkeypatch.setattr("examples.quickstart.machine._gflops", lambda dtype: 1.0)
    assert measure_machine(tmp_path / "machine.json") == facts


def test_bf16_is_chosen_where_it_is_faster(tmp_path, monkeypatch):
    rates = {"torch.float32": 185.0, "torch.bfloat16": 854.0}
    monkeypatch.setattr("examples.quickstart.machine._gflops", lambda dtype: rates[str(dtype)])
    facts = measure_machine(tmp_path / "machine.json")
    assert facts["precision"] == "bf16"
    size = SIZES["demo"]
    fast = expected_minutes(facts, size)
    slow = expected_minutes(facts | {"precision": "fp32"}, size)
    assert size.other_seconds / 60 / 8 < fast < slow


def test_the_rate_is_that_of_a_training_step(tmp_path, monkeypatch):
    """Not of a product of matrices, which units for it make many times faster."""
    made = []
    backward = torch.Tensor.backward
    monkeypatch.setattr("examples.quickstart.machine._SECONDS_EACH", 0.01)
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: made.append(backward(loss)))
    facts = measure_machine(tmp_path / "machine.json")
    assert len(made) >= 2
    assert all(facts[f"{precision} GFLOP/s"] > 0.1 for precision in ("fp32", "bf16"))


def test_flags(tmp_path):
    assert to_flags(train_iters=3, codes=[tmp_path, "b"], bf16=True, quantize=False, seed=None) == [
        "--train-iters", "3", "--codes", str(tmp_path), "b", "--bf16", "--no-quantize",
    ]  # fmt: skip


def test_a_tool_may_have_a_setting_called_name(monkeypatch):
    monkeypatch.setattr("tools.make_cloze.main", list)
    assert runner.tool("make_cloze", name="prose") == ["--name", "prose"]
