"""LoRA from an imported base through the public tools: resumed, merged, and as peft reads it."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from megatron_speech import cli
from megatron_speech.errors import CheckpointError, ConfigError
from megatron_speech.recipes import lm
from megatron_speech.text.vocab import SpeechTextVocab
from tests.data.language_data import NUM_CODES, random_documents, write_dataset
from tests.model.base_folders import write_base
from tests.tools.pretraining import assert_same_runs
from tools import convert_checkpoint, pretrain

SHORT = (
    "lm-smoke --seq-length 32 --global-batch-size 4 --micro-batch-size 2 --eval-iters 1 "
    "--eval-interval 2 --lr-warmup-iters 1 --log-interval 1 --lr 2e-2 --min-lr 2e-2 --keep-last 9"
).split()
LORA = "--lora-rank 4 --lora-alpha 8 --lora-dropout 0.1 --lora-train-embedding".split()
KINDS = [("qwen3", True), ("qwen2", False), ("olmo2", False), ("glm", False)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lora")


def base_of(folder, family, tied):
    """An imported base with 16 codes added, made when first asked for."""
    base = folder / f"{family}-{tied}"
    if not base.exists():
        hf = folder / f"hf-{family}-{tied}"
        write_base(hf, family, tied)
        convert("hf-to-megatron", "--hf", hf, "--save", base, "--num-codes", NUM_CODES)
        convert("megatron-to-hf", "--load", base, "--hf", folder / f"base-{family}-{tied}")
        vocab = SpeechTextVocab.from_pretrained(base / "vocab")
        write_dataset(folder / "data", vocab, random_documents(vocab, 120, seed=1))
    return base


def convert(*arguments):
    return convert_checkpoint.main(list(map(str, arguments)))


def command(folder, base, save, *arguments):
    data = ["--save", save, "--data-path", "1.0", folder / "data"]
    data += ["--valid-data-path", folder / "data"]
    flags = [*SHORT, *data, "--pretrained-checkpoint", base, *arguments]
    return list(map(str, flags))


def train(*arguments):
    return pretrain.main(command(*arguments))


@pytest.fixture(scope="module")
def runs(folder):
    """Eight steps of each kind of base."""
    made = {}
    for family, tied in KINDS:
        base, save = base_of(folder, family, tied), folder / f"run-{family}-{tied}"
        train(folder, base, save, *LORA, "--train-iters", 8)
        made[family, tied] = save
    return made


def logits_of(model, tokens):
    with torch.no_grad():
        return model.eval()(tokens).logits


def tokens_of(folder):
    vocab = SpeechTextVocab.from_pretrained(folder)
    return torch.randint(0, vocab.size, (2, 24), generator=torch.Generator().manual_seed(3))


def trained_logits(folder, base, save, tokens):
    """Of the model as it was trained, adapters apart."""
    _, config = cli.parse_recipe(lm.RECIPES, command(folder, base, save, *LORA), None)
    with lm.build(lm.resolve(config)) as trainer:
        config.base.load_weights(trainer, save, stays=True)
        trainer.load(save / "iter_0000008")
        (chunk,) = trainer.chunks
        chunk.eval()
        with torch.no_grad():
            positions = torch.arange(tokens.size(1)).expand_as(tokens)
            return chunk(tokens, positions, None)


@pytest.mark.parametrize(("family", "tied"), KINDS)
def test_merged_peft_and_trained_say_the_same(family, tied, folder, runs, tmp_path):
    save, base = runs[family, tied], folder / f"base-{family}-{tied}"
    convert("megatron-to-hf", "--load", save, "--hf", tmp_path / "merged")
    convert(
        *("megatron-to-hf", "--load", save, "--hf", tmp_path / "peft", "--lora", "adapters"),
        *("--base-hf", base),
    )
    tokens = tokens_of(save / "vocab")
    merged = logits_of(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), tokens)
    start = AutoModelForCausalLM.from_pretrained(base)
    before = logits_of(start, tokens)
    apart = logits_of(PeftModel.from_pretrained(start, str(tmp_path / "peft")), tokens)
    trained = trained_logits(folder, folder / f"{family}-{tied}", save, tokens)
    assert (merged - before).abs().max() > 0.1
    assert (merged - apart).abs().max() <= 1e-5
    assert (merged - trained[..., : merged.size(-1)]).abs().max() <= 1e-5 * merged.abs().max()
    told = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == str(base)
    assert told["lora_dropout"] == 0.1
    assert "peft import PeftModel" in (tmp_path / "peft" / "README.md").read_text()
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "LoRA of rank 4, alpha 8" in card


def test_what_is_frozen_stays_bit_for_bit(folder, runs, tmp_path):
    save, base = runs["qwen3", True], folder / "base-qwen3-True"
    convert("megatron-to-hf", "--load", save, "--hf", tmp_path / "merged")
    before, after = (load_file(f / "model.safetensors") for f in (base, tmp_path / "merged"))
    vocab = SpeechTextVocab.from_pretrained(base)
    first = vocab.size - len(vocab.added)
    table = "model.embed_tokens.weight"
    assert torch.equal(before[table][:first], after[table][:first])
    assert not torch.equal(before[table][first:], after[table][first:])
    for name in before:
        assert torch.equal(before[name], after[name]) == ("norm" in name), name


def test_a_run_that_was_stopped_ends_with_the_same_bits(folder, runs, tmp_path):
    base = base_of(folder, "qwen3", True)
    for steps in (["--exit-interval", 3], ["--exit-interval", 5], []):
        train(folder, base, tmp_path / "run", *LORA, "--train-iters", 8, *steps)
    assert assert_same_runs(tmp_path / "run", runs["qwen3", True]) > 20


def test_another_rank_is_refused(folder, runs, tmp_path):
    shutil.copytree(runs["qwen3", True], tmp_path / "run")
    other = ["--lora-rank", 8, "--train-iters", 9]
    base = base_of(folder, "qwen3", True)
    with pytest.raises(CheckpointError, match=r"lora is \{'rank': 4.* and \{'rank': 8"):
        train(folder, base, tmp_path / "run", *other)
    with pytest.raises(CheckpointError, match=r"lora is \{'rank': 4.* and None here"):
        train(folder, base, tmp_path / "run", "--train-iters", 9)


def test_another_base_is_refused(folder, runs, tmp_path):
    """The same model with other numbers."""
    run, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(runs["qwen3", True], run)
    convert(
        *("hf-to-megatron", "--hf", folder / "hf-qwen3-True", "--save", other),
        *("--num-codes", NUM_CODES, "--new-rows-seed", 5),
    )
    with pytest.raises(CheckpointError, match=r"base is iter_0000000 .* there and iter_0000000"):
        train(folder, other, run, *LORA, "--train-iters", 9)
    export = ["megatron-to-hf", "--load", run, "--hf", tmp_path / "hf"]
    with pytest.raises(CheckpointError, match="is not the base of the adapters"):
        convert(*export, "--pretrained-checkpoint", other)
    with pytest.raises(CheckpointError, match=r"their base is not at .*nowhere"):
        convert(*export, "--pretrained-checkpoint", tmp_path / "nowhere")
    assert not (tmp_path / "hf").exists()


def test_adapters_are_no_base(folder, runs, tmp_path):
    with pytest.raises(CheckpointError, match="holds the adapters of a LoRA run and no model"):
        train(folder, runs["qwen3", True], tmp_path / "run", "--train-iters", 2)


def test_adapters_need_a_base(folder, tmp_path):
    arguments = command(
        folder, "x", tmp_path / "run", *LORA, "--vocab", folder / "qwen3-True/vocab"
    )
    place = arguments.index("--pretrained-checkpoint")
    del arguments[place : place + 2]
    with pytest.raises(ConfigError, match="--lora-rank 4 needs --pretrained-checkpoint"):
        pretrain.main(arguments)
