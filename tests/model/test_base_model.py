"""Base models in and out: the same logits under any layout, the same bytes back, new rows."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import torch.multiprocessing
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from megatron_speech.model.base_model import ImportConfig, import_base
from megatron_speech.model.hf import export_checkpoint
from megatron_speech.model.new_rows import NewRowsConfig
from megatron_speech.text.vocab import DEFAULT_SPECIALS, SpeechTextVocab
from megatron_speech.training.parallel_config import ParallelConfig
from tests.model import base_world
from tests.model.base_folders import FAMILIES, write_base
from tests.model.base_world import ROWS, TOKENS, Group, megatron_logits

CASES = [(family, tied) for family in FAMILIES for tied in (False, True)]
CODES = 64
"""More than the unused rows of the base: the extended vocabulary outgrows its embedding."""
LOWEST = torch.finfo(torch.float32).min
"""The logit of rows that pad."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bases")


@pytest.fixture(scope="module")
def bases(folder):
    """Logits of each base by transformers; folders are `<family>-<tied>`."""
    logits = {}
    for family, tied in CASES:
        model = write_base(folder / f"{family}-{tied}", family, tied)
        with torch.no_grad():
            logits[family, tied] = model(TOKENS).logits
    return logits


@pytest.fixture(scope="module")
def runs(folder, bases):
    """Every base as it is, stored in two pieces per tensor for the tied ones."""
    done = {}
    for family, tied in CASES:
        save = folder / f"{family}-{tied}-run"
        size = 2 if tied else 1
        import_base(
            ImportConfig(hf=folder / f"{family}-{tied}", save=save, tensor_model_parallel_size=size)
        )
        done[family, tied] = save
    return done


@pytest.fixture(scope="module")
def logits_of_ranks(folder, runs):
    """Every run on two tensor-parallel ranks, some in other layouts; in one spawn."""
    two = ParallelConfig(tensor_model_parallel_size=2)
    four = ParallelConfig(tensor_model_parallel_size=4)  # more than there are query groups
    stages = ParallelConfig(pipeline_model_parallel_size=2)
    groups = [
        Group("tp2", (0, 1), two, tuple(run for (_, tied), run in runs.items() if not tied)),
        Group("tp2", (2, 3), two, tuple(run for (_, tied), run in runs.items() if tied)),
        Group("tp4", (0, 1, 2, 3), four, (runs["glm", False],)),
        Group("pp2", (0, 1), stages, (runs["glm", False], runs["qwen3", True])),
    ]
    torch.multiprocessing.spawn(base_world.main, args=(folder, groups), nprocs=4)


@pytest.mark.parametrize(("family", "tied"), CASES)
def test_logits_are_those_of_transformers(family, tied, bases, runs):
    logits = megatron_logits(runs[family, tied], ParallelConfig())
    assert (logits[..., :ROWS] - bases[family, tied]).abs().max() <= 1e-4
    assert (logits[..., ROWS:] == LOWEST).all()
    assert bases[family, tied].std() > 0.3  # and they say something


OTHER_LAYOUTS = [("glm", False, "tp4"), ("glm", False, "pp2"), ("qwen3", True, "pp2")]


@pytest.mark.parametrize(
    ("family", "tied", "layout"), [*((*case, "tp2") for case in CASES), *OTHER_LAYOUTS]
)
def test_logits_in_other_layouts_are_those_of_transformers(
    family, tied, layout, bases, runs, logits_of_ranks
):
    logits = torch.load(f"{runs[family, tied]}-{layout}.pt", weights_only=True)
    assert (logits[..., :ROWS] - bases[family, tied]).abs().max() <= 1e-4
    assert (logits[..., ROWS:] == LOWEST).all()


