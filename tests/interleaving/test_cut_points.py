import math
import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megatron_speech.interleaving.cut_points import choose_spans, cut_text
from megatron_speech.interleaving.spans import SpanConfig
from megatron_speech.interleaving.units import UNITS
from megatron_speech.interleaving.weave import SpanBatch, weave
from megatron_speech.jobs.randomness import document_keys
from megatron_speech.text.sentences import split_sentences
from megatron_speech.text.vocab import SpeechTextVocab
from megatron_speech.text.words import word_bounds
from tests.interleaving.samples import NUM_CODES, make_vocab, story
from tests.text.test_vocab import train_sentencepiece

TEXTS = st.text(max_size=80) | st.lists(
    st.sampled_from(
        [
            "the",
            "cat",
            "Mira.",
            "\U0001f600",
            "你好世界。",
            "\r\n",
            "\n\n",
            " ",
            "e\u0301",
            "123456",
            "a-b",
            "שלום",
            "\u200b",
        ]
    ),
    max_size=25,
).map(" ".join)


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    return make_vocab(tmp_path_factory.mktemp("vocab"))


@pytest.fixture(scope="module", params=["byte-level", "sentencepiece"])
def vocab(request, byte_level, tmp_path_factory):
    if request.param == "byte-level":
        return byte_level
    folder = tmp_path_factory.mktemp("sentencepiece")
    model = train_sentencepiece(folder, "bpe", "nmt_nfkc")
    SpeechTextVocab.extend(model, NUM_CODES).save_pretrained(folder / "vocab")
    return SpeechTextVocab.from_pretrained(folder / "vocab")


def interleave(vocab, texts, config, seed=0):
    """Documents as the jobs make them, each span's codes being its number in the batch."""
    texts = [text.encode("utf-8", "ignore").decode() for text in texts]
    cuts = [cut_text(vocab, text, config.unit, skip_unspeakable=True) for text in texts]
    keys = document_keys(seed, [str(n) for n in range(len(texts))])
    spans = choose_spans(cuts, keys, config)
    pick = list(zip(spans.document, spans.start, spans.stop, strict=True))
    batch = SpanBatch(
        document=spans.document,
        token_start=np.array([cuts[d].unit_tokens[a, 0] for d, a, _ in pick], dtype=np.int64),
        token_stop=np.array([cuts[d].unit_tokens[b - 1, 1] for d, _, b in pick], dtype=np.int64),
        codes=np.arange(len(pick)) % NUM_CODES,
        code_lengths=np.ones(len(pick), np.int64),
    )
    tokens = np.concatenate([np.zeros(0, np.int32), *(cut.tokens for cut in cuts)])
    lengths = np.array([len(cut.tokens) for cut in cuts])
    return texts, cuts, spans, batch, weave(vocab, tokens, lengths, batch)


def phrases(vocab, text, language="en"):
    cut = cut_text(vocab, text, "phrase", language)
    stops = np.cumsum(cut.groups)
    pairs = zip(stops - cut.groups, stops, strict=True)
    return [text[cut.unit_characters[a, 0] : cut.unit_characters[b - 1, 1]] for a, b in pairs]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "The cat sat,|the dog ran;|and so:|it was 10:30.|Was it?|Over 3,000 people left"),
        ("en", '\u201cCome,\u201d|said Mira (softly,)|[not loud;]|"and wait:"|he left.'),
        ("en", "A title\n\n|one line\nand the next,|then"),
        ("de", "„Komm,“|sagte sie,|»warte;«|er ging."),
        ("zh", "「你好，」|他说：|我们，|走！|好"),
        ("ar", "قال،|نعم؛|ثم ذهب.|عاد"),
    ],
)
def test_phrases_end_at_commas_semicolons_colons_and_sentences(byte_level, language, text):
    told = phrases(byte_level, text.replace("|", " "), language)
    assert told == [part.strip() for part in text.split("|")]


def test_spans_of_phrases_are_whole_ones(byte_level):
    text = "the cat sat, the dog ran off, and that was it."
    spans = choose_spans(
        [cut_text(byte_level, text, "phrase")],
        document_keys(0, ["a"]),
        SpanConfig(unit="phrase", eta=0.4),
    )
    assert len(spans.start) > 0
    assert {*spans.start.tolist(), *spans.stop.tolist()} <= {0, 3, 7, 11}


@settings(max_examples=80, deadline=None)
@given(
    st.lists(TEXTS, min_size=1, max_size=4),
    st.sampled_from(sorted(UNITS)),
    st.sampled_from([0.3, 0.7, 1.0]),
)
@example([""], "word", 0.3)
@example(["one"], "word", 0.3)
@example(["one\r\ntwo\r\n\r\nthree four"], "word", 1.0)
@example(["one\r\ntwo\r\n\r\nthree four"], "line", 0.5)
@example(["\U0001f600\U0001f601 你好 \n"], "word", 0.5)
@example(["\U0001f600\U0001f601 你好 \n"], "token", 1.0)
@example(["שלום עולם e\u0301e\u0301 \u200b 123456 789"], "token", 0.7)
@example(["see x = y \\frac and http://a.b/c then go home now"], "word", 1.0)
def test_text_tokens_are_those_of_the_uncut_document(vocab, texts, unit, eta):
    config = SpanConfig(unit=unit, eta=eta, mean_span_words=3)
    texts, cuts, _, batch, woven = interleave(vocab, texts, config)
    documents = np.split(woven.tokens, np.cumsum(woven.lengths)[:-1])
    for number, (text, cut, document) in enumerate(zip(texts, cuts, documents, strict=True)):
        whole = vocab.text.encode(text)
        assert cut.tokens.tolist() == whole
        rebuilt, position = [], 0
        mine = batch.document == number
        for start, stop in zip(batch.token_start[mine], batch.token_stop[mine], strict=True):
            rebuilt += [*whole[position:start], "speech"]
            position = stop
        rebuilt += [*whole[position:], vocab.eod_id]
        delimiters = (vocab.begin_of_audio_id, vocab.end_of_audio_id)
        found = [
            "speech" if vocab.is_speech(np.array(t)) else int(t)
            for t in document
            if t not in delimiters
        ]
        assert found == rebuilt


