"""A small model for chats, a tokenizer and a decoder that can be followed by hand."""

from pathlib import Path

import numpy as np

from megatron_speech.chat.decoding import SamplingConfig
from megatron_speech.chat.engine import ChatEngine
from megatron_speech.chat.rhythm import Kinds
from megatron_speech.chat.session import ChatConfig, ChatSession
from megatron_speech.chat.template import ChatTemplate
from megatron_speech.errors import ConfigError
from megatron_speech.text.vocab import SpeechTextVocab
from tests.data.language_data import NUM_CODES, make_vocab

FINGERPRINT = "f" * 16
SAMPLES_PER_CODE = 1280
NO_SOUND = np.zeros(0, np.float32)


def write_model(
    folder: Path,
    vocab: SpeechTextVocab | None = None,
    positions: int = 512,
    width: int = 32,
    heads: int = 4,
) -> Path:
    """An exported folder: a random Llama of two layers, far from uniform, with its vocabulary."""
    from tests.text_to_token.tiny_model import save_llama

    vocab = vocab or make_vocab(folder / "made")
    sizes = {"max_position_embeddings": positions, "hidden_size": width}
    return save_llama(folder / "model", vocab, num_attention_heads=heads, **sizes)


class ToneTokenizer:
    """80 ms of sound to one code, by its mean; reads codes as the letters a, b, c, ..."""

    fingerprint = FINGERPRINT
    num_codes = NUM_CODES
    frame_rate_hz = 12.5

    def encode(self, audio, sample_rate_hz=16_000):
        return [np.array([int(abs(p.mean()) * 100) % NUM_CODES for p in _pieces(a)]) for a in audio]

    def decode_text(self, codes, languages=None):
        return ["".join(chr(97 + code) for code in array) for array in codes]


def _pieces(audio: np.ndarray) -> list[np.ndarray]:
    return [audio[s : s + SAMPLES_PER_CODE] for s in range(0, len(audio), SAMPLES_PER_CODE)]


def question(*codes: int) -> np.ndarray:
    """Sound that ToneTokenizer hears as these codes (above 0)."""
    return np.repeat(np.array(codes) / 100 + 0.005, SAMPLES_PER_CODE).astype(np.float32)


class EchoDecoder:
    """Each code becomes 80 ms of its number, one block late; remembers what it was fed."""

    sample_rate_hz, frame_rate_hz = 16_000, 12.5
    fingerprint = FINGERPRINT
    num_codes = NUM_CODES

    def __init__(self):
        self.fed: list[list[int]] = []

    def check_codes_of(self, frame_rate_hz, num_codes, fingerprint):
        if (frame_rate_hz, num_codes, fingerprint) != (12.5, NUM_CODES, self.fingerprint):
            raise ConfigError("other codes than the decoder's")

    def decode(self, codes, seed=0, speaker=None):
        return np.repeat(codes, SAMPLES_PER_CODE).astype(np.float32)

    def stream(self, seed=0, speaker=None):
        return EchoStream(self)


class EchoStream:
    """See EchoDecoder."""

    sample_rate_hz = 16_000

    def __init__(self, decoder: EchoDecoder):
        self._decoder, self._waiting = decoder, NO_SOUND

    def feed(self, codes):
        self._decoder.fed.append(codes.tolist())
        ready, self._waiting = self._waiting, self._decoder.decode(codes)
        return ready

    def finish(self):
        ready, self._waiting = self._waiting, NO_SOUND
        return ready


class ScriptedTokens:
    """A source of tokens that says what it was told: a letter for each token, t text, c code, b and
    e begin and end of audio, s the end of the answer. Notes what was allowed at each."""

    def __init__(self, engine: ChatEngine, script: str):
        vocab, stop = engine.vocab, ChatTemplate(engine.vocab).stop_id
        ids = {"b": vocab.begin_of_audio_id, "e": vocab.end_of_audio_id, "s": stop}
        a = vocab.text.encode("a")[0]
        counts = dict.fromkeys("tc", 0)
        self.tokens: list[int] = []
        for letter in script:
            if letter in counts:
                first = a if letter == "t" else vocab.code_offset
                ids[letter] = first + counts[letter] % NUM_CODES
                counts[letter] += 1
            self.tokens.append(ids[letter])
        self.allowed: dict[int, Kinds] = {}
        self.place = 0

    def begin(self, prompt, seed, most_tokens):
        self.prompt = prompt

    def choose(self, allowed):
        self.allowed[self.place] = allowed
        return self.tokens[self.place]

    def append(self, token):
        assert token == self.tokens[self.place]
        self.place += 1

    def cancel(self):
        pass

    def end(self):
        pass


def scripted(engine: ChatEngine, script: str) -> ChatSession:
    """A session whose next answers are `script`."""
    session = engine.session()
    session._tokens = ScriptedTokens(engine, script)
    return session


def make_engine(model: Path, decoder: EchoDecoder | None = None, **settings) -> ChatEngine:
    """An engine with both; greedy, and short unless told otherwise."""
    sampling = SamplingConfig(temperature=0.0, language=settings.pop("language", None))
    config = ChatConfig(**{"max_new_tokens": 60, "sampling": sampling, **settings})
    return ChatEngine(model, ToneTokenizer(), decoder or EchoDecoder(), config)
