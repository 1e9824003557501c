import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from megatron_speech.errors import AudioError
from megatron_speech.speech_decoder.mel import (
    HOP_SAMPLES,
    MARGIN_SAMPLES,
    N_FFT,
    SAMPLE_RATE_HZ,
    griffin_lim,
    log_mel,
    log_mel_within,
)


def tone(hz: float, seconds: float = 1.0) -> torch.Tensor:
    times = torch.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return 0.3 * torch.sin(2 * torch.pi * hz * times)


def test_equals_an_independent_implementation():
    audio = np.random.default_rng(0).standard_normal(20 * HOP_SAMPLES).astype(np.float32) * 0.1
    filters = mel_filter_bank(
        N_FFT // 2 + 1, 80, 0.0, 8000.0, SAMPLE_RATE_HZ, norm="slaney", mel_scale="slaney"
    )
    expected = spectrogram(
        np.pad(audio, MARGIN_SAMPLES),
        window_function(N_FFT, "hann"),
        N_FFT,
        HOP_SAMPLES,
        power=1.0,
        center=False,
        mel_filters=filters,
        mel_floor=1e-5,
        log_mel="log",
    )
    found = log_mel(torch.from_numpy(audio)[None])[0]
    assert found.shape == (80, 20)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-4)


def test_a_crop_has_the_frames_of_the_whole():
    audio = torch.randn(1, 30 * HOP_SAMPLES)
    whole = log_mel(audio)
    start, stop = 10 * HOP_SAMPLES - MARGIN_SAMPLES, 20 * HOP_SAMPLES + MARGIN_SAMPLES
    torch.testing.assert_close(log_mel_within(audio[:, start:stop]), whole[:, :, 10:20])


def test_no_audio_is_refused():
    with pytest.raises(AudioError, match="no audio"):
        log_mel(torch.zeros(1, 0))


@pytest.mark.parametrize("hz", [220.0, 1000.0, 3000.0])
def test_griffin_lim_finds_the_tone_again(hz: float):
    mel = log_mel(tone(hz)[None])[0]
    audio = griffin_lim(mel, rounds=20)
    assert len(audio) == HOP_SAMPLES * mel.shape[1]
    inner = audio[4096 : 4096 + 8192]
    loudest = torch.fft.rfft(inner * torch.hann_window(8192)).abs().argmax().item()
    assert abs(loudest * SAMPLE_RATE_HZ / 8192 - hz) < 0.06 * hz + 20
    again = log_mel(audio[None])[0][:, 5:-5]
    loud = mel[:, 5:-5] > mel.max() - 3
    assert (again - mel[:, 5:-5])[loud].abs().mean() < 0.5
