"""Base folders and checkpoints that cannot be converted are refused in words."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_speech.errors import CheckpointError, ConfigError, MegatronSpeechError
from megatron_speech.model.new_rows import NewRowsConfig
from megatron_speech.model.torch_dist import write_checkpoint
from megatron_speech.training.megatron.checkpoint_check import IDENTITY_KEY, read_common
from megatron_speech.training.megatron.parallel import session
from megatron_speech.training.parallel_config import ParallelConfig
from tests.data.language_data import make_vocab
from tests.model.base_folders import write_base
from tools import convert_checkpoint


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A sharded llama."""
    folder = tmp_path_factory.mktemp("base") / "llama"
    model = write_base(folder, "llama", False)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="60KB")
    return folder


@pytest.fixture(scope="module")
def run(base, tmp_path_factory):
    save = tmp_path_factory.mktemp("run") / "run"
    convert(base, save, "--num-codes", "16")
    return save


def convert(hf: Path, save: Path, *extra: str):
    arguments = ["hf-to-megatron", "--hf", str(hf), "--save", str(save), *extra]
    return convert_checkpoint.main(arguments)


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_shard(folder: Path, change) -> None:
    """Rewrite the shard that holds the first layer's query weights."""
    name = "model.layers.0.self_attn.q_proj.weight"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    path = folder / index["weight_map"][name]
    tensors = load_file(path)
    change(tensors, name)
    save_file(tensors, path)


def lose_a_shard(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[1].unlink()


def cut_a_shard(folder: Path) -> None:
    path = sorted(folder.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-100])