@pytest.mark.parametrize(("family", "tied"), CASES)
def test_there_and_back_is_bitwise(family, tied, folder, runs, tmp_path):
    base, run, back = folder / f"{family}-{tied}", runs[family, tied], tmp_path / "back"
    if tied:  # half of them in half precision
        base, run = tmp_path / "base", tmp_path / "run"
        write_base(base, family, tied, torch.float16 if family == "llama" else torch.bfloat16)
        import_base(ImportConfig(hf=base, save=run))
    export_checkpoint(run, back)
    before, after = load_file(base / "model.safetensors"), load_file(back / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype
        assert torch.equal(after[name], tensor), name
    assert AutoConfig.from_pretrained(back).to_diff_dict() == (
        AutoConfig.from_pretrained(base).to_diff_dict() | {"initializer_range": 0.02}
    )


def test_many_shards_in_and_out(folder, runs, tmp_path, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(folder / "glm-False")
    model.save_pretrained(tmp_path / "base", max_shard_size="60KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "base" / name).write_bytes((folder / "glm-False" / name).read_bytes())
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 3
    import_base(ImportConfig(hf=tmp_path / "base", save=tmp_path / "run"))
    monkeypatch.setattr("megatron_speech.model.hf.MAX_SHARD_BYTES", 60_000)
    export_checkpoint(tmp_path / "run", tmp_path / "back")
    assert len(list((tmp_path / "back").glob("*.safetensors"))) > 3
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back").state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(back[name], tensor), name


@pytest.mark.parametrize(
    ("family", "tied"), [("llama", False), ("glm", False), ("qwen2", True), ("qwen3", True)]
)
def test_extension_leaves_text_alone(family, tied, folder, bases, tmp_path):
    base, run = folder / f"{family}-{tied}", tmp_path / "run"
    imported = import_base(ImportConfig(hf=base, save=run, num_codes=CODES))
    export_checkpoint(run, tmp_path / "hf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    vocab = SpeechTextVocab.from_pretrained(tmp_path / "hf")
    text = vocab.text.size - len(imported.vocab.added)
    assert imported.vocab.added[-CODES:] == tuple(f"<|audio_{i}|>" for i in range(CODES))
    added = len(DEFAULT_SPECIALS) + CODES
    assert model.config.vocab_size == vocab.size == text + added  # no padded row
    tokens = TOKENS % text
    reference = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        expected, found = reference(tokens).logits, model(tokens).logits
    assert torch.allclose(found[..., :text], expected[..., :text], atol=1e-6)
    names = (
        ["model.embed_tokens.weight"] if tied else ["model.embed_tokens.weight", "lm_head.weight"]
    )
    for name in names:
        old, new = reference.state_dict()[name], model.state_dict()[name]
        assert torch.equal(new[:text], old[:text])
        assert new[text:].abs().sum(1).min() > 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer.convert_tokens_to_ids("<|audio_0|>") == vocab.code_offset
    assert tokenizer.encode("<|audio_63|>", add_special_tokens=False) == [vocab.size - 1]


def test_an_export_that_is_imported_again_keeps_its_codes(folder, runs, tmp_path):
    first = import_base(
        ImportConfig(hf=folder / "qwen3-True", save=tmp_path / "a", num_codes=CODES)
    )
    export_checkpoint(tmp_path / "a", tmp_path / "hf")
    facts = json.loads((tmp_path / "hf" / "speech_text_vocab.json").read_text())
    facts["speech_tokenizer"] = "codes-a"
    (tmp_path / "hf" / "speech_text_vocab.json").write_text(json.dumps(facts))
    again = import_base(ImportConfig(hf=tmp_path / "hf", save=tmp_path / "b"))
    added = CODES + len(DEFAULT_SPECIALS)
    assert (again.vocab.num_codes, again.added_rows, first.added_rows) == (CODES, 0, added)
    assert again.vocab.speech_tokenizer == "codes-a"
    assert again.vocab.fingerprint == first.vocab.fingerprint
    assert again.model == first.model


def new_rows(folder, tmp_path, name, **settings):
    config = ImportConfig(
        hf=folder / "llama-False", save=tmp_path / name, num_codes=2000, **settings
    )
    vocab = import_base(config).vocab
    export_checkpoint(tmp_path / name, tmp_path / f"{name}-hf")
    tensors = load_file(tmp_path / f"{name}-hf" / "model.safetensors")
    return [tensors[n][vocab.text.size :] for n in ("model.embed_tokens.weight", "lm_head.weight")]


def test_new_rows_have_mean_and_covariance_of_the_old(folder, bases, tmp_path):
    tensors = load_file(folder / "llama-False" / "model.safetensors")
    drawn = new_rows(folder, tmp_path, "a", new_rows=NewRowsConfig(new_rows_scale=1.0))
    for name, rows in zip(("model.embed_tokens.weight", "lm_head.weight"), drawn, strict=True):
        old = tensors[name][:257].double()
        wanted, found = torch.cov(old.T), torch.cov(rows.double().T)
        assert (rows.double().mean(0) - old.mean(0)).abs().max() < 4 * 0.15 / 2000**0.5
        # a covariance of 2,000 draws is off by about sqrt(width / draws)
        assert (found - wanted).norm() / wanted.norm() < 0.35
        independent = torch.diag(wanted.diagonal())
        assert (found - wanted).norm() < (found - independent).norm()
    assert not torch.equal(*drawn)


def test_new_rows_are_a_function_of_their_seed(folder, bases, tmp_path):
    first = new_rows(folder, tmp_path, "a")
    same = new_rows(folder, tmp_path, "b", tensor_model_parallel_size=2)
    other = new_rows(folder, tmp_path, "c", new_rows=NewRowsConfig(new_rows_seed=5))
    assert all(map(torch.equal, first, same))
    assert not any(map(torch.equal, first, other))


def test_new_rows_as_scaled_noise(folder, bases, tmp_path):
    noise = NewRowsConfig(new_rows="noise", new_rows_scale=0.1)
    old = load_file(folder / "llama-False" / "model.safetensors")["lm_head.weight"][:257]
    rows = new_rows(folder, tmp_path, "a", new_rows=noise)[1]
    ratio = rows.std(0) / (0.1 * old.std(0))
    assert ratio.min() > 0.9
    assert ratio.max() < 1.1
    mean = new_rows(folder, tmp_path, "b", new_rows=replace(noise, new_rows_scale=0.0))[1]
    assert torch.allclose(mean, old.mean(0).expand_as(mean), atol=1e-6)


def test_buffers_of_old_checkpoints_are_left_out(folder, bases, tmp_path):
    shutil.copytree(folder / "llama-True", tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(path).items()}
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(tensors, path)
    import_base(ImportConfig(hf=tmp_path / "base", save=tmp_path / "run"))


def test_llama_3_frequencies(tmp_path):
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    settings = {"rope_parameters": rope, "max_position_embeddings": 131072, "head_dim": 64}
    model = write_base(tmp_path / "base", "llama", True, **settings)
    import_base(ImportConfig(hf=tmp_path / "base", save=tmp_path / "run"))
    with torch.no_grad():
        expected = model(TOKENS).logits
    found = megatron_logits(tmp_path / "run", ParallelConfig())[..., :ROWS]
    assert (found - expected).abs().max() <= 1e-4
    export_checkpoint(tmp_path / "run", tmp_path / "back")
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert written["rope_parameters"] == rope
