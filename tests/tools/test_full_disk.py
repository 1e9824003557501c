"""Bulk tools on a full disk: one line, nothing half-written, the same files once there is room."""

from pathlib import Path

import pytest

from megatron_speech.chat.build import build_dialogues
from megatron_speech.interleaving.assemble import assemble
from megatron_speech.interleaving.generate import generate
from megatron_speech.interleaving.plan import plan
from megatron_speech.io.files import temporary_beside
from megatron_speech.model import hf
from tests.chat.test_build import DIALOGUES, config_of, write_dialogues
from tests.full_disk import expect_no_space, expect_one_line
from tests.interleaving.jobs import (
    assemble_config,
    files_of,
    generate_config,
    plan_config,
    run_jobs,
)
from tests.interleaving.samples import LookUpEngine, make_vocab, write_codes, write_corpus
from tests.speech_decoder.tiny_decoder import tiny_decoder
from tests.speech_tokenizer.tiny_tokenizer import write_clips
from tests.tools.pretraining import TINY, write_data
from tests.tools.test_decode_speech import write_codes as write_code_shard_of
from tools import (
    build_dataset,
    build_vocab,
    convert_checkpoint,
    decode_speech,
    evaluate,
    make_speech,
    pretrain,
    tokenize_speech,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Vocabulary, corpus and codes, and what the three jobs make of them."""
    folder = tmp_path_factory.mktemp("world")
    make_vocab(folder)
    write_corpus(folder / "corpus.parquet", 30)
    write_codes(folder / "like" / "a.parquet")
    run_jobs(folder, folder / "done")
    return folder


@pytest.mark.parametrize("file", ["settings.json", "plans/00001.parquet", "plans/00000.json",
                                  "requests/00001-00000.parquet", "plan.json"])  # fmt: skip
def test_plan(world, tmp_path, file, capsys):
    config = plan_config(world, tmp_path / "plan")
    expect_no_space(tmp_path / "plan" / file, lambda: plan(config), capsys)
    plan(config)
    assert files_of(tmp_path / "plan") == files_of(world / "done" / "plan")


@pytest.mark.parametrize("file", ["settings.json", "00001-00000.parquet",
                                  "reports/00000-00000.parquet", "generation.json"])  # fmt: skip
def test_generate(world, tmp_path, file, capsys):
    plan(plan_config(world, tmp_path / "plan"))
    config = generate_config(world, tmp_path)
    expect_no_space(tmp_path / "codes" / file, lambda: generate(config, LookUpEngine()), capsys)
    generate(config, LookUpEngine())
    assert files_of(tmp_path / "codes") == files_of(world / "done" / "codes")


@pytest.mark.parametrize("file", ["out.bin", "out.idx", "out.spans.parquet", "out.json",
                                  "out.parts/00001.spans.parquet"])  # fmt: skip
def test_assemble(world, tmp_path, file, capsys):
    plan(plan_config(world, tmp_path / "plan"))
    generate(generate_config(world, tmp_path), LookUpEngine())
    config = assemble_config(world, tmp_path)
    expect_no_space(tmp_path / file, lambda: assemble(config), capsys)
    assemble(config)
    assert files_of(tmp_path) == files_of(world / "done")


@pytest.mark.parametrize("kind", ["speech", "pairs", "text-to-token"])
@pytest.mark.parametrize("suffix", [".bin", ".idx", ".json"])
def test_build_dataset(world, tmp_path, kind, suffix, capsys):
    flags = [kind, "--codes", str(world / "like"), "--vocab", str(world / "vocab")]
    name = "d-tts" if kind == "pairs" else "d"

    def build(folder: Path) -> None:
        build_dataset.main([*flags, "--output-prefix", str(folder / "d")])

    expect_no_space(tmp_path / "a" / f"{name}{suffix}", lambda: build(tmp_path / "a"), capsys)
    build(tmp_path / "a")
    build(tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Flags of tokenize_speech for six recordings, two to a shard, one of them silent."""
    folder = tmp_path_factory.mktemp("recordings")
    write_clips(folder, 6)
    flags = {"--input": "manifest.parquet", "--speech-tokenizer": "tokenizer"}
    given = [part for flag, name in flags.items() for part in (flag, str(folder / name))]
    return [*given, "--shard-size", "2"]


@pytest.mark.parametrize("file", ["shard_000001.parquet", "rejected.jsonl"])
def test_tokenize_speech(recordings, tmp_path, file, capsys):
    def tokenize(folder: Path) -> None:
        tokenize_speech.main([*recordings, "--output", str(folder)])

    expect_no_space(tmp_path / "a" / file, lambda: tokenize(tmp_path / "a"), capsys)
    assert (tmp_path / "a" / "shard_000000.parquet").exists()
    tokenize(tmp_path / "a")
    tokenize(tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


@pytest.mark.parametrize(
    "file", ["tokenizer.json", "tokenizer_config.json", "speech_text_vocab.json"]
)
def test_build_vocab(world, tmp_path, file, capsys):
    flags = ["--input", str(world / "corpus.parquet"), "--train-bpe", "400", "--num-codes", "64"]

    def build(folder: Path) -> None:
        build_vocab.main([*flags, "--output", str(folder)])


@pytest.mark.parametrize("file", ["job.json", "b.flac", "rejected.jsonl"])
def test_decode_speech(tmp_path, file, capsys):
    tiny_decoder().save_pretrained(tmp_path / "decoder")
    codes = write_code_shard_of(tmp_path / "codes", {"a": 5, "b": 12, "empty": 0})
    given = ["--decoder", str(tmp_path / "decoder"), "--codes", str(codes)]

    def decode(folder: Path) -> None:
        decode_speech.main([*given, "--output", str(folder)])

    expect_no_space(tmp_path / "a" / file, lambda: decode(tmp_path / "a"), capsys)
    decode(tmp_path / "a")
    decode(tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


@pytest.mark.parametrize("file", ["work/settings.json", "work/turns.parquet",
                                  "work/user/requests/00000-00001.parquet", "work/rejected.jsonl",
                                  "work/user/plan.json", "work/plan.json",
                                  "work/assistant-codes/00000-00000.parquet",
                                  "set-direct.bin", "set-direct.idx", "set-direct.rejected.jsonl",
                                  "set-direct.json"])  # fmt: skip
def test_build_dialogues(world, tmp_path, file, capsys):
    write_dialogues(tmp_path / "in.jsonl", DIALOGUES)

    def build(folder: Path) -> None:
        given = {"input": (str(tmp_path / "in.jsonl"),), "work": folder / "work"}
        build_dialogues(config_of(world, folder, modes=("direct",), **given), LookUpEngine())

    expect_no_space(tmp_path / "a" / file, lambda: build(tmp_path / "a"), capsys)
    build(tmp_path / "a")
    build(tmp_path / "b")
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


@pytest.mark.parametrize("file", ["speech.json", "rejected.jsonl", "manifest.parquet"])
def test_make_speech(tmp_path, file, capsys):
    (tmp_path / "texts.jsonl").write_text('{"text": "Good morning."}\n{"text": "..."}\n')
    flags = ["--texts", str(tmp_path / "texts.jsonl"), "--workers", "1"]

    def speak(folder: Path) -> None:
        make_speech.main([*flags, "--output-dir", str(folder)])

    expect_no_space(tmp_path / "a" / file, lambda: speak(tmp_path / "a"), capsys)
    speak(tmp_path / "a")
    assert len(list((tmp_path / "a").rglob("*.flac"))) == 1


def test_evaluate(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(evaluate, "evaluate_model", lambda config: {"cloze": {}})
    given = {"model": "hf", "speech": "codes", "cloze": "c.jsonl", "output": tmp_path / "out.json"}
    flags = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    expect_no_space(tmp_path / "out.json", lambda: evaluate.main(flags), capsys)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one step."""
    folder = tmp_path_factory.mktemp("trained")
    steps = ["--train-iters", "1", "--lr-warmup-iters", "0"]
    pretrain.main([*TINY, *write_data(folder), *steps, "--save", str(folder / "run")])
    return folder / "run"


@pytest.mark.parametrize(
    "file", ["model.safetensors", "tokenizer.json", "config.json", "README.md"]
)
def test_export(trained, tmp_path, file, monkeypatch, capsys):
    flags = ["megatron-to-hf", "--load", str(trained), "--hf", str(tmp_path / "hf")]
    write = hf.write_shards

    def full(folder: Path, *rest):
        for place in (folder / file, temporary_beside(folder / file)):
            place.symlink_to("/dev/full")
        return write(folder, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(hf, "write_shards", full)
        expect_one_line(lambda: convert_checkpoint.main(flags), capsys)
    assert list(tmp_path.iterdir()) == []
    convert_checkpoint.main(flags)