def point_nowhere(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    weight_map = json.loads(path.read_text())["weight_map"]
    edit_json(path, weight_map=weight_map | {"lm_head.weight": "model-99999.safetensors"})


def point_outside(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    weight_map = json.loads(path.read_text())["weight_map"]
    edit_json(path, weight_map=weight_map | {"lm_head.weight": "../../secret.safetensors"})


def promise_a_tensor(folder: Path) -> None:
    path = folder / "model.safetensors.index.json"
    weight_map = json.loads(path.read_text())["weight_map"]
    edit_json(path, weight_map=weight_map | {"x": next(iter(weight_map.values()))})


def garble_the_index(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": [1]}')


def only_pickle(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    torch.save({}, folder / "pytorch_model.bin")


def no_weights(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()


def quantize(folder: Path) -> None:
    def to_int8(tensors, name):
        tensors[name] = tensors[name].to(torch.int8)

    edit_shard(folder, to_int8)


def mix_types(folder: Path) -> None:
    def to_bf16(tensors, name):
        tensors[name] = tensors[name].to(torch.bfloat16)

    edit_shard(folder, to_bf16)


def value_in_a_weight(value: float):
    def put(tensors, name):
        tensors[name][17, 3] = value

    return lambda folder: edit_shard(folder, put)


def nan_in_the_embedding(folder: Path) -> None:
    name = "model.embed_tokens.weight"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    path = folder / index["weight_map"][name]
    tensors = load_file(path)
    tensors[name][-1, -1] = torch.nan
    save_file(tensors, path)


def reshape(folder: Path) -> None:
    def halve(tensors, name):
        tensors[name] = tensors[name][:64].contiguous()

    edit_shard(folder, halve)


def other_names(folder: Path) -> None:
    for path in folder.glob("*.safetensors"):
        save_file({f"transformer.{k}": v for k, v in load_file(path).items()}, path)
    (folder / "model.safetensors.index.json").unlink()
    tensors = {k: v for p in folder.glob("*.safetensors") for k, v in load_file(p).items()}
    save_file(tensors, folder / "model.safetensors")


def fewer_rows(folder: Path) -> None:
    """The tokenizer grew, the model did not."""
    shutil.rmtree(folder / "base", ignore_errors=True)
    make_vocab(folder / "big", extra=[f"<|extra_{i}|>" for i in range(60)])
    shutil.copy(folder / "big" / "base" / "tokenizer.json", folder / "tokenizer.json")


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def setting(**changes: object):
    return lambda folder: edit_json(folder / "config.json", **changes)


DAMAGE = [
    (lose_a_shard, r"lacks 1 of the \d+ shards .* model-00002-of-.*: .*|download them again"),
    (cut_a_shard, "model-00002-of-.* no whole safetensors file"),
    (point_nowhere, "lacks 1 of the .* model-99999.safetensors; download"),
    (point_outside, "names '../../secret.safetensors'; expected names of files beside it"),
    (promise_a_tensor, "promises x in model-0.*, which that file does not hold"),
    (garble_the_index, "index.json is damaged"),
    (only_pickle, r"holds its weights as pickle \(pytorch_model.bin\), which can run code"),
    (no_weights, "holds no weights"),
    (quantize, "q_proj.weight is I8, expected one of F32, BF16, F16; quantized"),
    (mix_types, "mixes types: .* is F32, .* is BF16|mixes types: .* is BF16, .* is F32"),
    (value_in_a_weight(torch.nan), "q_proj.weight holds NaN or infinite weights"),
    (value_in_a_weight(-torch.inf), "q_proj.weight holds NaN or infinite weights"),
    (nan_in_the_embedding, "embed_tokens.weight holds NaN or infinite weights"),
    (reshape, r"q_proj.weight has shape \(64, 64\), but by its config.json it has \(128, 64\)"),
    (other_names, r"it lacks model.embed_tokens.weight, .* and \d+ more and holds transformer"),
    (fewer_rows, "the tokenizer has 317 tokens, but the model's embedding only 300 rows"),
    (no_tokenizer, "is no text tokenizer"),
    (
        setting(model_type="gpt2"),
        "is of model type 'gpt2'; known here: llama, mistral, .*, glm, chatglm",
    ),
    (setting(model_type=None), "is of model type None"),
    (setting(model_type="qwen2"), "lacks .*q_proj.bias"),
    (
        setting(model_type="mistral"),
        "sets sliding_window to 4096, but mistral models here have None",
    ),
    (setting(hidden_act="gelu"), "sets hidden_act to 'gelu'"),
    (setting(mlp_bias=True), "sets mlp_bias to True"),
    (setting(rope_parameters={"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}), "rope_type"),
    (setting(num_hidden_layers=3), "lacks model.layers.2"),
    (setting(num_hidden_layers=1), "holds model.layers.1.* which have no place"),
    (setting(hidden_size="wide"), "config.json is damaged or has a setting of the wrong kind"),
    (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged"),
    (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
    (
        lambda folder: (folder / "generation_config.json").write_text("{"),
        "generation_config.json is damaged",
    ),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_bad_base_folders_are_refused(damage, message, base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    damage(tmp_path / "base")
    with pytest.raises(MegatronSpeechError, match=message) as refusal:
        convert(tmp_path / "base", tmp_path / "run")
    assert len(str(refusal.value)) < 1000
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob(".*part"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tensor-model-parallel-size", "3"], "--num-attention-heads 8"),
        (["--num-codes", "0"], "num_codes is 0"),
    ],
)
def test_settings_that_cannot_work(arguments, message, base, tmp_path):
    with pytest.raises(MegatronSpeechError, match=message):
        convert(base, tmp_path / "run", *arguments)
    with pytest.raises(ConfigError, match="--hf and --save"):
        convert_checkpoint.main(["hf-to-megatron", "--hf", str(base)])


def test_a_negative_scale_is_no_scale():
    with pytest.raises(ConfigError, match="--new-rows-scale is -1"):
        NewRowsConfig(new_rows_scale=-1.0)


def test_an_import_takes_the_place_of_no_run(base, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    convert(base, tmp_path / "run", "--num-codes", "16")  # of an import it does
    (tmp_path / "run" / "latest_checkpointed_iteration.txt").write_text("7\n")
    (tmp_path / "run" / "iter_0000007").mkdir()
    with pytest.raises(CheckpointError, match="is no imported base model"):
        convert(base, tmp_path / "run")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is no imported base model"):
        convert(base, tmp_path / "notes")


def test_what_others_put_into_an_import_or_export_is_not_removed(base, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run/.DS_Store").touch()
    hf = tmp_path / "run" / "hf"
    export = ["megatron-to-hf", "--load", str(tmp_path / "run"), "--hf", str(hf)]
    convert_checkpoint.main(export)
    with pytest.raises(ConfigError, match=r"run would be replaced, and holds hf besides"):
        convert(base, tmp_path / "run", "--num-codes", "16")
    convert_checkpoint.main(export)
    (hf / "small.gguf").touch()
    with pytest.raises(ConfigError, match=r"holds small\.gguf besides"):
        convert_checkpoint.main(export)
    assert (hf / "small.gguf").exists()


def flip_a_byte(data: bytearray) -> bytes:
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


@pytest.mark.parametrize("damage", [flip_a_byte, lambda data: data[:2000], lambda _: b"", None])
@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata"])
def test_corrupted_checkpoints_are_refused(name, damage, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "iter_0000000" / name
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage is not None:
        path.write_bytes(damage(content))
    with pytest.raises(CheckpointError, match="iter_0000000") as refusal:
        convert_checkpoint.main(
            ["megatron-to-hf", "--load", str(tmp_path / "run"), "--hf", str(tmp_path / "hf")]
        )
    assert len(str(refusal.value)) < 1000
    assert not (tmp_path / "hf").exists()


def test_a_vocabulary_that_shrank_is_refused(base, run, tmp_path):
    convert(base, tmp_path / "small", "--num-codes", "8")
    arguments = ["--load", run, "--hf", tmp_path / "hf", "--vocab", tmp_path / "small" / "vocab"]
    with pytest.raises(CheckpointError, match="was trained with vocabulary"):
        convert_checkpoint.main(["megatron-to-hf", *map(str, arguments)])


def test_a_checkpoint_of_another_architecture_is_refused(run, tmp_path):
    """A torch_dist folder that says it is the model, but holds other tensors."""

    shutil.copytree(run, tmp_path / "run")
    directory = tmp_path / "run" / "iter_0000000"
    with session(ParallelConfig()):
        identity = read_common(directory)[IDENTITY_KEY]
        shutil.rmtree(directory)
        directory.mkdir()
        write_checkpoint(directory, [], ["something._extra_state"], {IDENTITY_KEY: identity})
    arguments = ["--load", tmp_path / "run", "--hf", tmp_path / "hf"]
    with pytest.raises(CheckpointError, match="holds no embedding"):
        convert_checkpoint.main(["megatron-to-hf", *map(str, arguments)])
    with session(ParallelConfig()):
        shutil.rmtree(directory)
        directory.mkdir()
        write_checkpoint(directory, [], ["x"], {})
    with pytest.raises(CheckpointError, match="does not say what model it holds"):
        convert_checkpoint.main(["megatron-to-hf", *map(str, arguments)])
