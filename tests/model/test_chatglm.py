"""The released GLM-4 layout in and out: transformers' logits, the same bytes back."""

import json
import shutil

import pytest
import torch
import torch.multiprocessing
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_speech.errors import CheckpointError
from megatron_speech.io.model_folders import load_weights
from megatron_speech.model.base_model import ImportConfig, import_base
from megatron_speech.model.exported import load_exported
from megatron_speech.model.hf import ExportForm, export_checkpoint
from megatron_speech.text.vocab import SpeechTextVocab
from megatron_speech.training.parallel_config import ParallelConfig
from tests.model import base_world
from tests.model.base_world import TOKENS, Group, megatron_logits
from tests.model.released_folder import WIDTH, as_glm, write_released

CODES = 64
RATIOS = {"voice": 1, "text": 500}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("released")


@pytest.fixture(scope="module")
def weights(folder):
    """voice: with codes, in two files; text: without, in one, with other rotary frequencies."""
    return {
        "voice": write_released(folder / "voice", codes=CODES, dtype=torch.float32),
        "text": write_released(folder / "text", dtype=torch.float32, files=1, rope_ratio=500),
    }


@pytest.fixture(scope="module")
def logits(folder, weights):
    """transformers' glm on the renamed weights."""
    found = {}
    for name, tensors in weights.items():
        model = as_glm(tensors, read_config(folder / name), torch.float32)
        with torch.no_grad():
            found[name] = model(TOKENS).logits
    return found


@pytest.fixture(scope="module")
def runs(folder, weights):
    for name in weights:
        import_base(ImportConfig(hf=folder / name, save=folder / f"{name}-run"))
    return {name: folder / f"{name}-run" for name in weights}


def read_config(folder):
    return json.loads((folder / "config.json").read_text())


def edit_config(folder, **changes):
    (folder / "config.json").write_text(json.dumps(read_config(folder) | changes))


def files_of(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".py"}


@pytest.mark.parametrize("name", RATIOS)
def test_logits_are_those_of_transformers(name, logits, runs):
    rows = logits[name].size(-1)
    found = megatron_logits(runs[name], ParallelConfig(), rows)
    assert (found[..., :rows] - logits[name]).abs().max() <= 1e-4
    assert logits[name].std() > 0.3


def test_logits_on_two_ranks(folder, logits, runs):
    two = ParallelConfig(tensor_model_parallel_size=2)
    rows = logits["voice"].size(-1)
    groups = [Group("tp2", (0, 1), two, (runs["voice"],), rows)]
    torch.multiprocessing.spawn(base_world.main, args=(folder, groups), nprocs=2)
    found = torch.load(f"{runs['voice']}-tp2.pt", weights_only=True)
    assert (found[..., :rows] - logits["voice"]).abs().max() <= 1e-4


@pytest.mark.parametrize("name", RATIOS)
def test_as_glm_it_loads_without_code(name, folder, logits, runs, tmp_path):
    export_checkpoint(runs[name], tmp_path / "glm")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "glm")
    assert type(model).__name__ == "GlmForCausalLM"
    with torch.no_grad():
        assert torch.equal(model(TOKENS).logits, logits[name])
    released = read_config(folder / name)
    assert model.config.vocab_size == released["padded_vocab_size"]
    assert model.config.eos_token_id == released["eos_token_id"]
    assert model.generation_config.pad_token_id == released["pad_token_id"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "glm")
    assert tokenizer.eos_token_id == released["pad_token_id"]


@pytest.mark.parametrize("files", [1, 3])
def test_it_comes_back_byte_for_byte(files, tmp_path):
    write_released(tmp_path / "base", codes=CODES, files=files)
    before = files_of(tmp_path / "base")
    import_base(ImportConfig(hf=tmp_path / "base", save=tmp_path / "run"))
    export_checkpoint(
        tmp_path / "run", tmp_path / "back", form=ExportForm(chatglm=tmp_path / "base")
    )
    after = files_of(tmp_path / "back")
    assert after.keys() - before.keys() == {"speech_text_vocab.json"}
    assert {name: after[name] for name in before} == before
    # and is a base again
    again = import_base(ImportConfig(hf=tmp_path / "back", save=tmp_path / "again"))
    vocab = SpeechTextVocab.from_pretrained(tmp_path / "run" / "vocab")
    assert again.vocab.fingerprint == vocab.fingerprint


def test_codes_and_chat_tokens_stay_where_they_are(folder, weights, runs):
    vocab = SpeechTextVocab.from_pretrained(runs["voice"] / "vocab")
    ranks = 400
    assert (vocab.num_codes, vocab.code_offset) == (CODES, ranks + 1024)
    assert vocab.specials["<|user|>"] == ranks + 7
    assert (vocab.size, vocab.added) == (ranks + 1024 + CODES, ())
    assert vocab.base_rows == read_config(folder / "voice")["padded_vocab_size"]
    model, loaded = load_exported_glm(folder, runs["voice"])
    assert model.config.vocab_size == vocab.base_rows
    assert loaded.fingerprint == vocab.fingerprint


