"""The demo on real models: sizes and stages fit the tools, held-out texts stay apart."""

import json
import pickle
from dataclasses import fields, replace

import pyarrow.parquet as pq
import pytest

from examples.quickstart.runner import _needs_and_keys, to_flags
from examples.real import demo as real
from examples.real import model_stages, speech_stages
from examples.real.chain import chain
from examples.real.materials import Materials
from examples.real.recordings import split_recordings
from examples.real.run import NEURAL_TRAINING, NEURAL_VOICE, NEW_VOICE, VOICES_TRAINING, RealDemo
from examples.real.sizes import ARMS, BLENDS, DEMO, SIZES, SMOKE, RealSize
from examples.real.texts import write_texts
from megatron_speech import cli
from megatron_speech.data.manifest import ManifestRow, read_manifest, write_manifest
from megatron_speech.errors import CheckpointError, ConfigError, DataError
from megatron_speech.recipes import lm, speech_tokenizer

PLACES = ("mill", "harbour", "garden", "station", "market", "chapel", "orchard", "bridge")


@pytest.fixture
def demo(tmp_path):
    return RealDemo(size=SMOKE, output=tmp_path, machine={"precision": "bf16"})


def story(number: int) -> str:
    """Sentences that no other document has."""
    place = PLACES[number % len(PLACES)]
    return " ".join(
        f"The {place} keeper number {number} opened door {word} before the morning came."
        for word in ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )


@pytest.fixture
def texts(tmp_path):
    corpus = tmp_path / "corpus.jsonl"
    lines = [f'{{"id": "d{n}", "text": "{story(n)}"}}' for n in range(24)]
    corpus.write_text("\n".join(lines), encoding="utf-8")
    figures = write_texts(tmp_path / "text", [str(corpus)], SMOKE)
    tables = {
        path.stem: pq.read_table(path).to_pylist() for path in (tmp_path / "text").glob("*.parquet")
    }
    return figures, tables


@pytest.mark.parametrize("size", SIZES.values(), ids=lambda size: size.name)
def test_sizes_fit_the_recipes(size, demo):
    demo = replace(demo, size=size)
    for arm in ARMS:
        flags = [*size.language_model_flags, *to_flags(**model_stages._settings(demo, arm))]
        _, config = cli.parse_recipe(lm.RECIPES, [model_stages.RECIPE, *flags], "")
        tokens = config.loop.train_iters * config.batch.global_batch_size * config.data.seq_length
        assert tokens == size.tokens
        assert config.loop.exit_interval * size.points == config.loop.train_iters
        config.batch.check_schedule(config.loop.train_iters)
    flags = [*size.text_to_token_flags, f"--train-iters={size.text_to_token_steps}"]
    _, config = cli.parse_recipe(lm.RECIPES, ["t2t-debug", *flags], "")
    config.batch.check_schedule(config.loop.train_iters)
    flags = ["tokenizer-from-whisper-12.5hz", *size.tokenizer_flags]
    _, tokenizer = cli.parse_recipe(speech_tokenizer.RECIPES, flags, "")
    assert tokenizer.optimizer.lr_warmup_iters < size.tokenizer_steps
    assert size.quantize_start_step < size.tokenizer_steps


def test_given_models_are_known_by_their_contents_wherever_they_lie(demo, tmp_path):
    keys = []
    for folder, content in (("a", "{}"), ("b", "{}"), ("b", "other")):
        model = tmp_path / folder
        model.mkdir(exist_ok=True)
        (model / "config.json").write_text(content)
        _, found = _needs_and_keys(chain(), replace(demo, whisper=str(model), base=str(model)))
        keys.append(set(found.values()))
    assert keys[0] == keys[1]
    assert keys[0].isdisjoint(keys[2])


def test_the_arms_share_all_but_interleaved_documents():
    assert set(BLENDS["model"]) - set(BLENDS["control"]) == {"interleaved"}
    assert all(sum(blend.values()) == pytest.approx(1) for blend in BLENDS.values())


