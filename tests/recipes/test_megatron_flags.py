"""What becomes of Megatron-LM's flags: nothing of ours is hidden, and no advice leads nowhere."""

import re
from dataclasses import fields, is_dataclass
from fnmatch import fnmatch

import pytest

from megatron_speech import cli
from megatron_speech.cluster.plan import plan_of
from megatron_speech.datasets.megatron_flags import PREPROCESS_FLAGS
from megatron_speech.datasets.text import PreprocessConfig
from megatron_speech.errors import ConfigError
from megatron_speech.recipes import lm
from megatron_speech.recipes.megatron_flags import PLAN_FLAGS, PRETRAIN_FLAGS
from tools import plan_run, preprocess_data, pretrain

PRETRAIN = {
    field.name.replace("_", "-") for part in vars(lm.lm_debug()).values() for field in fields(part)
}
PREPROCESS = {field.name.replace("_", "-") for field in fields(PreprocessConfig)}
TABLES = [(PRETRAIN_FLAGS, PRETRAIN), (PREPROCESS_FLAGS, PREPROCESS)]
_PLAN = plan_of(lm.lm_debug())
PLAN = {
    field.name.replace("_", "-")
    for part in (_PLAN, *filter(is_dataclass, vars(_PLAN).values()))
    for field in fields(part)
    if not is_dataclass(getattr(part, field.name))
}


@pytest.mark.parametrize(("table", "ours"), [*TABLES, (PLAN_FLAGS, PLAN)])
def test_no_flag_of_ours_is_hidden(table, ours):
    assert not [name for name in ours for key in table if fnmatch(name, key)]


@pytest.mark.parametrize(("table", "ours"), TABLES)
def test_every_flag_that_an_answer_names_exists(table, ours):
    known = ours | table.keys() | {"tokenizer"}  # the last is tools/build_vocab.py's
    for key, flag in table.items():
        named = [*flag.instead, *re.findall(r"--[a-z0-9-]+", flag.says)]
        names = [name[2:] for name in named if name.startswith("--")]
        assert all({name, name.removeprefix("no-")} & known for name in names), key
        assert flag.taken or "drop" in flag.says or "give" in flag.says or "set " in flag.says, key


def test_a_plan_takes_them_as_pretrain_does(capsys):
    argv = (
        "lm-debug --use-mcore-models --swiglu --layernorm-epsilon 1e-6 --recompute-activations "
        "--use-flash-attn --fp8-hybrid --bf16 --ckpt-format torch_dist --gpus 8 --gpu-counts 8 "
        "--padded-vocab-size 2048"
    )
    plan = plan_run.main(argv.split())
    assert plan.chosen.gpus == 8
    told = capsys.readouterr().err
    assert "--fp8-hybrid is --fp8-format hybrid" in told
    with pytest.raises(ConfigError, match=r"--num-experts 8 of Megatron-LM: .*dense"):
        plan_run.main("lm-debug --num-experts 8".split())


@pytest.mark.parametrize("key", [key for key, flag in PRETRAIN_FLAGS.items() if flag.instead])
def test_what_stands_for_a_flag_is_understood(key, capsys):
    values = ["1e-6"] * PRETRAIN_FLAGS[key].values
    argv = ["lm-debug", f"--{key}", *values, "--bf16"]
    argv = cli.translate(argv, PRETRAIN_FLAGS, "Megatron-LM")
    cli.parse_recipe(lm.RECIPES, argv, None)
    assert f"--{key} is {argv[1]}" in capsys.readouterr().err


def test_a_command_line_of_megatrons_is_taken():
    argv = (
        "lm-debug --use-mcore-models --swiglu --normalization RMSNorm --disable-bias-linear "
        "--position-embedding-type rope --group-query-attention --num-query-groups 2 "
        "--recompute-activations --use-flash-attn --fp8-hybrid --ckpt-format torch_dist "
        "--tokenizer-type HuggingFaceTokenizer --distributed-backend nccl --lr 1e-5 "
        "--tensorboard-dir logs --log-timers-to-tensorboard --bf16 --seq-length 64"
    )
    argv = cli.translate(argv.split(), PRETRAIN_FLAGS, "Megatron-LM")
    _, config = cli.parse_recipe(lm.RECIPES, argv, None)
    assert config.parallel.recompute_granularity == "selective"
    assert config.precision.attention_backend == "flash"
    assert config.precision.fp8_format == "hybrid"
    assert (config.batch.lr, config.batch.lowest_lr) == (1e-5, 1e-6)


def test_recipes_end_their_decay_at_a_tenth():
    rates = {name: recipe().batch for name, recipe in lm.RECIPES.items()}
    assert (rates["lm-debug"].lr, rates["lm-debug"].lowest_lr) == (1.5e-3, 1.5e-4)
    assert (rates["lm-9b"].lr, rates["lm-9b"].lowest_lr) == (6e-5, 6e-6)
    assert (rates["sft-9b"].lr, rates["sft-9b"].lowest_lr) == (1e-5, 1e-6)


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        ("--train-samples 1000", "--train-iters"),
        ("--finetune", "--pretrained-checkpoint"),
        ("--no-load-rng", "--no-load-optim"),
        ("--num-experts 8", "dense"),
        ("--moe-router-topk 2", "dense"),
        ("--ckpt-format torch", "always torch_dist"),
        ("--tokenizer-type NullTokenizer", "build_vocab"),
    ],
)
def test_pretrain_answers(flags, answer):
    with pytest.raises(ConfigError, match=f"of Megatron-LM: .*{answer}"):
        pretrain.main(["lm-debug", *flags.split()])


@pytest.mark.parametrize(
    ("flags", "answer"),
    [
        ("--split-sentences", "one to a record"),
        ("--keep-newlines", "--split-sentences"),
        ("--tokenizer-type GPT2BPETokenizer", "save_pretrained"),
        ("--vocab-file v.json --merge-file m.txt", "GPT2TokenizerFast"),
        ("--find-optimal-num-workers", "--workers"),
    ],
)
def test_preprocess_data_answers(flags, answer):
    needed = "--input none --output-prefix out --tokenizer-model none".split()
    with pytest.raises(ConfigError, match=f"of Megatron-LM: .*{answer}"):
        preprocess_data.main([*needed, *flags.split()])
