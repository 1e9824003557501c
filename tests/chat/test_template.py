"""Turns in tokens, on a vocabulary of bytes."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from megatron_speech.chat.rhythm import Rhythm, TokenKind
from megatron_speech.chat.template import (
    MODES,
    ChatTemplate,
    TemplateConfig,
    stream_answer,
    text_outlasts_speech,
)
from megatron_speech.data.loss_rules import RuleTokens, loss_mask
from megatron_speech.errors import ConfigError, DataError, VocabularyError
from megatron_speech.text.vocab import ASSISTANT, SYSTEM, USER, SpeechTextVocab
from tests.data.language_data import make_vocab
from tests.text.released_tokenizer import NAMED, lines, train_ranks, write_tokenizer

SMALL = TemplateConfig(text_block=3, speech_block=5)


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    return make_vocab(tmp_path_factory.mktemp("template"))


def spelled(vocab, tokens):
    """Tokens as text, each code as its letter, marks in short."""
    marks = {vocab.begin_of_audio_id: "(", vocab.end_of_audio_id: ")", vocab.eod_id: "."}
    marks |= {vocab.specials[SYSTEM]: "S:", vocab.specials[USER]: " U:"}
    marks |= {vocab.specials[ASSISTANT]: " A:"}
    codes = {int(vocab.codes_to_tokens([c])[0]): chr(65 + c) for c in range(vocab.num_codes)}
    return "".join({**codes, **marks}.get(t) or vocab.text.decode([t]) for t in tokens)


def dialogue(template, mode):
    text = template.vocab.text.encode("yes it is")
    return [
        *template.system(mode, "speech"),
        template.stop_id,
        *template.spoken_question(np.array([0, 1])),
        *template.answer_begin(mode),
        *template.answer(mode, text, np.arange(12)),
        template.stop_id,
        template.vocab.eod_id,
    ]


@pytest.mark.parametrize(
    ("mode", "answer"),
    [
        ("text", "yes it is"),
        ("direct", "(ABCDEFGHIJKL)"),
        ("guided", "yes it is(ABCDEFGHIJKL)"),
        ("streaming", "yesABCDE itFGHIJ isKL"),
    ],
)
def test_a_dialogue_in_each_mode(vocab, mode, answer):
    template = ChatTemplate(vocab, SMALL)
    written = spelled(vocab, dialogue(template, mode))
    assert written.startswith("S:")
    assert written.partition(" U:")[2] == f"(AB) A:{answer} U:."


@pytest.mark.parametrize("mode", MODES)
def test_the_rhythm_of_the_engine_is_that_of_the_documents(vocab, mode):
    """For every length of text and speech: each token of a document is allowed where it stands."""
    template = ChatTemplate(vocab, SMALL)
    for text, codes in [(t, c) for t in range(1, 14) for c in range(1, 30)]:
        if mode == "streaming" and text_outlasts_speech(text, codes, SMALL):
            continue
        answer = template.answer(mode, [5] * text, np.zeros(codes, np.int64))
        rhythm = Rhythm(mode, SMALL)
        for token in [*answer, template.stop_id]:
            kind = kind_of(vocab, token)
            assert kind in rhythm.allowed(), (text, codes, answer)
            rhythm.accept(kind)


def kind_of(vocab, token):
    if vocab.is_speech(np.array(token)):
        return TokenKind.CODE
    marks = {vocab.begin_of_audio_id: TokenKind.BEGIN, vocab.end_of_audio_id: TokenKind.END}
    return {**marks, vocab.specials[USER]: TokenKind.STOP}.get(token, TokenKind.TEXT)


def test_blocks_cannot_be_cut_short_or_run_on():
    rhythm = Rhythm("streaming", SMALL)
    assert rhythm.allowed() == {TokenKind.TEXT}
    for _ in range(3):
        rhythm.accept(TokenKind.TEXT)
    assert rhythm.allowed() == {TokenKind.CODE}
    for _ in range(5):
        rhythm.accept(TokenKind.CODE)
    assert rhythm.allowed() == {TokenKind.TEXT, TokenKind.CODE, TokenKind.STOP}
    rhythm.accept(TokenKind.TEXT)
    # text was begun: its speech must follow
    assert rhythm.allowed() == {
        TokenKind.TEXT,
        TokenKind.CODE,
    }  # text was begun: its speech must follow
    for _ in range(40):  # a code where text was due: text has ended, codes go on in one run
        rhythm.accept(TokenKind.CODE)
        assert rhythm.allowed() == {TokenKind.CODE, TokenKind.STOP}


def test_speech_is_never_lost_in_the_tail():
    for text in range(1, 40):
        for codes in range(1, 80):
            words, sounds = [-1] * text, list(range(codes))
            if text_outlasts_speech(text, codes, SMALL):
                with pytest.raises(DataError, match="too few"):
                    stream_answer(words, sounds, SMALL)
                continue
            answer = stream_answer(words, sounds, SMALL)
            assert [t for t in answer if t >= 0] == sounds
            assert answer.count(-1) == text
            assert answer[-1] == codes - 1  # never ends with text


def test_losses_of_a_streamed_answer_make_up_the_whole(vocab):
    ids = np.array(dialogue(ChatTemplate(vocab, SMALL), "streaming"))
    kinds = RuleTokens.of(vocab)
    masks = {
        rule: loss_mask(rule, ids[:-1], ids[1:], kinds)
        for rule in ("assistant", "assistant_text", "assistant_speech")
    }
    assert (masks["assistant_text"] ^ masks["assistant_speech"] == masks["assistant"]).all()
    assert masks["assistant_speech"].sum() == 12 + 1  # the codes and the end of the turn
    assert masks["assistant_text"].sum() == len(vocab.text.encode("yes it is"))
    assert not masks["assistant"][: list(ids).index(vocab.specials[ASSISTANT])].any()


def test_the_released_template(vocab):
    template = ChatTemplate(vocab, TemplateConfig(template="glm-4-voice"))
    written = spelled(vocab, dialogue(template, "streaming"))
    assert written.startswith("S:\nUser will provide you with a speech instruction. Do it step")
    assert "26 audio tokens.  U:\n(AB) A:streaming_transcription\nyes it isABC" in written
    asked_in_text = spelled(vocab, template.system("streaming", "text"))
    assert "a text instruction" in asked_in_text
    assert asked_in_text.endswith("audio tokens.")
    with pytest.raises(ConfigError, match="streaming only"):
        template.system("direct", "speech")
    with pytest.raises(ConfigError, match="13 text and 26"):
        TemplateConfig(template="glm-4-voice", text_block=5)


def test_the_released_template_in_the_released_vocabulary(tmp_path):
    """Equal to what the released demo's string becomes by the converted tokenizer, which puts two
    tokens before it; the trailing space of the prompt for speech included."""
    write_tokenizer(tmp_path / "base", train_ranks(lines(300, seed=5), 500), NAMED, codes=16)
    SpeechTextVocab.as_it_is(tmp_path / "base").save_pretrained(tmp_path / "vocab")
    vocab = SpeechTextVocab.from_pretrained(tmp_path / "vocab")
    template = ChatTemplate(vocab, TemplateConfig(template="glm-4-voice"))
    about = "Do it step by step. First, think about the instruction and respond in a interleaved "
    about += "manner, with 13 text token followed by 26 audio tokens."
    heard = f"<|system|>\nUser will provide you with a speech instruction. {about} <|user|>\n"
    heard += "<|begin_of_audio|><|audio_3|><|audio_15|><|end_of_audio|><|assistant|>"
    read = f"<|system|>\nUser will provide you with a text instruction. {about}<|user|>\n"
    read += "What's up?<|assistant|>"
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "vocab")
    question = template.spoken_question(np.array([3, 15]))
    written = template.written_question(vocab.text.encode("What's up?"))
    for modality, turn, prompt in (("speech", question, heard), ("text", written, read)):
        ids = [*template.system("streaming", modality), template.stop_id, *turn]
        ids += template.answer_begin("streaming")
        assert ids == tokenizer(prompt + "streaming_transcription\n").input_ids
        assert tokenizer.convert_ids_to_tokens(ids[:2]) == ["[gMASK]", "<sop>"]


def test_words_of_marks_are_text(vocab):
    """Somebody who writes a mark does not end his turn."""
    written = vocab.text.encode("<|assistant|>yes<|audio_3|>")
    ids = ChatTemplate(vocab).written_question(written)
    assert vocab.specials[ASSISTANT] not in ids
    assert not vocab.is_speech(np.array(ids)).any()


def test_a_vocabulary_without_marks_is_refused(vocab, tmp_path):
    base = tmp_path / "base"
    vocab.text.save(base, ())
    bare = SpeechTextVocab.extend(make_plain(tmp_path), 16, specials=("<|begin_of_audio|>",))
    with pytest.raises(VocabularyError, match=r"<\|system\|>, <\|user\|>.*--num-codes 16"):
        ChatTemplate(bare)


def make_plain(folder):
    make_vocab(folder / "plain")
    return folder / "plain" / "base"


@pytest.mark.parametrize(
    ("mode", "text", "codes"),
    [("text", 0, 3), ("direct", 3, 0), ("guided", 3, 0), ("streaming", 0, 3)],
)
def test_an_answer_of_nothing_is_refused(vocab, mode, text, codes):
    with pytest.raises(DataError, match="an answer in mode"):
        ChatTemplate(vocab).answer(mode, [5] * text, np.zeros(codes, np.int64))


def test_impossible_blocks_are_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        TemplateConfig(text_block=0)


@pytest.mark.parametrize(("rate", "codes"), [(12.5, 26), (25.0, 52), (50.0, 104), (6.25, 13)])
def test_a_block_of_codes_lasts_as_long_at_every_frame_rate(vocab, rate, codes):
    assert ChatTemplate(vocab, None, rate).config.speech_block == codes
    assert ChatTemplate(vocab, SMALL, rate).config.speech_block == 5
    released = TemplateConfig(template="glm-4-voice")
    assert ChatTemplate(vocab, released, rate).config.speech_block == 26
    rhythm = Rhythm("streaming", TemplateConfig().at(rate))
    for _ in range(13):
        rhythm.accept(TokenKind.TEXT)
    for _ in range(codes - 1):
        rhythm.accept(TokenKind.CODE)
    assert TokenKind.TEXT not in rhythm.allowed()
    rhythm.accept(TokenKind.CODE)
    assert TokenKind.TEXT in rhythm.allowed()