def test_demo_asks_for_enough_items():
    assert DEMO.evaluation_limit >= 500
    assert DEMO.cloze_items >= 500


def test_stages_name_settings_that_exist_and_stages_before_them():
    known, before = {field.name for field in fields(RealSize)} | {"name"}, set()
    for stage in chain():
        assert set(stage.settings) <= known, stage.name
        assert set(stage.after or ()) <= before, stage.name
        pickle.dumps(stage)  # some run in processes of their own
        before.add(stage.name)
    named = [folder for stage in chain() for folder in (stage.folders or ())]
    assert len(set(named)) == len(named)


def test_every_setting_of_training_and_data_makes_some_stage_anew():
    watched = {name for stage in chain() for name in stage.settings}
    told = {"has_bars", "gflop", "other_seconds"}
    assert {field.name for field in fields(RealSize)} - watched - told == set()


def test_held_out_documents_are_in_no_training_text(texts):
    figures, tables = texts
    held = {row["text"] for row in tables["held-out"]}
    trained = {row["text"] for row in tables["train"]}
    assert len(held) == figures["held_out_documents"] == 6
    assert not held & trained
    assert {row["text"] for row in tables["interleaved"]} <= trained
    everything = " ".join(trained)
    spoken = tables["narrated"] + tables["short"] + tables["passages"]
    assert all(row["text"] in everything for row in spoken)
    assert {row["id"] for row in tables["spoken"]} < {row["id"] for row in tables["narrated"]}
    assert all(any(row["text"] in text for text in held) for row in tables["test"])


def test_windows_are_runs_of_words_and_passages_follow_one_another(texts):
    figures, tables = texts
    kinds = [row["id"].split("-")[0] for row in tables["narrated"]]
    assert kinds.count("window") == kinds.count("sentence") == figures["sentences"]
    assert len(tables["short"]) == figures["short_windows"]
    assert {len(row["text"].split()) for row in tables["short"]} == set(range(1, 9))
    whole = [row["text"] for row in tables["train"]]
    passages: dict[str, list[str]] = {}
    for row in tables["passages"]:
        passages.setdefault(row["id"].rpartition("/")[0], []).append(row["text"])
    assert passages
    assert all(any(" ".join(found) in text for text in whole) for found in passages.values())


def test_text_that_does_not_serve_is_refused(tmp_path):
    with pytest.raises(DataError, match="--text"):
        write_texts(tmp_path, [], SMOKE)
    (tmp_path / "one.jsonl").write_text('{"text": "A single document."}\n', encoding="utf-8")
    with pytest.raises(DataError, match="held out"):
        write_texts(tmp_path, [str(tmp_path / "one.jsonl")], SMOKE)
    lines = "\n".join(f'{{"text": "no sentence {n}"}}' for n in range(9))
    (tmp_path / "short.jsonl").write_text(lines, encoding="utf-8")
    with pytest.raises(DataError, match="prose"):
        write_texts(tmp_path, [str(tmp_path / "short.jsonl")], SMOKE)


def test_what_is_not_there_is_refused_by_its_flag(tmp_path):
    for flag in ("speech", "text"):
        with pytest.raises(ConfigError, match=f"--{flag} .*none does not exist"):
            real.main([f"--{flag}", str(tmp_path / "none"), "--output", str(tmp_path / "run")])


class OnlyEnglish:
    """Stands for the text side of an English-only Whisper."""

    def __init__(self, folder):
        pass

    def knows(self, language):
        return language == "en"


def rows(folder, count, language="en", text="hello there"):
    return [
        ManifestRow(id=f"{language}-{n}", path=folder / f"{n}.flac", text=text, language=language)
        for n in range(count)
    ]


