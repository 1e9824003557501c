"""The engine on a small random model: events, rhythm, interruption, history, languages."""

import threading

import numpy as np
import pytest
import torch

from megatron_speech.chat.decoding import SamplingConfig, choose
from megatron_speech.chat.engine import ChatEngine
from megatron_speech.chat.events import (
    AudioChunk,
    Done,
    Heard,
    SpokenCodes,
    TextDelta,
    Timing,
)
from megatron_speech.chat.session import ChatConfig
from megatron_speech.chat.template import MODES
from megatron_speech.errors import (
    AudioError,
    CheckpointError,
    ConfigError,
    DataError,
    VocabularyError,
)
from megatron_speech.text.vocab import ROLES, SpeechTextVocab
from tests.chat.parts import (
    FINGERPRINT,
    EchoDecoder,
    ToneTokenizer,
    make_engine,
    question,
    write_model,
)
from tests.data.language_data import NUM_CODES, make_vocab
from tests.speech_decoder.tiny_decoder import tiny_decoder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("chat"))


def of(kind, events):
    return [event for event in events if isinstance(event, kind)]


def long_answer(engine):
    """A session with an answer of more than 12 codes, and its events; a random model says more to
    one question than to another."""
    for code in range(1, 16):
        session = engine.session()
        events = list(session.respond(question(code)))
        if len(session.history[-1].codes) > 12:
            return session, events
    raise AssertionError("the model says little to any question")


@pytest.mark.parametrize("mode", MODES)
def test_an_answer_is_text_and_sound_of_its_tokens(model, mode):
    decoder = EchoDecoder()
    session = make_engine(model, decoder, mode=mode, decode_codes=4).session()
    events = list(session.respond(question(3, 5, 7)))
    assert of(Heard, events)[0].codes.tolist() == [3, 5, 7]
    assert isinstance(events[-1], Done)
    asked, answer = session.history
    text = "".join(event.text for event in of(TextDelta, events))
    assert text == answer.text
    assert bool(text) == (mode != "direct")
    sound = np.concatenate([np.zeros(0), *(event.samples for event in of(AudioChunk, events))])
    assert np.array_equal(sound, decoder.decode(answer.codes))
    if mode in ("direct", "streaming"):  # at random a guided answer hardly comes to its speech
        assert len(sound)
    assert all(len(block) == 4 for block in decoder.fed[:-1])
    assert asked.codes.tolist() == [3, 5, 7]


def test_streaming_keeps_the_rhythm(model):
    session = make_engine(model, max_new_tokens=150).session()
    list(session.respond(question(3, 5, 7)))
    vocab, answer = make_engine(model).vocab, np.array(session.history[1].tokens[1:])
    speech = vocab.is_speech(answer)
    runs = np.split(speech, np.flatnonzero(np.diff(speech)) + 1)
    lengths = [len(run) for run in runs]
    assert not speech[0]
    assert lengths[0] <= 13
    for number, (text, codes) in enumerate(zip(lengths[::2], lengths[1::2], strict=False)):
        ended = text < 13
        assert codes == 26 or ended or number == len(lengths) // 2 - 1


def test_the_kept_cache_gives_what_reading_all_again_gives(model):
    """Three turns with a cache that grows, against one pass over the whole conversation."""
    engine = make_engine(model, max_new_tokens=20)
    session = engine.session()
    for user in (question(3, 5, 7), "and you?", question(9)):
        list(session.respond(user))
    ids = torch.tensor([session.tokens])
    with torch.inference_mode():
        whole = session._tokens._model(ids).logits[0, -1]
    session._tokens.begin(session.tokens, 0, 1)
    assert torch.allclose(session._tokens._logits, whole, atol=1e-4)
    fresh = engine.session()
    fresh.history = session.history[:4]
    list(fresh.respond(question(9)))
    assert fresh.history[-1].tokens == session.history[-1].tokens


def test_sessions_do_not_hear_each_other(model):
    engine = make_engine(model, max_new_tokens=30)
    alone = engine.session()
    list(alone.respond(question(3, 5, 7)))
    one, other = engine.session(), engine.session()
    mixed = [iter(one.respond(question(3, 5, 7))), iter(other.respond(question(9, 9)))]
    while mixed:
        mixed = [events for events in mixed if next(events, None) is not None]
    assert one.history[1].tokens == alone.history[1].tokens


def test_interruption_stops_at_once_and_is_remembered(model):
    session = make_engine(model, max_new_tokens=200, mode="guided").session()
    seen = []
    for event in session.respond(question(3, 5, 7)):
        if isinstance(event, TextDelta) and len(seen) > 3:
            session.interrupt()
        seen.append(event)
    after = seen[[n for n, e in enumerate(seen) if isinstance(e, TextDelta)][-1] + 1 :]
    assert [type(event) for event in after] == [Done]
    assert seen[-1].reason == "interrupted"
    assert session.history[-1].interrupted
    assert list(session.respond(question(9)))[-1].reason != "interrupted"
    assert len(session.history) == 4