@settings(max_examples=80, deadline=None)
@given(TEXTS)
def test_a_unit_is_whole_words_and_its_tokens_hold_nothing_else(vocab, text):
    text = text.encode("utf-8", "ignore").decode()
    cut = cut_text(vocab, text)
    starts = {int(start) for start, _ in word_bounds(text)}
    stops = {int(stop) for _, stop in word_bounds(text)}
    assert all(int(a) in starts and int(b) in stops for a, b in cut.unit_characters)
    assert (cut.unit_tokens[:, 0] < cut.unit_tokens[:, 1]).all()
    assert (cut.unit_tokens[1:, 0] >= cut.unit_tokens[:-1, 1]).all()


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_byte_level_units_decode_to_their_characters(byte_level, text):
    text = text.encode("utf-8", "ignore").decode()
    cut = cut_text(byte_level, text)
    for (first, last), (start, stop) in zip(cut.unit_tokens, cut.unit_characters, strict=True):
        decoded = byte_level.text.decode(cut.tokens[first:last].tolist())
        assert decoded.strip() == text[start:stop].strip()


def test_plain_words_are_units_of_their_own(vocab):
    text = "The cat saw Mira.\nThen  she ran."
    cut = cut_text(vocab, text)
    assert [text[a:b] for a, b in cut.unit_characters] == text.split()


def test_chinese_characters_are_words(byte_level):
    text = "他说「你好」。 ok"
    assert [text[a:b] for a, b in word_bounds(text)] == ["他", "说", "「你", "好」。", "ok"]


@settings(max_examples=80, deadline=None)
@given(TEXTS, st.sampled_from([0.3, 0.7, 1.0]))
@example("a http://x.y/z b c = d e f_g h i j", 1.0)
def test_exactly_eta_of_the_speakable_units_is_spoken_and_nothing_else(byte_level, text, eta):
    for unit in ("word", "token"):
        config = SpanConfig(unit=unit, eta=eta, mean_span_words=3)
        _, cuts, spans, _, _ = interleave(byte_level, [text], config)
        speakable = cuts[0].speakable
        spoken = np.zeros(len(speakable), int)
        for start, stop in zip(spans.start, spans.stop, strict=True):
            spoken[start:stop] += 1
        assert spoken.max(initial=0) <= 1
        assert not spoken[~speakable].any()
        assert spoken.sum() == math.ceil(eta * speakable.sum() - 1e-9)


def test_a_megabyte_in_one_line(byte_level):
    text = "the cat saw Mira " * 60_000
    _, cuts, spans, batch, woven = interleave(byte_level, [text], SpanConfig())
    covered = (spans.stop - spans.start).sum()
    assert covered == math.ceil(0.3 * len(cuts[0].unit_tokens) - 1e-9)
    text_tokens = len(cuts[0].tokens) - (batch.token_stop - batch.token_start).sum()
    assert len(woven.tokens) == text_tokens + 3 * len(spans.start) + 1


def test_lines_are_units_of_their_own(byte_level):
    text = "one two\nthree. Four\r\nfive"
    cut = cut_text(byte_level, text, "line")
    assert cut.groups.tolist() == [2, 2, 1]


def test_tokens_are_units_that_cut_words(byte_level):
    text = "unbelievable stories 12345"
    cut = cut_text(byte_level, text, "token")
    pieces = [text[a:b] for a, b in cut.unit_characters]
    assert "".join(pieces) == text.replace(" ", "")
    assert len(text.split()) < len(pieces) <= len(cut.tokens)


def test_weaving_equals_a_plain_loop(byte_level):
    rng = random.Random(0)
    texts = [story(rng) for _ in range(30)] + ["", "one"]
    for unit in ("word", "sentence"):
        config = SpanConfig(unit=unit, eta=0.5, mean_span_words=4)
        _, cuts, _, batch, woven = interleave(byte_level, texts, config)
        expected, speech_starts = [], []
        for number, cut in enumerate(cuts):
            document, position, opened = [], 0, False
            mine = np.flatnonzero(batch.document == number)
            for span in mine:
                start, stop = batch.token_start[span], batch.token_stop[span]
                if start > position or not opened:
                    document += [byte_level.end_of_audio_id] * opened
                    document += cut.tokens[position:start].tolist()
                    document.append(byte_level.begin_of_audio_id)
                speech_starts.append(len(document))
                document.append(byte_level.code_offset + span % NUM_CODES)
                position, opened = stop, True
            document += [byte_level.end_of_audio_id] * opened
            expected.append(document + cut.tokens[position:].tolist() + [byte_level.eod_id])
        assert woven.tokens.tolist() == [t for document in expected for t in document]
        assert woven.lengths.tolist() == [len(document) for document in expected]
        assert woven.speech_start.tolist() == speech_starts


def test_long_texts_are_split_at_sentences_and_nothing_is_lost():
    rng = random.Random(2)
    text = " ".join(story(rng) for _ in range(10))
    parts = split_sentences(text, 80)
    assert " ".join(parts) == text
    assert max(map(len, parts)) <= 80
    assert all(part.endswith(".") for part in parts)
    assert split_sentences(text, 10**6) == [text]
    assert split_sentences("x" * 500, 80) == ["x" * 500]
    assert split_sentences("你好世界。" * 30, 80) == ["你好世界。" * 16, "你好世界。" * 14]
