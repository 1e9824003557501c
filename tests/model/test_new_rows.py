"""New rows of a base: its text says what it said, and the import tells by how much it does not."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from megatron_speech.errors import ConfigError
from megatron_speech.model.base_model import ImportConfig, import_base
from megatron_speech.model.hf import export_checkpoint
from megatron_speech.model.new_rows import NewRowsConfig, RowDraw
from megatron_speech.model.text_check import CHECK_TEXT, TextCheck
from megatron_speech.text.vocab import SpeechTextVocab
from tests.model.base_folders import FAMILIES, write_base
from tools import convert_checkpoint

CASES = [(family, tied) for family in FAMILIES for tied in (False, True)]
TOKENS, CODES = 257, 600
"""Many more than the base has rows: what they take of the softmax is seen."""


def write_sure_base(folder, family, tied, sureness=4.0):
    """A base whose logits differ as much as those of a trained one, all rows with a token."""
    model = write_base(folder, family, tied, vocab_size=TOKENS)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] *= sureness
    save_file(tensors, path, {"format": "pt"})
    return type(model).from_pretrained(folder)


def extend(base, folder, **settings):
    """The import, and its export opened by transformers."""
    done = import_base(ImportConfig(hf=base, save=folder / "run", num_codes=CODES, **settings))
    export_checkpoint(folder / "run", folder / "hf")
    return done, AutoModelForCausalLM.from_pretrained(folder / "hf")


@torch.no_grad()
def loss_of(model, ids):
    """Windows of 128, the most that these models have positions for."""
    windows = ids.split(128)
    sums = [cross_entropy(model(w[None]).logits[0, :-1], w[1:], reduction="sum") for w in windows]
    return (sum(sums) / (len(ids) - len(windows))).item()


def continued(model, prompt):
    return model.generate(prompt[None], max_new_tokens=24, do_sample=False, eos_token_id=TOKENS - 1)


@pytest.mark.parametrize(("family", "tied"), CASES)
def test_an_untrained_export_says_what_its_base_says(family, tied, tmp_path):
    base = write_sure_base(tmp_path / "base", family, tied)
    done, exported = extend(tmp_path / "base", tmp_path)
    ids = torch.tensor(done.vocab.text.encode(CHECK_TEXT))[: 8 * 128]
    before, after = loss_of(base, ids), loss_of(exported, ids)
    assert done.text_loss.tokens == len(ids) - len(ids.split(128))
    assert done.text_loss.before == pytest.approx(before, abs=1e-4)
    assert done.text_loss.after == pytest.approx(after, abs=1e-4)
    _, spoiled = extend(
        tmp_path / "base", tmp_path / "one", new_rows=NewRowsConfig(new_rows_scale=1.0)
    )
    assert after - before < 0.01 < 1.0 < loss_of(spoiled, ids) - before
    prompts = ids[: 8 * 16].view(8, 16)
    texts = [continued(base, prompt) for prompt in prompts]
    told = [torch.equal(continued(exported, p), t) for p, t in zip(prompts, texts, strict=True)]
    lost = [torch.equal(continued(spoiled, p), t) for p, t in zip(prompts, texts, strict=True)]
    assert all(told)
    assert not any(lost)


WIDTH = 64
OLD = 0.5 * torch.randn((300, WIDTH), generator=torch.Generator().manual_seed(1)) + 0.1


def hidden_states(count, seed):
    """Of a common direction, some that vary much, and a little of all."""
    widths = torch.full((WIDTH,), 0.3)
    widths[1:6] = 2.5
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn((count, WIDTH), generator=generator) * widths
    hidden[:, 0] += 4.0
    return hidden


def text_of(hidden):
    """A check, and the log sums of a base that is sure of what it says."""
    log_sums = (hidden @ OLD.T).logsumexp(1) + 4.0
    return TextCheck(hidden, log_sums - 1.0), log_sums


def rise(rows, hidden):
    check, log_sums = text_of(hidden)
    return (check.loss(log_sums.logaddexp((hidden @ rows.T).logsumexp(1))) - 1.0).item()


@pytest.mark.parametrize("kind", ["covariance", "noise"])
def test_fitted_rows_are_as_wide_as_the_old_and_no_text_likes_them(kind):
    """Neither the text they were fitted to nor another of the same base."""

    def drawn(fitted, scale=None):
        config = NewRowsConfig(new_rows=kind, new_rows_scale=scale)
        draw = RowDraw(config, OLD.__getitem__, len(OLD), 4000, 0)
        if fitted:
            draw.fit(*text_of(hidden_states(500, 0)))
        return draw, draw.rows()

    read, unread = hidden_states(500, 0), hidden_states(500, 1)
    draw, rows = drawn(True)
    assert draw.directions == 8
    assert rise(rows, read) <= 1.1e-4
    assert rise(rows, unread) < 1e-3
    for scale in (1.0, 0.5):
        assert rise(drawn(False, scale)[1], unread) > 1e-3
    assert rows.std(0)[6:].mean() > 0.9 * OLD.std(0)[6:].mean()
    assert (rows.std(0)[:6] < 0.2 * OLD.std(0)[:6]).all()
    # nothing was moved that needs not be, and what was moved is not far from the old rows
    assert 0 < draw.shift < 6
    moved = rows.mean(0) - OLD.mean(0)
    assert moved[0] < -0.4
    assert moved[0].abs() < 3 * OLD.std()
    assert moved[1:].abs().max() < 0.4


def test_the_least_that_suffices_is_taken():
    """A base that bears the plain rows' mean as it is has none of them lowered."""
    hidden = hidden_states(500, 0)
    check, log_sums = text_of(hidden)
    draw = RowDraw(NewRowsConfig(), OLD.__getitem__, len(OLD), 4000, 0)
    draw.fit(TextCheck(hidden, check.of_target + 20), log_sums + 20)
    assert (draw.directions, draw.shift) == (8, 0.0)
    hopeless = RowDraw(NewRowsConfig(), OLD.__getitem__, len(OLD), 4000, 0)
    hopeless.fit(TextCheck(hidden, check.of_target - 20), log_sums - 20)
    assert (hopeless.directions, hopeless.shift) == (WIDTH // 2, 6.0)
    assert hopeless.rows().unique(dim=0).shape == (4000, WIDTH)


def test_an_embedding_of_its_own_is_drawn_at_full_scale(tmp_path):
    """No text has its new rows."""
    write_sure_base(tmp_path / "base", "llama", False)
    extend(tmp_path / "base", tmp_path)
    one = NewRowsConfig(new_rows_scale=1.0)
    extend(tmp_path / "base", tmp_path / "one", new_rows=one)
    found, full = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "one/hf"))
    name = "model.embed_tokens.weight"
    assert torch.equal(found[name], full[name])
    assert not torch.equal(found["lm_head.weight"], full["lm_head.weight"])