def test_interruption_from_another_thread(model):
    session = make_engine(model, max_new_tokens=400, mode="text").session()
    began, events = threading.Event(), []

    def run():
        for event in session.respond("hello"):
            events.append(event)
            began.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert began.wait(60)
    session.interrupt()
    thread.join(60)
    assert not thread.is_alive()
    assert isinstance(events[-1], Done)


def test_what_is_interrupted_while_it_is_tokenised_is_not_read(model):
    session = make_engine(model).session()
    read = []
    session._tokens.begin = lambda *prompt: read.append(prompt)
    events = session.respond(question(3, 5, 7))
    assert isinstance(next(events), Heard)
    session.interrupt()
    assert [event.reason for event in events] == ["interrupted"]
    assert not read
    assert session.history[-1].interrupted


def test_what_was_not_heard_is_forgotten(model):
    session, _ = long_answer(make_engine(model, max_new_tokens=60))
    whole = session.history[-1]
    session.interrupt(heard_s=0.8)
    cut = session.history[-1]
    assert cut.codes.tolist() == whole.codes[:10].tolist()
    assert cut.tokens == whole.tokens[: len(cut.tokens)]
    assert whole.text.startswith(cut.text)
    assert cut.interrupted
    assert list(session.respond(question(9)))[-1].reason != "interrupted"


def test_an_answer_that_nobody_waits_for_is_remembered(model):
    session = make_engine(model).session()
    events = session.respond(question(3))
    next(events), next(events), next(events)
    events.close()
    assert session.history[-1].interrupted
    list(session.respond(question(4)))


def test_two_answers_at_once_are_refused(model):
    session = make_engine(model).session()
    events = session.respond(question(3))
    next(events)
    with pytest.raises(ConfigError, match="answers already"):
        next(session.respond(question(3)))


def test_old_turns_are_forgotten_where_there_is_no_room(model):
    session = make_engine(model, context_tokens=100, max_new_tokens=25).session()
    for number in range(6):
        done = list(session.respond(question(*([3 + number] * 10))))[-1]
        assert done.timing.prompt_tokens + 25 <= 100
    assert len(session.history) == 12
    with pytest.raises(DataError, match="too many for a model that sees 100"):
        list(session.respond(question(*[3] * 90)))
    assert len(session.history) == 12


def test_the_same_seed_gives_the_same_answer(model):
    def answers(seed):
        from megatron_speech.chat.decoding import SamplingConfig

        sampling = SamplingConfig(temperature=1.0, top_p=0.9, seed=seed)
        session = make_engine(model, sampling=sampling).session()
        list(session.respond(question(3)))
        return session.history[-1].tokens

    assert answers(1) == answers(1)
    assert answers(1) != answers(2)


def test_a_language_keeps_to_its_letters(model):
    free = make_engine(model, mode="text").session()
    list(free.respond("hello"))
    assert not free.history[-1].text.isascii()  # bytes at random are no Latin letters
    kept = make_engine(model, mode="text", language="en").session()
    list(kept.respond("hello"))
    assert kept.history[-1].text.isascii()
    with pytest.raises(ConfigError, match="known are af, am"):
        make_engine(model, language="tlh")


def test_times_add_up(model):
    session = make_engine(model, decode_codes=10).session()
    events = list(session.respond(question(3, 5, 7)))
    (first,) = of(Timing, events)
    assert events.index(first) == events.index(of(AudioChunk, events)[0]) + 1
    parts = (first.tokenise_s, first.prefill_s, first.first_tokens_s, first.first_decode_s)
    assert all(part > 0 for part in parts)
    assert sum(parts) <= first.first_audio_s <= events[-1].timing.total_s
    assert first.first_text_s < first.first_audio_s
    done = events[-1].timing
    assert done.text_tokens + done.speech_tokens == len(session.history[1].tokens) - 1
    assert done.audio_s == pytest.approx(done.speech_tokens * 0.08)


@pytest.mark.parametrize(
    ("user", "rate", "error", "said"),
    [
        ("  ", 16_000, DataError, "empty"),
        (np.zeros(0, np.float32), 16_000, AudioError, "no samples"),
        (np.zeros(16_000, np.float32), 16_000, AudioError, "silent"),
        (np.full(100, np.nan, np.float32), 16_000, AudioError, "NaN"),
        (np.ones((100, 2), np.float32), 16_000, AudioError, "mono floats"),
        (np.ones(100, np.int16), 16_000, AudioError, "mono floats"),
        (np.ones(100, np.float32), 100, AudioError, "100 Hz"),
        (SpokenCodes(np.zeros(0, np.int64)), 16_000, DataError, "no codes"),
        (SpokenCodes(np.array([3, 99])), 16_000, VocabularyError, "code 99 is out of range"),
    ],
)
def test_questions_that_cannot_be_asked(model, user, rate, error, said):
    session = make_engine(model).session()
    with pytest.raises(error, match=said):
        list(session.respond(user, rate))
    assert session.history == []
    list(session.respond("and now?"))


