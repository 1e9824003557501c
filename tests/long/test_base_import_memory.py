"""A base model of 9 GB goes in and out in less than 5 GB of memory.

GLM-4-9B's width and vocabulary with 16 of its 40 layers, random bfloat16 weights in shards of 2 GB;
needs 30 GB of disk; the import alone, of the released layout, 20.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer, models, pre_tokenizers

from megatron_speech.model.chatglm import released_names
from megatron_speech.model.families import hf_shapes
from megatron_speech.model.hf_config import config_from_model
from megatron_speech.model.safetensors_writer import Output, write_shards
from megatron_speech.recipes.lm_recipes import lm_9b
from tests.text.released_tokenizer import fill_ranks, lines, train_ranks, write_tokenizer

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
LAYERS, ROWS, TOKENS, CODES = 16, 151_552, 151_343, 16_384
MOST_BYTES = 5 * 10**9
MODEL = replace(lm_9b().model, num_layers=LAYERS)
RELEASED = {
    "num_layers": "num_layers",
    "hidden_size": "hidden_size",
    "ffn_hidden_size": "ffn_hidden_size",
    "num_attention_heads": "num_attention_heads",
    "multi_query_group_num": "num_query_groups",
    "seq_length": "max_position_embeddings",
    "layernorm_epsilon": "norm_epsilon",
}


def write_base(folder: Path) -> int:
    """Config, tokenizer and shards of transformers' glm; returns parameters."""
    folder.mkdir(parents=True)
    config_from_model(MODEL, ROWS, dtype=torch.bfloat16).save_pretrained(folder)
    words = {"<|endoftext|>": 0} | {f"w{n}": n for n in range(1, TOKENS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # the checked text is not one word
    tokenizer.save(str(folder / "tokenizer.json"))
    return write_tensors(folder, hf_shapes(MODEL, ROWS))


def write_released(folder: Path) -> int:
    """The same in the layout of the released models."""
    write_tokenizer(folder, fill_ranks(train_ranks(lines(300, seed=1), 1500)))
    config = {chatglm: getattr(MODEL, ours) for chatglm, ours in RELEASED.items()}
    config |= {"model_type": "chatglm", "padded_vocab_size": ROWS, "eos_token_id": [TOKENS - 14]}
    config |= {"add_qkv_bias": True, "multi_query_attention": True, "kv_channels": 128}
    (folder / "config.json").write_text(json.dumps(config))
    glm, shapes = hf_shapes(MODEL, ROWS), {}
    for name, parts in released_names(MODEL).items():
        first = glm[parts[0]]
        shapes[name] = (sum(glm[part][0] for part in parts), *first[1:])
    return write_tensors(folder, shapes)


def write_tensors(folder: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    noise = (0.02 * torch.randn(2**24 + 4099)).bfloat16()  # no row of a table repeats another

    def read(shape: tuple[int, ...]) -> torch.Tensor:
        size = torch.Size(shape).numel()
        return noise.repeat(-(-size // len(noise)))[:size].view(shape)

    outputs = [Output(name, shape, lambda s=shape: read(s)) for name, shape in shapes.items()]
    return write_shards(folder, outputs, torch.bfloat16, 2 * 10**9)


def peak_of(*arguments: str) -> tuple[int, float]:
    """Run a conversion in a process of its own; its largest memory in bytes, and its seconds."""
    started = time.monotonic()
    command = [sys.executable, "tools/convert_checkpoint.py", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return usage.ru_maxrss * 1024, time.monotonic() - started


def tensors_of(folder: Path) -> dict[str, Path]:
    weight_map = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    return {name: folder / file for name, file in weight_map.items()}


@pytest.fixture
def folder(tmp_path):
    """Removed at once: pytest would keep its 30 GB for three more runs."""
    yield tmp_path
    shutil.rmtree(tmp_path)


def require_disk(folder: Path, gigabytes: int) -> None:
    if shutil.disk_usage(folder).free < gigabytes * 1e9:
        pytest.fail(f"{folder} needs {gigabytes} GB of free disk")


def test_nine_gigabytes_in_and_out(folder):
    require_disk(folder, 32)
    base, run, back = (folder / name for name in ("base", "run", "back"))
    parameters = write_base(base)
    flags = ["--num-codes", str(CODES), "--tensor-model-parallel-size", "2"]
    into = peak_of("hf-to-megatron", "--hf", str(base), "--save", str(run), *flags)
    out = peak_of("megatron-to-hf", "--load", str(run), "--hf", str(back))
    for what, (peak, seconds) in (("import", into), ("export", out)):
        print(f"{what} of {2 * parameters / 1e9:.1f} GB: {peak / 1e9:.2f} GB, {seconds:.0f} s")
        assert peak < MOST_BYTES
    before, after = tensors_of(base), tensors_of(back)
    assert before.keys() == after.keys()
    for name, path in before.items():
        with safe_open(path, "pt") as old, safe_open(after[name], "pt") as new:
            tensor = old.get_tensor(name)
            rows = TOKENS if tensor.size(0) == ROWS else tensor.size(0)
            assert torch.equal(new.get_slice(name)[:rows], tensor[:rows]), name


def test_nine_gigabytes_in_the_released_layout(folder):
    require_disk(folder, 22)
    parameters = write_released(folder / "base")
    flags = ["--num-codes", str(CODES), "--tensor-model-parallel-size", "2"]
    peak, seconds = peak_of(
        "hf-to-megatron", "--hf", str(folder / "base"), "--save", str(folder / "run"), *flags
    )
    print(f"import of {2 * parameters / 1e9:.1f} GB: {peak / 1e9:.2f} GB, {seconds:.0f} s")
    assert peak < MOST_BYTES