def load_exported_glm(folder, run):
    export_checkpoint(run, folder / "exported")
    return load_exported(folder / "exported")


def test_codes_are_added_to_a_text_model(folder, weights, tmp_path):
    done = import_base(ImportConfig(hf=folder / "text", save=tmp_path / "run", num_codes=CODES))
    assert done.vocab.code_offset > done.vocab.text.size
    assert done.text_loss is not None
    export_checkpoint(tmp_path / "run", tmp_path / "glm")
    model, vocab = load_exported(tmp_path / "glm")
    text = done.vocab.text.size
    old = weights["text"]["transformer.output_layer.weight"]
    assert torch.equal(model.lm_head.weight[:text], old[:text])
    assert model.lm_head.weight[text:].abs().sum(1).min() > 0
    assert vocab.special("<|speak|>") >= text
    with pytest.raises(CheckpointError, match="another vocabulary than --chatglm"):
        export_checkpoint(
            tmp_path / "run", tmp_path / "back", form=ExportForm(chatglm=folder / "text")
        )


def test_only_released_folders_of_the_same_model_are_filled(folder, runs, tmp_path):
    def back(like):
        export_checkpoint(runs["voice"], tmp_path / "back", form=ExportForm(chatglm=like))

    export_checkpoint(runs["voice"], tmp_path / "glm")
    with pytest.raises(CheckpointError, match="no folder of model type chatglm"):
        back(tmp_path / "glm")
    with pytest.raises(CheckpointError, match="rotary_base 10000 instead of 5000000"):
        back(folder / "text")
    write_released(tmp_path / "half", codes=CODES)
    with pytest.raises(CheckpointError, match=r"checkpoint is torch.float32, but .*bfloat16"):
        back(tmp_path / "half")
    assert not (tmp_path / "back").exists()


def lose_codes(folder):
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    added = config["added_tokens_decoder"]
    config["added_tokens_decoder"] = {
        n: t for n, t in added.items() if "audio_" not in t["content"]
    }
    path.write_text(json.dumps(config))


def change_tensor(folder, change):
    path = folder / "model-00001-of-00002.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    found = json.loads(index.read_text())
    found["weight_map"] = {n: f for n, f in found["weight_map"].items() if f != path.name}
    found["weight_map"] |= dict.fromkeys(tensors, path.name)
    index.write_text(json.dumps(found))


QKV = "transformer.encoder.layers.0.self_attention.query_key_value.weight"
REFUSED = [
    (
        lambda f: edit_config(f, add_bias_linear=True),
        "add_bias_linear to True, but GLM-4 has False",
    ),
    (lambda f: edit_config(f, rmsnorm=False), "rmsnorm to False"),
    (lambda f: edit_config(f, add_qkv_bias=False), "add_qkv_bias to False"),
    (lambda f: edit_config(f, quantization_bit=4), "quantization_bit to 4"),
    (lambda f: edit_config(f, rope_ratio="much"), "setting of the wrong kind"),
    (lambda f: edit_config(f, padded_vocab_size=2048), "has shape"),
    (
        lambda f: (f / "config.json").write_text('{"model_type": "chatglm", "add_qkv_bias": true}'),
        "lacks hidden_size, ffn_hidden_size",
    ),
    (lambda f: change_tensor(f, lambda t: t.pop(QKV)), f"lacks {QKV}"),
    (
        lambda f: change_tensor(f, lambda t: t.update(x=t[QKV].clone())),
        "holds x, which have no place",
    ),
    (lambda f: change_tensor(f, lambda t: t.update({QKV: t[QKV][:-1]})), f"{QKV} has shape"),
    (lambda f: change_tensor(f, lambda t: t[QKV].fill_(torch.nan)), f"{QKV} holds NaN"),
    (lambda f: edit_config(f, num_layers=10**12), "describes 1000000000000 layers"),
    (lose_codes, "only 418 have a token"),
]


@pytest.mark.parametrize(("damage", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_damaged_and_other_models_are_refused(folder, weights, tmp_path, damage, said):
    shutil.copytree(folder / "voice", tmp_path / "base")
    damage(tmp_path / "base")
    with pytest.raises(CheckpointError) as refused:
        import_base(ImportConfig(hf=tmp_path / "base", save=tmp_path / "run"))
    assert said in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_the_folder_itself_is_not_loaded(folder, weights):
    with pytest.raises(CheckpointError, match="import it with tools/convert_checkpoint"):
        load_weights(AutoModelForCausalLM, folder / "voice")


def test_heads_without_groups(folder, weights, tmp_path):
    """multi_query_attention off: a key and a value for each head."""
    shutil.copytree(folder / "voice", tmp_path / "base")
    edit_config(tmp_path / "base", multi_query_attention=False)
    with pytest.raises(CheckpointError, match=r"\(192, 32\)"):
        import_base(ImportConfig(hf=tmp_path / "base", save=tmp_path / "run"))
    assert WIDTH == 32
