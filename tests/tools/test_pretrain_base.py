"""Training from an imported base model, through the public tools, to an export that speaks."""

import shutil

import pytest
import torch
import yaml
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_speech import cli
from megatron_speech.errors import CheckpointError, ConfigError
from megatron_speech.recipes import lm
from megatron_speech.text.vocab import SpeechTextVocab
from megatron_speech.training.megatron.batch import read_batch
from tests.data.language_data import NUM_CODES, random_documents, write_dataset
from tests.model.base_folders import write_base
from tools import convert_checkpoint, pretrain

SHORT = (
    "lm-smoke --seq-length 32 --global-batch-size 4 --micro-batch-size 2 --eval-iters 1 "
    "--lr-warmup-iters 1 --log-interval 1"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("from_base")


@pytest.fixture(scope="module")
def base(folder):
    """A bfloat16 qwen3 with 16 codes added, and a dataset of its vocabulary."""
    write_base(folder / "hf", "qwen3", True, torch.bfloat16)
    convert_checkpoint.main(
        f"hf-to-megatron --hf {folder / 'hf'} --save {folder / 'base'} "
        f"--num-codes {NUM_CODES}".split()
    )
    vocab = SpeechTextVocab.from_pretrained(folder / "base" / "vocab")
    write_dataset(folder / "data", vocab, random_documents(vocab, 120, seed=1))
    return folder / "base"


def train(folder, save, *arguments):
    data = ["--save", folder / save, "--data-path", "1.0", folder / "data"]
    return pretrain.main([*SHORT, *map(str, [*data, *arguments])])


@pytest.fixture(scope="module")
def run(folder, base):
    """Enough steps to answer begin of audio with codes."""
    flags = ["--pretrained-checkpoint", base, "--train-iters", "40", "--lr", "5e-3"]
    return train(folder, "run", *flags)


def test_a_run_starts_from_the_weights_of_the_base(folder, base):
    """Nothing is learned at learning rate 0: the weights stay the base's, widened to float32."""
    flags = ["--pretrained-checkpoint", base, "--train-iters", "2", "--lr", "0", "--min-lr", "0"]
    train(folder, "still", *flags)
    convert_checkpoint.main(["megatron-to-hf", "--load", f"{folder}/still", "--hf", f"{folder}/f"])
    convert_checkpoint.main(["megatron-to-hf", "--load", str(base), "--hf", f"{folder}/b"])
    trained = AutoModelForCausalLM.from_pretrained(folder / "f", dtype=torch.float32).state_dict()
    expected = AutoModelForCausalLM.from_pretrained(folder / "b", dtype=torch.float32).state_dict()
    for name, tensor in expected.items():
        assert torch.equal(trained[name], tensor), name
    config = yaml.safe_load((folder / "still" / "run_config.yaml").read_text())
    assert config["model"]["family"] == "qwen3"
    assert config["model"]["hidden_size"] == 64
    assert config["recipe"] == "lm-smoke"


@pytest.mark.parametrize("flags", [["--num-layers", "9"], ["--qk-layernorm", "--hidden-size=128"]])
def test_a_shape_that_is_not_the_bases_is_refused(folder, base, flags):
    with pytest.raises(
        ConfigError, match=rf"{flags[-1].partition('=')[0]}.*there .*drop what differs"
    ):
        train(folder, "other_shape", "--pretrained-checkpoint", base, *flags)


def test_the_loss_of_the_base_is_that_of_the_export(folder, base):
    """The export has no rows that pad the vocabulary, the model in training has."""
    flags = ["--pretrained-checkpoint", base, "--train-iters", "2", "--lr", "0", "--min-lr", "0"]
    second = train(folder, "one", *flags).metrics["lm loss"]
    convert_checkpoint.main(["megatron-to-hf", "--load", str(base), "--hf", f"{folder}/u"])
    exported = AutoModelForCausalLM.from_pretrained(folder / "u", dtype=torch.float32)
    arguments = [*SHORT, "--save", folder / "other", "--data-path", "1.0", folder / "data", *flags]
    _, config = cli.parse_recipe(lm.RECIPES, list(map(str, arguments)), None)
    with lm.build(lm.resolve(config)) as trainer, torch.no_grad():
        batch = read_batch(trainer.data.train, range(4, 8), torch.device("cpu"), False)
        seen = None if batch.attention_mask is None else ~batch.attention_mask
        logits = exported(
            batch.tokens, attention_mask=seen, position_ids=batch.position_ids
        ).logits.flatten(0, 1)
        losses = cross_entropy(logits, batch.labels.flatten(), reduction="none")
    mask = batch.loss_mask.flatten()
    assert second == pytest.approx(((losses * mask).sum() / mask.sum()).item(), abs=1e-4)


def test_export_generates_speech(folder, run):
    assert run.finished
    hf = folder / "run-hf"
    convert_checkpoint.main(["megatron-to-hf", "--load", str(folder / "run"), "--hf", str(hf)])
    model = AutoModelForCausalLM.from_pretrained(hf, trust_remote_code=False)
    vocab, tokenizer = SpeechTextVocab.from_pretrained(hf), AutoTokenizer.from_pretrained(hf)
    prompt = torch.tensor([[*tokenizer.encode("ab"), vocab.begin_of_audio_id]])
    torch.manual_seed(0)
    made = model.generate(prompt, max_new_tokens=3, do_sample=True, num_return_sequences=8)
    made = made[:, prompt.size(1) :].numpy()
    assert vocab.is_speech(made).mean() > 0.6
    assert "<|audio_" in tokenizer.decode(made[0])
    assert model.generation_config.eos_token_id == vocab.eod_id


def test_model_card_tells_recipe_data_and_tokens(folder, run):
    hf = folder / "card"
    convert_checkpoint.main(["megatron-to-hf", "--load", str(folder / "run"), "--hf", str(hf)])
    card = (hf / "README.md").read_text()
    for fact in (
        "recipe: lm-smoke",
        "started from: base",
        "steps: 40",
        f"tokens seen: {40 * 4 * 32:,}",
        "| 100.0% | data |",
        f"{NUM_CODES} speech codes",
        "speech tokenizer `codes-a`",
        "library_name: transformers",
    ):
        assert fact in card
    assert str(folder) not in card


def test_the_same_command_continues_without_the_base(folder, base, run):
    shutil.copytree(folder / "run", folder / "again")
    flags = ["--pretrained-checkpoint", folder / "gone", "--train-iters", "41", "--lr", "5e-3"]
    result = train(folder, "again", *flags)
    assert result.iteration == 41


def test_bad_bases_are_refused(folder, base, tmp_path):
    with pytest.raises(ConfigError, match=r"--pretrained-checkpoint .*nowhere: no checkpoint"):
        train(folder, "x", "--pretrained-checkpoint", folder / "nowhere")
    shutil.copytree(base, tmp_path / "base")
    (tmp_path / "base" / "run_config.yaml").unlink()
    with pytest.raises(ConfigError, match="does not tell the shape of the model"):
        train(folder, "x", "--pretrained-checkpoint", tmp_path / "base")
    with pytest.raises(CheckpointError, match=r"holds weights alone.*--pretrained-checkpoint"):
        train(folder, "x", "--load", base, "--vocab", base / "vocab", *shape(base))
    convert_checkpoint.main(
        f"hf-to-megatron --hf {folder / 'hf'} --save {tmp_path / 'small'} --num-codes 8".split()
    )
    vocab = ["--vocab", base / "vocab"]
    with pytest.raises(CheckpointError, match="is of another model, vocabulary"):
        train(folder, "x", "--pretrained-checkpoint", tmp_path / "small", *vocab)
    convert_checkpoint.main(
        f"hf-to-megatron --hf {folder / 'hf'} --save {tmp_path / 'text'}".split()
    )
    with pytest.raises(ConfigError, match="has no speech codes"):
        train(folder, "x", "--pretrained-checkpoint", tmp_path / "text")


def test_a_damaged_base_is_refused(folder, base, tmp_path):
    shutil.copytree(base, tmp_path / "base")
    path = tmp_path / "base" / "iter_0000000" / "__0_0.distcp"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="distcp is damaged"):
        train(folder, "x", "--pretrained-checkpoint", tmp_path / "base")


def shape(base):
    """Flags that spell the base's shape, as --load without --pretrained-checkpoint needs them."""
    model = yaml.safe_load((base / "run_config.yaml").read_text())["model"]
    flags: list[str] = []
    for name, value in model.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            flags.append(flag)
        elif value is not False and value is not None:
            flags += [flag, str(value)]
    return flags