def test_recordings_are_split_and_other_languages_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("megatron_speech.speech_tokenizer.text.AsrText", OnlyEnglish)
    size = replace(SMOKE, most_recordings=60, test_recordings=10)
    for name, found in (("large", rows(tmp_path, 48)), ("few", rows(tmp_path, 5)),
                        ("mixed", rows(tmp_path, 24) + rows(tmp_path, 7, "fr"))):  # fmt: skip
        write_manifest(tmp_path / f"{name}.parquet", found)
    paths = [tmp_path / f"{name}.parquet" for name in ("large", "few", "mixed")]
    figures = split_recordings(tmp_path / "out", paths, tmp_path, tmp_path, size)
    counts = {name: (facts["train"], facts["test"]) for name, facts in figures.items()}
    assert counts == {"large": (38, 10), "few": (0, 5), "mixed": (18, 6)}
    assert figures["mixed"]["other_languages"] == 7
    assert not (tmp_path / "out/train/few.parquet").exists()
    parts = [read_manifest(tmp_path / f"out/{part}/large.parquet") for part in ("train", "test")]
    ids = [{row.id for row in part} for part in parts]
    assert not ids[0] & ids[1]
    with pytest.raises(DataError, match="same name"):
        split_recordings(tmp_path, [paths[0], paths[0]], tmp_path, tmp_path, size)


def test_recordings_without_text_are_transcribed(tmp_path, monkeypatch):
    asked = []

    def transcribe(flags):
        source = flags[flags.index("--manifest") + 1]
        found = read_manifest(source)
        asked.append(len(found))
        return [replace(row, text="what was said") for row in found]

    monkeypatch.setattr("megatron_speech.speech_tokenizer.text.AsrText", OnlyEnglish)
    monkeypatch.setattr("tools.transcribe_speech.main", transcribe)
    mixed = rows(tmp_path, 30)[:20] + [replace(row, text="") for row in rows(tmp_path, 30)[20:]]
    write_manifest(tmp_path / "mixed.parquet", mixed)
    size = replace(SMOKE, most_recordings=40)
    paths = [tmp_path / "mixed.parquet"]
    figures = split_recordings(tmp_path / "out", paths, tmp_path, tmp_path, size)
    assert asked == [10]
    assert figures["mixed"]["transcribed"] == 10
    kept = [row for part in ("train", "test")
            for row in read_manifest(tmp_path / f"out/{part}/mixed.parquet")]  # fmt: skip
    assert len(kept) == 30
    assert all(row.text for row in kept)


@pytest.mark.parametrize("spoken", [False, True])
def test_a_neural_voice_has_its_share_of_the_training(demo, monkeypatch, spoken):
    asked = {}
    monkeypatch.setattr(speech_stages, "train", lambda *names, **settings: asked.update(settings))
    monkeypatch.setattr(
        "megatron_speech.training.reporting.read_metrics", lambda *arguments: [],
    )  # fmt: skip
    people = demo.path("recordings", "train", "people.parquet")
    voices = [demo.manifest(name) for name in (NEURAL_TRAINING, NEURAL_VOICE)] if spoken else []
    for path in (people, *voices):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    speech_stages.speech_tokenizer(demo, {"materials": {"whisper": "w"}})
    synthetic = [demo.manifest("train"), demo.manifest(VOICES_TRAINING)]
    assert asked["manifest"] == [*synthetic, *voices[:1], people]
    assert asked["manifest_weights"] == ([4, 3, 1, 2] if spoken else [4, 3, 2])
    assert asked["valid_manifest"][-1] == (voices[1] if spoken else demo.manifest(NEW_VOICE))


