"""Speech from text by neural voices of Piper (https://github.com/OHF-Voice/piper1-gpl).

A voice is an .onnx file with its settings beside it (NAME.onnx.json); some hold hundreds of
speakers. Speaker and pace of an utterance are a hash of seed and id, as espeak-ng's are. The
network's own noise is seeded once a process, so that speech is made in blocks here too. Imports no
torch, and `piper-tts`, a program under the GPL, only where a voice of it is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from ..errors import ConfigError, DataError, MegatronSpeechError
from ..io.files import read_json_object
from ..text.writing_systems import base_language
from .espeak import SAMPLE_RATE_HZ, TRIM_PEAK, document_of, trim_silence, uniform_hash

_PACE = (0.85, 1.2)
"""Least and greatest length of sounds, 1 as the voice was trained."""
_SEED = 1


@dataclass(frozen=True, kw_only=True)
class PiperSpeaker:
    """One speaker of a voice."""

    name: str
    """The file's name; #7 behind it where the voice has several speakers."""
    file: str
    speaker: int | None
    language: str

    def say(self, text: str, identifier: str, seed: int) -> np.ndarray:
        """Speech as float32 mono at 16 kHz, shape (samples,), quiet ends trimmed.

        Raises:
            DataError: Piper gave no sound.
        """
        low, high = _PACE
        pace = low + uniform_hash(seed, "rate", document_of(identifier)) * (high - low)
        voice, config = _voice(self.file)
        settings = config(speaker_id=self.speaker, length_scale=pace)
        parts = [c.audio_float_array for c in voice.synthesize(text.replace("\0", " "), settings)]
        native = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        rate_hz = voice.config.sample_rate
        native = trim_silence(native.astype(np.float32), rate_hz)
        if native.size == 0:
            raise DataError(f"Piper gave nothing above an amplitude of {TRIM_PEAK} for {text!r}")
        return soxr.resample(native, rate_hz, SAMPLE_RATE_HZ)


def speakers_of(files: Sequence[Path], numbers: Sequence[int] = ()) -> tuple[PiperSpeaker, ...]:
    """All speakers of some voices, or of voices with several those of these numbers.

    Raises:
        ConfigError: a file or its settings are missing, or there is no speaker of a number.
        DataError: the settings are damaged.
        MegatronSpeechError: Piper is not installed.
    """
    if find_spec("piper") is None:
        raise MegatronSpeechError(
            "Piper's voices need the package piper-tts: "
            "pip install -c constraints.txt -e '.[piper]'"
        )
    found = []
    for file in files:
        settings = Path(f"{file}.json")
        for path in (file, settings):
            if not path.is_file():
                raise ConfigError(f"{path} is not there; a Piper voice is NAME.onnx beside "
                                  "NAME.onnx.json")  # fmt: skip
        facts = read_json_object(settings, num_speakers=int, espeak=dict)
        count, spoken = facts["num_speakers"], facts["espeak"].get("voice")
        if not isinstance(spoken, str):
            raise DataError(f"{settings} does not say what the voice speaks (espeak.voice)")
        wanted = [number for number in numbers if number < count] if count > 1 else [None]
        if numbers and not wanted:
            raise ConfigError(f"{file} has speakers 0 to {count - 1}; none of {[*numbers]}")
        found += [
            PiperSpeaker(
                name=file.stem if number is None else f"{file.stem}#{number}",
                file=str(file),
                speaker=number,
                language=base_language(spoken),
            )
            for number in wanted or range(count)
        ]
    return tuple(found)


@cache
def _voice(file: str) -> tuple[Any, Any]:
    """A file's voice, its random numbers at their start, and the type of its settings."""
    import onnxruntime
    from piper import PiperVoice, SynthesisConfig

    voice = PiperVoice.load(file)
    # its own session takes a thread of every processor, and there is a process for each of these
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    onnxruntime.set_seed(_SEED)
    voice.session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return voice, SynthesisConfig
