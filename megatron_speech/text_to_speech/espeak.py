"""Speech from text by espeak-ng, through the library that `espeakng-loader` ships.

Real audio with known text on any machine. Voice, pitch and rate of an utterance are a hash of seed
and id. Imports no torch.

espeak-ng carries state from one utterance to the next (the phase of the voice's flutter), so the
same text said later differs by a few samples. What is said after a fresh start of the process is
always the same; `text_to_speech/speech_source.py` makes speech in blocks for that reason.
"""

import ctypes
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soxr

from ..errors import ConfigError, DataError, MegatronSpeechError
from ..io.stops import stops_wait
from ..text.words import is_speakable
from ..text.writing_systems import base_language

SAMPLE_RATE_HZ = 16_000
TRIM_PEAK = 0.01
"""What lies before the first and after the last sample above this amplitude is cut off."""
TRIM_MARGIN_S = 0.02
"""Kept on either side of what is trimmed, so that soft consonants survive."""

_SYNCHRONOUS_RETRIEVAL = 2  # espeak_AUDIO_OUTPUT: hand samples to the callback, then return
_DO_NOT_EXIT = 0x8000
_CHARACTERS_UTF8 = 1
_POSITION_CHARACTER = 1
_RATE, _PITCH = 1, 3
_OK = 0