class Tools:
    """Stand-ins for training and export that note what is asked of them."""

    def __init__(self, demo, arm, monkeypatch):
        self.demo, self.arm, self.step, self.asked = demo, arm, 0, []
        monkeypatch.setattr("tools.pretrain.main", self.train)
        monkeypatch.setattr("tools.convert_checkpoint.main", self.export)
        monkeypatch.setattr(
            "megatron_speech.training.checkpoint.latest_iteration", lambda run: self.step
        )
        metrics = [{"consumed samples": demo.size.language_model_steps, "text loss": 3.0}]
        monkeypatch.setattr(
            "megatron_speech.training.reporting.read_metrics", lambda *arguments: metrics
        )
        self.stop_after = None

    def train(self, flags):
        every = int(flags[flags.index("--exit-interval") + 1])
        self.step += every
        self.asked.append(f"train to {self.step}")
        return type("Result", (), {"iteration": self.step})

    def export(self, flags):
        if self.step == self.stop_after:
            self.stop_after = None
            raise KeyboardInterrupt
        self.asked.append(f"export {self.step}")
        model_stages.checkpoint(self.demo, self.arm, self.step).mkdir(parents=True)


def test_an_arm_that_was_stopped_continues_at_its_point(demo, monkeypatch):
    tools = Tools(demo, "model", monkeypatch)
    first, last = model_stages.points(demo)
    tools.stop_after = first
    with pytest.raises(KeyboardInterrupt):
        model_stages.language_model(demo, None, arm="model")
    figures = model_stages.language_model(demo, None, arm="model")
    assert tools.asked == [
        f"train to {first}", f"export {first}", f"train to {last}", f"export {last}"
    ]  # fmt: skip
    assert figures["points"][str(last)] == demo.size.tokens
    tools.asked.clear()
    model_stages.language_model(demo, None, arm="model")
    assert tools.asked == []


def test_a_stop_within_training_stops_the_stage(demo, monkeypatch):
    tools = Tools(demo, "model", monkeypatch)
    monkeypatch.setattr("tools.pretrain.main", lambda flags: type("Result", (), {"iteration": 1}))
    with pytest.raises(KeyboardInterrupt):
        model_stages.language_model(demo, None, arm="model")
    assert tools.asked == []


def test_evaluation_keeps_what_is_finished(demo, monkeypatch):
    asked = []

    def evaluate(demo, model, last, output):
        asked.append((model.name, last))
        output.parent.mkdir(exist_ok=True)
        output.write_text('{"cloze": {}, "text_loss": 1.0}', encoding="utf-8")

    monkeypatch.setattr(model_stages, "_evaluate", evaluate)
    figures = model_stages.evaluation(demo, None, arm="model")
    assert asked == [("hf-2", False), ("hf-4", True)]
    assert set(figures) == {"2", "4"}
    model_stages.evaluation(demo, None, arm="base")
    assert asked[2:] == [("hf", True)]
    model_stages.evaluation(demo, None, arm="model")
    assert len(asked) == 3


@pytest.mark.parametrize("unfit", ["whisper", "base"])
def test_unfit_models_are_refused_before_anything_is_trained(demo, tmp_path, monkeypatch, unfit):
    shape = {
        "d_model": 64, "num_mel_bins": 80, "vocab_size": 51_865,
        "max_source_positions": 1500, "max_target_positions": 448,
        **{f"{half}_{what}": value for half in ("encoder", "decoder")
           for what, value in (("layers", 4), ("attention_heads", 4), ("ffn_dim", 128))},
    }  # fmt: skip
    for name, config in (("whisper", shape), ("base", {"model_type": "llama"})):
        (tmp_path / name).mkdir()
        config = {"model_type": "bert"} if name == unfit else config
        (tmp_path / name / "config.json").write_text(json.dumps(config), encoding="utf-8")
    found = Materials(
        whisper=tmp_path / "whisper", base=tmp_path / "base", judge=None, speech=(), text=(),
        voice=None, notes=(),
    )  # fmt: skip
    monkeypatch.setattr("examples.real.materials.prepare", lambda *arguments, **named: found)
    with pytest.raises(CheckpointError, match=f"{unfit}.*bert|{unfit}/config.json"):
        speech_stages.materials(demo, {})
