"""Budgets to weights: the paper's table, what is refused, and what the trainer draws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_speech.data.config import DataConfig
from megatron_speech.data.indexed import IndexedWriter
from megatron_speech.data.mixture import (
    Holding,
    Rule,
    format_count,
    parse_count,
    parse_groups,
    plan_mixture,
)
from megatron_speech.errors import ConfigError, DataError
from tests.data.language_data import make_vocab
from tools import plan_mixture as tool

SEQ_LENGTH = 8192
# paper, section 6: what each part holds
PAPER = {
    "text": "text:10Ttext",
    "speech": "speech:31Bspeech",
    "pairs": "pairs:11Bspeech+3.5Btext",
    "interleaved": "interleaved:455Bspeech+279Btext",
}


def paper_mixture(budget: str | None, **rules: str):
    notation = [value for part, rule in rules.items() for value in (rule, PAPER[part])]
    groups = parse_groups(notation, SEQ_LENGTH)
    mixture = plan_mixture(groups, budget and parse_count(budget), SEQ_LENGTH)
    return mixture, {draw.holding.name: draw for draw in mixture.draws}


def test_the_papers_text_one_epoch_each():
    """1T tokens, 30% text, one epoch of speech and of ASR + TTS, the rest interleaved."""
    mixture, draws = paper_mixture(
        "1T", text="30%", speech="1epoch", pairs="1epoch", interleaved="rest"
    )
    assert mixture.tokens == pytest.approx(1e12)
    assert draws["text"].tokens == pytest.approx(300e9)
    assert draws["text"].epochs == pytest.approx(0.03)
    assert draws["speech"].tokens == pytest.approx(31e9)
    assert draws["pairs"].tokens == pytest.approx(14.5e9)
    assert draws["interleaved"].tokens == pytest.approx(654.5e9)
    assert draws["interleaved"].epochs == pytest.approx(0.89, abs=0.005)
    assert mixture.samples * SEQ_LENGTH == pytest.approx(1e12, rel=1e-6)


def test_the_papers_table_epochs_as_printed():
    """0.90, 2.10, 2.07 and 0.03 epochs are 1,056B tokens: more than the budget of the text."""
    rules = {
        "interleaved": "0.90epochs",
        "speech": "2.10epochs",
        "pairs": "2.07epochs",
        "text": "0.03epochs",
    }
    mixture, draws = paper_mixture(None, **rules)
    assert draws["interleaved"].tokens == pytest.approx(660.6e9)
    assert draws["speech"].tokens == pytest.approx(65.1e9)
    assert draws["pairs"].tokens == pytest.approx(30.0e9, rel=1e-3)
    assert draws["text"].tokens == pytest.approx(300e9)
    assert mixture.tokens == pytest.approx(1056e9, rel=1e-3)
    with pytest.raises(ConfigError, match=r"55\.7B tokens more than the budget of 1T.*1\.06T"):
        paper_mixture("1T", **rules)
    # read as epochs of the small parts only, less is left to interleave than the table says
    _, draws = paper_mixture("1T", **{**rules, "text": "30%", "interleaved": "rest"})
    assert draws["interleaved"].epochs == pytest.approx(0.824, abs=0.001)


@pytest.mark.parametrize(
    ("budget", "notation", "message"),
    [
        ("1T", ["30%", "a:1Ttext"], "leave 700B of the budget of 1T unused"),
        ("1B", ["1epoch", "a:1Btext", "rest", "b:1Btext"], "nothing is left for 'rest'"),
        ("1T", ["60%", "a:1Ttext", "50%", "b:1Ttext"], "add up to 110%"),
        ("1T", ["100%", "a:1Btext"], "asks for 1e.03 epochs, more than --most-epochs 4"),
        (None, ["30%", "a:1Ttext"], "'30%' needs a budget; give --tokens"),
        (None, ["rest", "a:1Ttext"], "'rest' needs a budget"),
        ("1T", ["rest", "a:1Ttext,a:2Ttext"], "a is named twice"),
        ("1T", ["rest", "a:0text"], "a holds no tokens"),
        ("0", ["rest", "a:1Btext"], "the budget is 0 tokens"),
        ("1T", ["much", "a:1Btext"], "'much' is no rule; expected a share"),
        ("1T", ["0epochs", "a:1Btext"], "is no rule"),
        ("1T", ["rest"], "expected rule and dataset in turn"),
        ("1T", ["rest", "a:1Bvideo"], "does not say what a holds"),
        ("1T", ["rest", "a:manytext"], "'many' is no count"),
        ("1T", ["rest", ","], "no datasets"),
    ],
)
def test_what_cannot_be_is_refused_in_words(budget, notation, message):
    flags = ["--seq-length", "8192", *(["--tokens", budget] if budget else [])]
    with pytest.raises(ConfigError, match=message):
        tool.main([*flags, "--data-path", *notation])


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--seq-length", "0", "--seq-length is 0"),
        ("--global-batch-size", "-3", "--global-batch-size is -3"),
        ("--chart", "mixture.foo", "must end in .png"),
    ],
)
def test_numbers_that_cannot_be(flag, value, message):
    flags = ["--seq-length", "64", "--data-path", "1epoch", "a:1Mtext", flag, value]
    with pytest.raises(ConfigError, match=message):
        tool.main(flags)


@given(
    held=st.lists(st.integers(10**6, 10**12), min_size=2, max_size=6),
    share=st.floats(1, 90),
    epochs=st.floats(0.01, 1),
)
@settings(max_examples=60, deadline=None)
def test_tokens_and_weights_add_up(held, share, epochs):
    holdings = [Holding(name=str(n), text_tokens=t, speech_tokens=0) for n, t in enumerate(held)]
    groups = [
        (Rule("share", share), holdings[:1]),
        (Rule("epochs", epochs), holdings[1:2]),
        (Rule("rest"), holdings[2:] or [Holding(name="r", text_tokens=10**9, speech_tokens=7)]),
    ]
    budget = round(100 * (epochs * held[1] + 10**9) / (100 - share)) + 1
    mixture = plan_mixture(groups, budget, 256, most_epochs=float("inf"))
    assert sum(draw.weight for draw in mixture.draws) == pytest.approx(1)
    assert sum(draw.samples for draw in mixture.draws) == mixture.samples
    assert mixture.tokens == pytest.approx(budget)
    assert mixture.tokens_of("text") + mixture.tokens_of("speech") == pytest.approx(budget)
    assert len({draw.epochs for draw in mixture.draws if draw.rule.kind == "rest"}) == 1
    for draw in mixture.draws:
        assert draw.samples >= draw.epochs * draw.holding.tokens / 256 - 1e-3


def test_counts_are_read_and_written():
    assert [parse_count(t) for t in ("8192", "3.5B", "1t", ".5M")] == [
        8192,
        35 * 10**8,
        10**12,
        500000,
    ]
    assert [format_count(n) for n in (455e9, 31.5e9, 999.9e9, 12, 1.056e12)] == [
        "455B", "31.5B", "1T", "12", "1.06T",
    ]  # fmt: skip


def test_the_trainer_draws_what_was_planned(tmp_path, capsys):
    from megatron_speech.data.dataset import build_datasets

    rng, vocab = np.random.default_rng(0), make_vocab(tmp_path)
    for name, documents, kind in (("cut", 60, "text"), ("whole", 90, "tts")):
        with IndexedWriter(tmp_path / name, vocab) as writer:
            writer.add_documents([rng.integers(1, 50, 30) for _ in range(documents)])
        writer.write_facts(kind, None)
    blend, chart = tmp_path / "blend.txt", tmp_path / "chart.png"
    flags = ["--seq-length", "64", "--output", str(blend), "--chart", str(chart)]
    flags += ["--global-batch-size", "4", "--data-path", "2epochs", str(tmp_path / "cut")]
    mixture = tool.main([*flags, "1epoch", str(tmp_path / "whole")])
    cut, whole = mixture.draws
    assert cut.samples == -(-2 * 60 * 30 // 64)
    assert whole.samples == 45, "two documents of 29 places fill a window of 64"
    printed = capsys.readouterr().out
    assert f"--train-iters {-(-mixture.samples // 4)} --global-batch-size 4" in printed
    assert chart.read_bytes().startswith(b"\x89PNG")
    config = DataConfig(data_args_path=blend, data_cache_path=tmp_path / "cache", seq_length=64)
    train = build_datasets(config, vocab, (mixture.samples, 0), seed=0).train
    drawn = np.bincount([int(train[n]["dataset_id"]) for n in range(mixture.samples)], minlength=2)
    assert np.abs(drawn - [cut.samples, whole.samples]).max() <= 1


def test_blend_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "blend.txt"
    with pytest.raises(ConfigError, match=r"--data-args-path .*blend.txt cannot be read"):
        DataConfig(data_args_path=path).resolve()
    path.write_text("")
    with pytest.raises(ConfigError, match=r"blend.txt names no dataset"):
        DataConfig(data_args_path=path).resolve()
    path.write_text("0.3 a 0.7")
    with pytest.raises(ConfigError, match=r"blend.txt has 3 values"):
        DataConfig(data_args_path=path).resolve()
    with pytest.raises(ConfigError, match="all say what to train on"):
        DataConfig(data_args_path=path, data_path=("a",)).resolve()
    with pytest.raises(DataError, match="does not exist"):
        parse_groups(["1epoch", str(tmp_path / "none")], 8)