def test_other_codes_are_refused(model, tmp_path):
    tokenizer, decoder = ToneTokenizer(), EchoDecoder()
    tokenizer.num_codes = 8
    with pytest.raises(DataError, match="has 8 codes"):
        ChatEngine(model, tokenizer)
    tokenizer = ToneTokenizer()
    tokenizer.frame_rate_hz = 25.0
    with pytest.raises(ConfigError, match="other codes"):
        ChatEngine(model, tokenizer, decoder)
    decoder.num_codes = 8  # typed questions need no tokenizer, and yet the voice must fit
    with pytest.raises(ConfigError, match="speech decoder has 8 codes"):
        ChatEngine(model, decoder=decoder)


def test_an_export_without_speech_tokens_is_refused(model, tmp_path):
    vocab = SpeechTextVocab.from_pretrained(model)
    plain = SpeechTextVocab.extend(write_plain(tmp_path), 16, specials=("<|begin_of_audio|>",))
    folder = write_model(tmp_path / "plain", plain)
    with pytest.raises(VocabularyError, match=r"no <\|system\|>.*--num-codes 16"):
        ChatEngine(folder)
    for extra in (ROLES, ()):  # with marks of turns and without
        make_vocab(tmp_path / f"mute{len(extra)}", extra)
        mute = SpeechTextVocab.as_it_is(tmp_path / f"mute{len(extra)}" / "base")
        folder = write_model(tmp_path / f"mute_model{len(extra)}", mute)
        with pytest.raises(VocabularyError, match="no speech codes"):
            ChatEngine(folder)
    (model_without := tmp_path / "bare").mkdir()
    vocab.text.save(model_without, ())
    with pytest.raises(CheckpointError, match="no exported model"):
        ChatEngine(model_without)


def write_plain(folder):
    make_vocab(folder / "base_vocab")
    return folder / "base_vocab" / "base"


def test_impossible_settings_are_refused(model):
    with pytest.raises(CheckpointError, match="512 positions"):
        make_engine(model, context_tokens=1000)
    with pytest.raises(ConfigError, match="max-new-tokens"):
        ChatConfig(max_new_tokens=0)
    with pytest.raises(ConfigError, match="no speech tokenizer"):
        list(ChatEngine(model).session().respond(question(3)))


def test_what_is_overheard_is_what_its_codes_say(model):
    engine, sound = make_engine(model), question(3)
    codes = engine.session()._parts.speech_tokenizer.encode([sound])[0]
    assert engine.overhear(sound, 16_000) == engine.transcribe(codes) != ""
    with pytest.raises(AudioError, match="silent"):
        engine.overhear(np.zeros(8_000, np.float32), 16_000)
    with pytest.raises(DataError, match="no speech tokenizer"):
        ChatEngine(model).overhear(sound, 16_000)


def test_the_speech_decoder_streams_what_it_decodes_offline(model):
    decoder = tiny_decoder(num_codes=NUM_CODES, tokenizer_fingerprint=FINGERPRINT)
    session, events = long_answer(make_engine(model, decoder, max_new_tokens=70))
    chunks, codes = of(AudioChunk, events), session.history[-1].codes
    assert len(chunks) > 1
    assert chunks[0].sample_rate_hz == 22_050
    offline = decoder.decode(codes)
    streamed = np.concatenate([chunk.samples for chunk in chunks])
    assert np.abs(streamed - offline).max() < 1e-4 * max(1.0, np.abs(offline).max())


def test_a_decoder_of_other_codes_is_refused(model):
    for changes in ({"tokenizer_fingerprint": "0" * 16}, {"frame_rate_hz": 25.0}):
        facts = {"num_codes": NUM_CODES, "tokenizer_fingerprint": FINGERPRINT, **changes}
        with pytest.raises(ConfigError, match="this speech decoder was trained on"):
            make_engine(model, tiny_decoder(**facts))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_choose_no_token(value, temperature):
    logits = torch.zeros(8)
    logits[5] = value
    forbidden = torch.zeros(8, dtype=torch.bool)
    with pytest.raises(CheckpointError, match="logits are NaN or infinite"):
        choose(logits, forbidden, SamplingConfig(temperature=temperature), torch.Generator())
