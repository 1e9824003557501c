"""The independent recogniser on a person's voice."""

import numpy as np

from megatron_speech.audio import read_audio
from megatron_speech.evaluation.recognisers import Pocketsphinx
from tests.real_speech.librivox import librivox_clips


def test_pocketsphinx_reads_a_recording(tmp_path):
    path, text = librivox_clips(tmp_path)[0]
    heard = Pocketsphinx().read([read_audio(path), np.zeros(16_000, np.float32)])
    assert len(heard) == 2
    words = set(text.lower().split())
    assert len(words & set(heard[0].split())) > 0.5 * len(words)