def test_the_text_may_be_given(tmp_path):
    base = write_sure_base(tmp_path / "base", "qwen2", True)
    (tmp_path / "text").write_text("Ein Satz auf Deutsch. Noch einer. " * 300, encoding="utf-8")
    done, exported = extend(tmp_path / "base", tmp_path, check_text=tmp_path / "text")
    ids = done.vocab.text.encode((tmp_path / "text").read_text())[: 8 * 128]
    assert done.text_loss.before == pytest.approx(loss_of(base, torch.tensor(ids)), abs=1e-4)
    assert done.text_loss.after == pytest.approx(loss_of(exported, torch.tensor(ids)), abs=1e-4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b" \n", "is empty"),
        (b"a", "has 1 tokens"),
    ],
)
def test_texts_that_tell_nothing(content, message, tmp_path):
    write_base(tmp_path / "base", "llama", True)
    if content is not None:
        (tmp_path / "text").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        extend(tmp_path / "base", tmp_path, check_text=tmp_path / "text")
    assert not (tmp_path / "run").exists()


def test_the_tool_and_the_card_tell_scale_and_loss(tmp_path, capsys):
    write_sure_base(tmp_path / "base", "glm", False)
    flags = f"--hf {tmp_path / 'base'} --save {tmp_path / 'run'} --num-codes {CODES}"
    loss = convert_checkpoint.main(["hf-to-megatron", *flags.split()]).text_loss
    told = capsys.readouterr().out
    assert f"{loss.before:.4f} before, {loss.after:.4f} with the new rows (scale 1, " in told
    how = f"without {loss.directions} directions, lowered by {loss.shift:g} nats"
    assert f"{how})" in told
    export_checkpoint(tmp_path / "run", tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text()
    assert f"(covariance, scale 1, {how}, seed 1234)" in card
    assert f"{loss.before:.4f} before and {loss.after:.4f} after" in card


def test_nothing_is_measured_where_nothing_is_added(tmp_path):
    write_base(tmp_path / "base", "llama", True)
    config = ImportConfig(
        hf=tmp_path / "base", save=tmp_path / "run", check_text=tmp_path / "no such file"
    )
    assert import_base(config).text_loss is None


def test_chat_template_and_marks_of_the_base_stay(tmp_path):
    write_sure_base(tmp_path / "base", "llama", True)
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    (tmp_path / "base" / "chat_template.jinja").write_text(template)
    GenerationConfig(bos_token_id=7, eos_token_id=[3, 0], pad_token_id=5).save_pretrained(
        tmp_path / "base"
    )
    done, exported = extend(tmp_path / "base", tmp_path)
    before, after = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("base", "hf"))
    chat = [{"role": "user", "content": "What is left?"}]
    assert after.apply_chat_template(chat) == before.apply_chat_template(chat)
    assert after.special_tokens_map == before.special_tokens_map
    ids = exported.generation_config
    assert (ids.bos_token_id, ids.eos_token_id, ids.pad_token_id) == (7, [3, 0], 5)
    assert SpeechTextVocab.from_pretrained(tmp_path / "hf").eod_id == done.vocab.eod_id
