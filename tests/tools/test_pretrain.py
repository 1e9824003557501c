"""The trainer and the export through their public tools: good path, resume, bad input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_speech.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    InUseError,
    VocabularyError,
)
from megatron_speech.jobs import folders
from megatron_speech.jobs.claims import exclusive
from megatron_speech.model import hf
from megatron_speech.model.gpt import BuildOptions, build_model
from megatron_speech.text.vocab import SpeechTextVocab
from megatron_speech.training.megatron.parallel import ParallelConfig, session
from megatron_speech.training.reporting import read_metrics
from tests.data.language_data import make_vocab, random_documents, write_dataset
from tools import convert_checkpoint, pretrain

TINY = (
    "lm-smoke --num-layers 2 --hidden-size 32 --ffn-hidden-size 48 --num-attention-heads 4 "
    "--num-query-groups 2 --seq-length 32 --global-batch-size 4 --micro-batch-size 2 "
    "--eval-iters 1 --lr-decay-iters 6 --train-iters 6 --log-interval 1"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pretrain")


@pytest.fixture(scope="module")
def vocab(folder):
    return make_vocab(folder)


@pytest.fixture(scope="module")
def data(folder, vocab):
    documents = random_documents(vocab, 120, seed=1)
    cut = write_dataset(folder / "cut", vocab, documents)
    whole = write_dataset(folder / "whole", vocab, documents, "speech_after_text", "whole")
    return ["--vocab", str(folder / "vocab"), "--data-path", "0.6", cut, "0.4", whole]


def train(*arguments):
    return pretrain.main([*TINY, *map(str, arguments)])


@pytest.fixture(scope="module")
def run(folder, data):
    valid = ["--valid-data-path", str(folder / "cut")]
    return train("--save", folder / "run", *data, *valid), folder / "run"


def test_run_leaves_checkpoint_log_config_and_vocabulary(run):
    result, save = run
    assert result.finished
    assert result.metrics["lm loss"] > 0
    assert result.metrics["lm loss validation"] > 0
    lines = [json.loads(line) for line in (save / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert [line["iteration"] for line in steps] == [1, 2, 3, 4, 5, 6]
    wanted = {"lm loss", "text loss", "speech loss", "grad-norm", "learning-rate"}
    assert wanted <= steps[0].keys()
    assert (save / "latest_checkpointed_iteration.txt").read_text() == "6\n"
    assert "hidden_size: 32" in (save / "run_config.yaml").read_text()
    SpeechTextVocab.from_pretrained(save / "vocab")


def test_tensorboard_has_megatrons_names(run):
    """So that runs of both lie in one chart; the figures are those of metrics.jsonl."""
    board = EventAccumulator(str(run[1] / "tensorboard")).Reload()
    names = {"lm loss", "learning-rate", "batch-size", "grad-norm"}
    assert names | {"lm loss validation"} <= set(board.Tags()["scalars"])
    logged = read_metrics(run[1])
    for name in names:
        found = [(event.step, event.value) for event in board.Scalars(name)]
        assert found == [(r["iteration"], pytest.approx(r[name], rel=1e-6)) for r in logged]


def test_two_processes_train_as_one(run, data, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, "--nproc-per-node", "2", str(pretrain.__file__), *TINY, *data]
    command += ["--save", str(tmp_path / "two"), "--train-iters", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    one, two = read_metrics(run[1])[:3], read_metrics(tmp_path / "two")
    assert [record["iteration"] for record in two] == [1, 2, 3]
    for name in ("lm loss", "text loss", "speech loss", "grad-norm", "consumed samples"):
        assert [r[name] for r in two] == pytest.approx([r[name] for r in one], rel=1e-4), name
    export = ["megatron-to-hf", "--load", str(tmp_path / "two"), "--hf", str(tmp_path / "hf")]
    assert convert_checkpoint.main(export).iteration == 3


def test_the_speech_tokenizer_of_the_data_goes_with_the_model(run, folder, data, vocab, tmp_path):
    _, save = run
    export = ["megatron-to-hf", "--load", str(save), "--hf", str(tmp_path / "hf")]
    convert_checkpoint.main(export)
    for written in (save / "vocab", tmp_path / "hf"):
        assert SpeechTextVocab.from_pretrained(written).speech_tokenizer == "codes-a"
    documents = random_documents(vocab, 120, seed=1)
    other = write_dataset(tmp_path / "b", vocab, documents, tokenizer_fingerprint="codes-b")
    with pytest.raises(DataError, match=r"codes of speech tokenizer codes-b, but .* of codes-a"):
        train("--save", tmp_path / "run", "--data-path", other, "--vocab", tmp_path / "hf")
    flags = ["--data-path", other, "--vocab", folder / "vocab", "--load", save]
    with pytest.raises(CheckpointError, match="speech_tokenizer is codes-a there and codes-b here"):
        train("--save", tmp_path / "run", *flags, "--train-iters", "7")


def test_a_model_goes_on_with_text_alone_and_still_knows_its_codes(run, folder, vocab, tmp_path):
    documents = random_documents(vocab, 120, seed=1)
    text = write_dataset(tmp_path / "text", vocab, documents, tokenizer_fingerprint=None)
    flags = ["--data-path", text, "--vocab", folder / "vocab", "--load", run[1]]
    train("--save", tmp_path / "run", *flags, "--train-iters", "7")
    export = ["megatron-to-hf", "--load", str(tmp_path / "run"), "--hf", str(tmp_path / "hf")]
    convert_checkpoint.main(export)
    assert SpeechTextVocab.from_pretrained(tmp_path / "hf").speech_tokenizer == "codes-a"


def test_same_command_continues_what_was_interrupted(run, folder, data):
    whole, _ = run
    train("--save", folder / "again", *data, "--exit-duration-in-mins", "1e-9")
    assert (folder / "again" / "latest_checkpointed_iteration.txt").read_text() == "1\n"
    result = train("--save", folder / "again", *data)
    for name in ("lm loss", "speech loss", "grad-norm"):
        assert result.metrics[name] == whole.metrics[name]


@pytest.mark.parametrize(("untied", "shard_bytes"), [(False, 10_000), (True, hf.MAX_SHARD_BYTES)])
def test_export_gives_the_same_logits(untied, shard_bytes, folder, data, vocab, monkeypatch):
    monkeypatch.setattr(hf, "MAX_SHARD_BYTES", shard_bytes)
    save, exported = folder / f"export-{untied}", folder / f"hf-{untied}-{shard_bytes}"
    extra = ["--untie-embeddings-and-output-weights"] if untied else []
    train("--save", save, *data, "--train-iters", "3", *extra)
    arguments = ["megatron-to-hf", "--load", str(save), "--hf", str(exported)]
    export = convert_checkpoint.main(arguments)
    tokens = torch.randint(0, vocab.size, (2, 20), generator=torch.Generator().manual_seed(0))
    with session(ParallelConfig()), torch.no_grad():
        options = BuildOptions(padded_vocab_size=vocab.padded_size)
        model = build_model(export.model, ParallelConfig(), options)[0].eval()
        _load_weights(model, save / "iter_0000003")
        expected = model(tokens, torch.arange(20).expand(2, 20), None)[..., : vocab.size]
    loaded = AutoModelForCausalLM.from_pretrained(exported)
    assert loaded.config.vocab_size == vocab.size == len(AutoTokenizer.from_pretrained(exported))
    assert loaded.generation_config.eos_token_id == vocab.eod_id
    with torch.no_grad():
        assert torch.allclose(loaded(tokens).logits, expected, atol=1e-4)
    assert (len(list(exported.glob("*.safetensors"))) == 1) == (shard_bytes > 10**6)
    assert SpeechTextVocab.from_pretrained(exported).fingerprint == vocab.fingerprint
    assert convert_checkpoint.main(arguments).parameters == export.parameters  # replaces it


def _load_weights(model: torch.nn.Module, directory: Path) -> None:
    from megatron.core import dist_checkpointing, parallel_state

    group = parallel_state.get_data_parallel_group(with_context_parallel=True)
    metadata = {"dp_cp_group": group, "singleton_local_shards": False}
    state = {"model": model.sharded_state_dict(metadata=metadata)}
    model.load_state_dict(dist_checkpointing.load(state, str(directory))["model"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--tensor-model-parallel-size", "3"], ConfigError, "divided into replicas"),
        (["--seq-length", "1024"], ConfigError, "--max-position-embeddings"),
        (["--micro-batch-size", "3"], ConfigError, "--global-batch-size"),
        (["--lr-warmup-iters", "6"], ConfigError, "--lr-warmup-iters"),
        (["--context-parallel-size", "2"], ConfigError, "--context-parallel-size"),
        (["--vocab", "nowhere"], VocabularyError, "nowhere"),
        (["--data-path", "nowhere"], DataError, "nowhere.idx does not exist"),
        (["--load", "nowhere"], ConfigError, "no checkpoint found"),
        (
            ["--family", "lama"],
            ConfigError,
            "--family 'lama' is unknown; .* llama, .*glm",
        ),
        (["--split", "abc"], ConfigError, "--split is 'abc'; expected shares"),
        (["--split", "99"], ConfigError, "--split is '99'"),
        (["--split", "99,0"], ConfigError, "--split is '99,0'"),
        (["--split", "99,-1"], ConfigError, "--split is '99,-1'"),
        (["--split", "nan,1"], ConfigError, "--split is 'nan,1'"),
    ],
)
def test_bad_settings_are_refused_in_words(arguments, error, message, folder, data, tmp_path):
    with pytest.raises(error, match=message):
        train("--save", tmp_path / "run", *data, *arguments)
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("wrong", [["--family", "lama"], ["--split", "abc"], ["--seed", "5"]])
def test_they_are_refused_before_anything_starts(wrong, run, data, tmp_path, monkeypatch):
    def start(*_, **__):
        pytest.fail("a process group was started")

    monkeypatch.setattr(torch.distributed, "init_process_group", start)
    shutil.copytree(run[1], tmp_path / "run")
    with pytest.raises(ConfigError, match=wrong[0]):
        train("--save", tmp_path / "run", *data, *wrong)


def test_a_split_gives_validation_data(data, tmp_path):
    result = train("--save", tmp_path / "run", *data, "--split", "80,20", "--train-iters", "2",
                   "--lr-warmup-iters", "1")  # fmt: skip
    assert result.metrics["lm loss validation"] > 0


def test_a_model_without_export_is_said_at_the_start(data, tmp_path, capsys):
    short = ["--train-iters", "1", "--lr-warmup-iters", "0"]
    train("--save", tmp_path / "a", *data, *short)
    assert "not exported" not in capsys.readouterr().out
    train("--save", tmp_path / "b", *data, *short, "--add-qkv-bias")
    lines = [line for line in capsys.readouterr().out.splitlines() if "not exported" in line]
    assert len(lines) == 1
    assert "the llama layout cannot express --add-qkv-bias True" in lines[0]


def test_a_changed_blend_is_said_and_a_changed_seed_refused(run, folder, data, tmp_path, capsys):
    save = tmp_path / "run"
    shutil.copytree(run[1], save)
    old = (save / "run_config.yaml").read_text()
    cut = str(folder / "cut")
    vocab = ["--vocab", str(folder / "vocab"), "--valid-data-path", cut]
    with pytest.raises(ConfigError, match=r"--seed is 5, .* begun with 1234"):
        train("--save", save, *vocab, "--data-path", cut, "--seed", "5", "--train-iters", "7")
    assert (save / "run_config.yaml").read_text() == old
    capsys.readouterr()
    train("--save", save, *vocab, "--data-path", cut, "--train-iters", "7")
    lines = [line for line in capsys.readouterr().out.splitlines() if "changed settings" in line]
    assert lines == [
        f"continuing {save} with changed settings: data.data_path 0.6 {cut} 0.4 {folder / 'whole'} "
        f"-> {cut}; loop.train_iters 6 -> 7"
    ]
    train("--save", save, *vocab, "--data-path", cut, "--train-iters", "7")
    assert "changed settings" not in capsys.readouterr().out
    (save / "run_config.yaml").write_text("batch: [")
    with pytest.raises(ConfigError, match=r"run_config\.yaml is damaged"):
        train("--save", save, *vocab, "--data-path", cut, "--train-iters", "7")


def test_tensor_parallelism_that_does_not_divide_heads(data, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(ConfigError, match="--num-attention-heads 4"):
        train("--save", tmp_path, *data, "--tensor-model-parallel-size", "8")
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("missing", ["--vocab", "--save", "--data-path"])
def test_missing_settings_are_named(missing, data, tmp_path):
    given = {"--save": [str(tmp_path)], "--vocab": data[1:2], "--data-path": data[3:]}
    arguments = [
        part for name, values in given.items() if name != missing for part in (name, *values)
    ]
    with pytest.raises(ConfigError, match=missing):
        train(*arguments)


def test_run_of_another_shape_is_not_continued(run, data):
    with pytest.raises(CheckpointError, match="ffn_hidden_size is 48 there and 64 here"):
        train("--save", run[1], *data, "--ffn-hidden-size", "64", "--train-iters", "9")


@pytest.mark.parametrize("wrong", [["lm-smokey"], [*TINY, "--hiden-size", "3"]])
def test_unknown_recipe_or_flag_exits(wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        pretrain.main(wrong)
    assert stop.value.code != 0


def test_export_of_nothing_is_refused(tmp_path, run):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        convert_checkpoint.main(
            ["megatron-to-hf", "--load", str(tmp_path), "--hf", str(tmp_path / "hf")]
        )
    with pytest.raises(ConfigError, match="--hf"):
        convert_checkpoint.main(["megatron-to-hf", "--load", str(run[1])])


def test_an_export_takes_the_place_of_no_run(tmp_path):
    (tmp_path / "iter_0000006").mkdir()
    with pytest.raises(CheckpointError, match="is no exported model"):
        convert_checkpoint.main(["megatron-to-hf", "--load", "runs/lm", "--hf", str(tmp_path)])
    assert (tmp_path / "iter_0000006").is_dir()


def test_export_with_another_vocabulary_is_refused(tmp_path, run):
    make_vocab(tmp_path, extra=["<|user|>"])
    arguments = ["--load", run[1], "--hf", tmp_path / "hf", "--vocab", tmp_path / "vocab"]
    with pytest.raises(CheckpointError, match="--vocab"):
        convert_checkpoint.main(["megatron-to-hf", *map(str, arguments)])
    assert not (tmp_path / "hf").exists()


def test_a_second_run_into_a_folder_is_told_who_has_it(run, tmp_path):
    save, hf = tmp_path / "run", tmp_path / "hf"
    with exclusive(save, inside=True), pytest.raises(InUseError, match=r"process .* since"):
        train("--save", save)
    with exclusive(hf), pytest.raises(InUseError, match=r"process .* since"):
        convert_checkpoint.main(["megatron-to-hf", "--load", str(run[1]), "--hf", str(hf)])
    assert list(tmp_path.iterdir()) == []


def test_export_is_on_the_disk_before_it_has_its_name(run, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "replace_folder", lambda new, target: names.extend(new.iterdir()))
    names: list[Path] = []
    convert_checkpoint.main(["megatron-to-hf", "--load", str(run[1]), "--hf", str(tmp_path / "hf")])
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in names}
    assert not (tmp_path / "hf").exists()