_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A voice of espeak-ng and the range its pitch and rate are drawn from."""

    name: str
    """As espeak-ng calls it, `language+variant`."""
    pitch: tuple[int, int] = (35, 65)
    """Least and greatest pitch, 0..99."""
    words_per_minute: tuple[int, int] = (150, 190)
    """Least and greatest speed."""

    @property
    def language(self) -> str:
        """The language it speaks, ISO 639-1."""
        return language_of(self.name)

    def say(self, text: str, identifier: str, seed: int) -> np.ndarray:
        """As `Espeak.speak`, at the pitch and rate of this utterance."""
        return engine().speak(text, choose_delivery(identifier, seed, (self,)))


TRAINING_VOICES = (
    Voice(name="en", pitch=(30, 60)),
    Voice(name="en+m3", pitch=(25, 55)),
    Voice(name="en+m7", pitch=(35, 65)),
    Voice(name="en+f2", pitch=(40, 70)),
    Voice(name="en+f4", pitch=(35, 65)),
    Voice(name="en-us", pitch=(30, 60)),
    Voice(name="en-us+m1", pitch=(25, 55)),
    Voice(name="en-us+f3", pitch=(40, 70)),
    Voice(name="en-us+f1", pitch=(35, 65)),
)
HELD_OUT_VOICES = (Voice(name="en-us+f5", pitch=(35, 65)),)
"""Never in training data; tells how a tokenizer does on a voice it has not heard."""

MANY_VOICES = tuple(
    Voice(name=f"{accent}+{variant}", pitch=(20, 75), words_per_minute=(135, 210))
    for accent in ("en", "en-us", "en-029", "en-gb-scotland", "en-gb-x-rp")
    for variant in ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4")
)
"""Sixty voices of wide pitch and speed, for a tokenizer that is to hear people; none held out."""

NARRATORS = (Voice(name="en-us", pitch=(45, 45), words_per_minute=(165, 165)),)
"""One voice that always speaks alike: what a speech decoder is trained to sound like."""


_VARIANTS = ("m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8", "f1", "f2", "f3", "f4")
_ENGLISH = {
    "train": TRAINING_VOICES,
    "held-out": HELD_OUT_VOICES,
    "all": (*TRAINING_VOICES, *HELD_OUT_VOICES),
    "many": MANY_VOICES,
    "narrator": NARRATORS,
}
_OTHERS: dict[str, tuple[str, ...]] = {
    "train": ("m1", "m3", "m5", "m7", "f1", "f2", "f3", "f4"),
    "held-out": ("f5",),
    "all": ("m1", "m3", "m5", "m7", "f1", "f2", "f3", "f4", "f5"),
    "many": _VARIANTS,
    "narrator": ("m1",),
}
_ESPEAK_NAMES = {"zh": "cmn"}


def voices_of(language: str, kind: str) -> tuple[Voice, ...]:
    """Voices that speak `language`: `train`, `held-out`, `all`, `many` or `narrator`.

    English has voices of several accents; another language (`es`, `es-419`, `zh`) those of its one
    voice with espeak-ng's variants.

    Raises:
        ConfigError: espeak-ng does not know the language.
    """
    if language == "en":
        return _ENGLISH[kind]
    name = _ESPEAK_NAMES.get(language, language)
    known = _espeak_languages()
    if name.lower() not in known:
        raise ConfigError(
            f"--language is {language!r}; espeak-ng speaks {', '.join(sorted(known))} (and zh)"
        )
    wide = {"pitch": (20, 75), "words_per_minute": (135, 210)} if kind == "many" else {}
    if kind == "narrator":
        wide = {"pitch": (45, 45), "words_per_minute": (165, 165)}
    return tuple(Voice(name=f"{name}+{variant}", **wide) for variant in _OTHERS[kind])


def language_of(voice: str) -> str:
    """The language (ISO 639-1) that a voice speaks: en of `en-us+f3`, zh of `cmn+m1`."""
    name = base_language(voice.partition("+")[0])
    return next((code for code, ours in _ESPEAK_NAMES.items() if ours == name), name)


def _espeak_languages() -> set[str]:
    import espeakng_loader

    folder = Path(str(espeakng_loader.get_data_path())) / "lang"
    return {path.name.lower() for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """How one utterance is spoken."""

    voice: str
    pitch: int
    words_per_minute: int


def uniform_hash(seed: int, *parts: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    key = "\x1f".join((str(seed), *parts)).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "little") / 2**56


def document_of(identifier: str) -> str:
    """What segments `<document>/<nnn>` share; other utterances are by themselves."""
    return identifier.rpartition("/")[0] or identifier


def choose_voice[V](identifier: str, seed: int, voices: Sequence[V]) -> V:
    """The voice of an utterance; segments of one document have the same.

    Raises:
        ConfigError: no voices to choose from.
    """
    if not voices:
        raise ConfigError("no voices to choose from; give at least one")
    return voices[int(uniform_hash(seed, "voice", document_of(identifier)) * len(voices))]


def choose_delivery(utterance_id: str, seed: int, voices: Sequence[Voice]) -> Delivery:
    """Voice, pitch and rate of an utterance; segments share their document's.

    Raises:
        ConfigError: no voices to choose from.
    """
    voice = choose_voice(utterance_id, seed, voices)
    document = document_of(utterance_id)

    def within(name: str, bounds: tuple[int, int]) -> int:
        low, high = bounds
        return low + int(uniform_hash(seed, name, document) * (high - low + 1))

    return Delivery(
        voice=voice.name,
        pitch=within("pitch", voice.pitch),
        words_per_minute=within("rate", voice.words_per_minute),
    )


def trim_silence(waveform: np.ndarray, rate_hz: int) -> np.ndarray:
    """Cut quiet ends off a waveform (samples,) with values in -1..1, leaving a short margin."""
    loud = np.flatnonzero(np.abs(waveform) > TRIM_PEAK)
    if loud.size == 0:
        return waveform[:0]
    margin = int(TRIM_MARGIN_S * rate_hz)
    return waveform[max(0, loud[0] - margin) : loud[-1] + 1 + margin]


class Espeak:
    """One espeak-ng engine. The library is global to the process: use `engine()`."""

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise MegatronSpeechError(
                "speech needs the package espeakng-loader; install it with pip"
            ) from None
        self._library = _declare(ctypes.CDLL(espeakng_loader.get_library_path()))
        data_path = str(espeakng_loader.get_data_path()).encode()
        self.native_rate_hz: int = self._library.espeak_Initialize(
            _SYNCHRONOUS_RETRIEVAL, 0, data_path, _DO_NOT_EXIT
        )
        if self.native_rate_hz <= 0:
            raise MegatronSpeechError(
                f"espeak-ng did not start (code {self.native_rate_hz}) with its data in "
                f"{data_path.decode()}; install espeakng-loader again"
            )
        self._samples: list[np.ndarray] = []
        self._callback = _Callback(self._receive)  # kept here: the library holds only a pointer
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_ng_SetRandSeed(1)  # breath noise; taken from the clock otherwise

    def _receive(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, _: int) -> int:
        if samples and count > 0:
            self._samples.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def _check(self, code: int, action: str) -> None:
        if code != _OK:
            raise DataError(f"espeak-ng could not {action} (code {code})")

    def speak(self, text: str, delivery: Delivery) -> np.ndarray:
        """Say `text`; float32 mono at 16 kHz, shape (samples,), quiet ends trimmed.

        Raises:
            DataError: nothing to say, or espeak-ng refused voice, setting or text.
        """
        if not is_speakable(text):
            raise DataError(f"text {text!r} has no letter or digit to speak")
        library, voice = self._library, delivery.voice
        self._check(library.espeak_SetVoiceByName(voice.encode()), f"find the voice {voice!r}")
        for number, value in ((_PITCH, delivery.pitch), (_RATE, delivery.words_per_minute)):
            self._check(library.espeak_SetParameter(number, value, 0), f"set {number} to {value}")
        self._samples.clear()
        data = text.replace("\0", " ").encode() + b"\0"
        with stops_wait():
            code = library.espeak_Synth(
                data, len(data), 0, _POSITION_CHARACTER, 0, _CHARACTERS_UTF8, None, None
            )
        self._check(code, f"speak {text!r}")
        if not self._samples:
            raise DataError(f"espeak-ng gave no sound for {text!r}")
        native = np.concatenate(self._samples).astype(np.float32) / 32768.0
        native = trim_silence(native, self.native_rate_hz)
        if native.size == 0:
            raise DataError(f"espeak-ng gave only silence for {text!r}")
        return soxr.resample(native, self.native_rate_hz, SAMPLE_RATE_HZ)


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Argument types of the functions used; a wrong call is then an error, not a crash."""
    library.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
    library.espeak_SetSynthCallback.argtypes = [_Callback]
    library.espeak_SetSynthCallback.restype = None
    library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
    library.espeak_SetParameter.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int]
    library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
    library.espeak_Synth.argtypes = [
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_uint,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.c_uint,
        ctypes.POINTER(ctypes.c_uint),
        ctypes.c_void_p,
    ]
    return library


@cache
def engine() -> Espeak:
    """The process's engine, started on first use."""
    return Espeak()
