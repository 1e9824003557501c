"""The network for voice activity is silero-vad's."""

import numpy as np
import pytest
import torch

from megatron_speech.errors import ConfigError
from megatron_speech.prepare_speech import voice_activity
from megatron_speech.prepare_speech.voice_activity import FRAME_SAMPLES, VoiceActivity


def sounds() -> np.ndarray:
    """Tones that come and go, and noise: some of it passes for speech."""
    times = np.arange(40 * 16_000) / 16_000
    pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * times)
    phase = 2 * np.pi * np.cumsum(pitch) / 16_000
    voiced = sum(np.sin(n * phase) / n for n in range(1, 20)) * (np.sin(2 * np.pi * times) > 0)
    noise = np.random.default_rng(0).standard_normal(len(times))
    return (0.1 * voiced + 0.005 * noise).astype(np.float32)


def test_it_is_the_package_own_network():
    threads = torch.get_num_threads()
    from silero_vad import load_silero_vad

    torch.set_num_threads(threads)  # which the package changes when it is imported
    audio, theirs = sounds(), load_silero_vad()
    frames = torch.from_numpy(audio).split(FRAME_SAMPLES)[: len(audio) // FRAME_SAMPLES]
    with torch.no_grad():
        expected = np.array([theirs(frame, 16_000).item() for frame in frames])
    voice = VoiceActivity.from_package()
    found = voice.probabilities(np.array_split(audio, 7))
    assert found.max() - found.min() > 0.3
    np.testing.assert_allclose(found[: len(expected)], expected, atol=1e-4)
    assert len(voice.probabilities([audio[:700]])) == 2
    assert len(voice.probabilities([])) == 0


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(voice_activity.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="raw-audio"):
        VoiceActivity.from_package()
