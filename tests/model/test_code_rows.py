"""First rows of codes, of a new model and an imported one, lie among each other as the codes do."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from megatron_speech.errors import ConfigError, VocabularyError
from megatron_speech.model.base_model import ImportConfig, import_base
from megatron_speech.model.code_rows import CodePoints
from megatron_speech.model.gpt import BuildOptions, build_model
from megatron_speech.model.hf import export_checkpoint
from megatron_speech.recipes import base_model, lm
from megatron_speech.text.build_vocab import VocabConfig, build_vocab
from megatron_speech.training.megatron.parallel import session
from megatron_speech.training.parallel_config import ParallelConfig
from tests.model import code_rows_world
from tests.model.base_folders import write_base
from tools import pretrain

CODES = 200
GROUPS = 20


@pytest.fixture
def codes():
    """Ten codes around each of twenty places, wherever they are numbered."""
    generator = torch.Generator().manual_seed(1)
    places = 5 * torch.randn((GROUPS, 8), generator=generator) + 3
    points = places.repeat(CODES // GROUPS, 1)
    return CodePoints(points + 0.1 * torch.randn(points.shape, generator=generator), "aa11")


@pytest.fixture
def vocab(tmp_path):
    text = tmp_path / "text.jsonl"
    text.write_text('{"id": "a", "text": "A few words to learn from."}\n', encoding="utf-8")
    output, input = tmp_path / "vocab", (str(text),)
    return build_vocab(VocabConfig(output=output, train_bpe=300, num_codes=CODES, input=input))


def nearness(rows):
    """Mean cosine of rows of one group, and of different ones."""
    rows = torch.nn.functional.normalize(rows.double() - rows.double().mean(0), dim=1)
    cosines = rows @ rows.T
    same = torch.arange(CODES)[:, None] % GROUPS == torch.arange(CODES) % GROUPS
    apart = ~torch.eye(CODES, dtype=torch.bool)
    return cosines[same & apart].mean().item(), cosines[~same].mean().item()


def test_rows_of_near_codes_are_near_and_all_are_as_wide_as_noise(codes):
    noise = torch.randn((CODES, 64), generator=torch.Generator().manual_seed(2))
    plain = noise.clone()
    codes.arrange(noise, 0, seed=1)
    same, other = nearness(noise)
    assert same > 0.85
    assert abs(other) < 0.1
    assert abs(nearness(plain)[0]) < 0.05
    assert noise.std().item() == pytest.approx(1, abs=0.1)
    assert noise.unique(dim=0).shape == noise.shape


def test_rows_in_parts_are_the_rows_of_the_whole_and_others_stay(codes):
    noise = torch.randn((CODES + 7, 16), generator=torch.Generator().manual_seed(2))
    whole, parts, before = noise.clone(), noise.clone(), noise.clone()
    codes.arrange(whole, -7, seed=1)
    for start in range(0, len(noise), 5):
        codes.arrange(parts[start : start + 5], start - 7, seed=1)
    torch.testing.assert_close(whole, parts)
    assert torch.equal(whole[:7], before[:7])
    assert not torch.isclose(whole[7:], before[7:]).all(1).any()


def test_codes_that_all_lie_in_one_place_are_drawn_apart():
    noise = torch.randn((4, 16))
    CodePoints(torch.ones(4, 3), "aa11").arrange(noise, 0, seed=1)
    assert noise.isfinite().all()
    assert noise.unique(dim=0).shape == noise.shape


@pytest.fixture
def ranks(codes, vocab, tmp_path):
    arguments = (tmp_path, vocab, codes)
    torch.multiprocessing.spawn(code_rows_world.main, args=arguments, nprocs=4)
    return tmp_path


def test_every_layout_starts_with_the_same_rows(ranks, codes, vocab):
    for tied in (False, True):
        alone = code_rows_world.tables(ParallelConfig(), tied, vocab, codes)
        parts = {}
        for rank in range(4):
            parts |= torch.load(ranks / f"{tied}-{rank}.pt")
        own = slice(vocab.code_offset, vocab.code_offset + CODES)
        for name in ("embedding", "output"):
            rows = torch.cat([parts[f"{name}-0"], parts[f"{name}-1"]])[own]
            assert torch.equal(rows, alone[f"{name}-0"][own])
            assert nearness(rows)[0] > 0.7
            assert rows.std().item() == pytest.approx(0.5, rel=0.15)
        both = [alone["embedding-0"][own], alone["output-0"][own]]
        assert torch.equal(*both) == tied


@pytest.mark.parametrize("tied", [False, True])
def test_an_import_sets_them_and_leaves_all_else_as_it_is(tied, codes, tmp_path):
    base = tmp_path / "base"
    write_base(base, "llama", tied, vocab_size=257)
    done = import_base(ImportConfig(hf=base, save=tmp_path / "run"), codes)
    config = ImportConfig(hf=base, save=tmp_path / "plain", num_codes=CODES)
    assert done.text_loss.after == pytest.approx(import_base(config).text_loss.after, abs=0.02)
    assert done.vocab.speech_tokenizer == "aa11"
    for name in ("run", "plain"):
        export_checkpoint(tmp_path / name, tmp_path / f"{name}-hf")
    told = "codes near each other as in speech tokenizer aa11"
    assert told in (tmp_path / "run-hf/README.md").read_text()
    assert told not in (tmp_path / "plain-hf/README.md").read_text()
    found, plain = (load_file(tmp_path / f"{n}-hf/model.safetensors") for n in ("run", "plain"))
    first = done.vocab.code_offset
    for name in ("model.embed_tokens.weight", *([] if tied else ["lm_head.weight"])):
        assert nearness(found[name][first : first + CODES])[0] > 0.7
        assert abs(nearness(plain[name][first : first + CODES])[0]) < 0.2
        assert torch.equal(found[name][:257], plain[name][:257])


def test_an_import_refuses_codes_that_it_cannot_place(codes, tmp_path):
    base = tmp_path / "base"
    write_base(base, "llama", True, vocab_size=257)
    with pytest.raises(ConfigError, match="either --num-codes or --speech-tokenizer"):
        import_base(ImportConfig(hf=base, save=tmp_path / "run", num_codes=CODES), codes)
    import_base(ImportConfig(hf=base, save=tmp_path / "run"), codes)
    export_checkpoint(tmp_path / "run", tmp_path / "hf")
    with pytest.raises(ConfigError, match="has rows for speech codes already"):
        import_base(ImportConfig(hf=tmp_path / "hf", save=tmp_path / "again"), codes)
    assert not (tmp_path / "again").exists()


def test_training_refuses_another_tokenizer_and_a_base(codes, tmp_path):
    with pytest.raises(VocabularyError, match="has 200 codes, the vocabulary 64"):
        codes.require_fit(64, None)
    with pytest.raises(VocabularyError, match="is aa11, but the codes are of bb22"):
        codes.require_fit(CODES, "bb22")
    codes.require_fit(CODES, None)
    flags = f"--pretrained-checkpoint {tmp_path} --speech-tokenizer {tmp_path} --save {tmp_path}"
    with pytest.raises(ConfigError, match="starts from random weights"):
        pretrain.main(["lm-debug", *flags.split()])


def test_a_new_run_takes_them_and_one_that_goes_on_does_not(codes, vocab, tmp_path, monkeypatch):
    monkeypatch.setattr(base_model, "code_points", lambda folder: codes)
    base = base_model.BaseConfig(speech_tokenizer=tmp_path)
    config = replace(lm.lm_debug(), base=base)
    config = replace(config, loop=replace(config.loop, save=tmp_path / "run"))
    with session(ParallelConfig()):
        options = BuildOptions(padded_vocab_size=code_rows_world.PADDED)
        chunks = build_model(code_rows_world.shape(True), ParallelConfig(), options)
        table = chunks[0].embedding.word_embeddings.weight
        own, before = slice(vocab.code_offset, vocab.code_offset + CODES), table.detach().clone()
        with pytest.raises(VocabularyError, match="codes are of bb22"):
            lm._start_codes(config, chunks, vocab, "bb22")
        monkeypatch.setattr(base_model, "latest_iteration", lambda run: 3)
        lm._start_codes(config, chunks, vocab, None)
        assert torch.equal(table, before)
        monkeypatch.undo()
        monkeypatch.setattr(base_model, "code_points", lambda folder: codes)
        lm._start_codes(config, chunks, vocab, None)
        assert nearness(table[own].detach())[0] > 0.7
        assert torch.equal(table[: own.start], before[: own.start])
        assert torch.equal(table[own.stop :], before[own.stop :])
