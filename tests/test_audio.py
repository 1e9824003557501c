"""Reading recordings, and the log-mel spectrogram against transformers' own."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import WhisperFeatureExtractor

from megatron_speech import audio
from megatron_speech.errors import AudioError, ConfigError


def tone(seconds: float, rate_hz: int = 16_000, seed: int = 0) -> np.ndarray:
    """A few partials with noise; peak about 0.5."""
    time_s = np.arange(int(seconds * rate_hz)) / rate_hz
    noise = 0.02 * np.random.default_rng(seed).standard_normal(time_s.size)
    partials = sum(0.15 * np.sin(2 * np.pi * f * time_s) for f in (220, 880, 2500))
    return (partials + noise).astype(np.float32)


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("seconds", [0.5, 3.217])
def test_log_mel_equals_whisper(n_mels: int, seconds: float) -> None:
    waveform = tone(seconds)
    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    expected = extractor(waveform, sampling_rate=16_000, padding="do_not_pad").input_features[0]
    ours = audio.log_mel(torch.from_numpy(waveform)[None], n_mels)[0].numpy()
    assert ours.shape == (n_mels, len(waveform) // 160)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_log_mel_equals_whisper_padded_to_30_s() -> None:
    waveform = tone(2.0)
    expected = WhisperFeatureExtractor()(waveform, sampling_rate=16_000).input_features[0]
    padded = np.pad(waveform, (0, 480_000 - len(waveform)))
    ours = audio.log_mel(torch.from_numpy(padded)[None])[0].numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_fixed_range_is_local_in_time() -> None:
    """The future changes no frame whose window it does not reach; the clipped range does."""
    first = torch.from_numpy(tone(1.0))
    later = first.clone()
    later[8000:] *= 30.0
    frames = (8000 - audio.WINDOW_SAMPLES // 2) // audio.HOP_SAMPLES + 1
    before, after = (audio.log_mel(x[None], dynamic_range="fixed")[0] for x in (first, later))
    assert torch.equal(before[:, :frames], after[:, :frames])
    assert not torch.equal(before, after)
    quiet = first * 1e-4
    quiet[8000:] = later[8000:]
    before, after = (audio.log_mel(x[None])[0] for x in (first * 1e-4, quiet))
    assert not torch.allclose(before[:, :frames], after[:, :frames], atol=1e-2)


def test_fixed_range_ignores_padding_and_batch() -> None:
    short, long = torch.from_numpy(tone(0.7)), torch.from_numpy(tone(1.3, seed=1))
    batch = torch.zeros(2, long.numel())
    batch[0, : short.numel()], batch[1] = short, long
    together = audio.log_mel(batch, dynamic_range="fixed")
    frames = short.numel() // audio.HOP_SAMPLES
    for row, alone in ((0, short), (1, long)):
        single = audio.log_mel(alone[None], dynamic_range="fixed")[0]
        torch.testing.assert_close(together[row, :, : single.shape[1]], single, atol=1e-5, rtol=0)
    assert together[0, :, frames + 2 :].max() == (audio.FIXED_FLOOR_LOG10 + 4) / 4


def test_log_mel_refuses_nonsense() -> None:
    with pytest.raises(ConfigError, match="clip_maximum"):
        audio.log_mel(torch.zeros(1, 16_000), dynamic_range="loud")  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="too few"):
        audio.log_mel(torch.zeros(1, 200))


@pytest.mark.parametrize(("rate_hz", "channels"), [(16_000, 1), (8_000, 1), (44_100, 2)])
def test_any_rate_and_channels_become_16_khz_mono(
    tmp_path: Path, rate_hz: int, channels: int
) -> None:
    samples = np.sin(2 * np.pi * 440 * np.arange(rate_hz) / rate_hz).astype(np.float32) * 0.5
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([samples] * channels, axis=1), rate_hz, subtype="FLOAT")
    waveform = audio.read_audio(path)
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert abs(waveform.size - 16_000) <= 1
    spectrum = np.abs(np.fft.rfft(waveform[:16_000]))
    assert spectrum.argmax() == 440
    assert abs(np.abs(waveform[2000:-2000]).max() - 0.5) < 0.01


def write_wav(path: Path, waveform: np.ndarray) -> Path:
    soundfile.write(path, waveform, 16_000, subtype="FLOAT")
    return path


def reason_for(path: Path) -> str:
    with pytest.raises(AudioError) as caught:
        audio.read_audio(path)
    assert path.name in str(caught.value)
    return caught.value.reason


def test_bad_recordings_are_refused_with_a_reason(tmp_path: Path) -> None:
    good = tone(1.0)
    hole, endless = good.copy(), good.copy()
    hole[100], endless[-1] = np.nan, np.inf
    assert reason_for(tmp_path / "nowhere.wav") == "missing"
    assert reason_for(write_wav(tmp_path / "empty.wav", good[:0])) == "empty"
    assert reason_for(write_wav(tmp_path / "silent.wav", good * 0)) == "silent"
    assert reason_for(write_wav(tmp_path / "nan.wav", hole)) == "not_finite"
    assert reason_for(write_wav(tmp_path / "inf.wav", endless)) == "not_finite"
    soundfile.write(tmp_path / "click.wav", good[1:2], 48_000, subtype="FLOAT")
    assert reason_for(tmp_path / "click.wav") == "empty"
    soundfile.write(tmp_path / "nan48.wav", hole, 48_000, subtype="FLOAT")
    assert reason_for(tmp_path / "nan48.wav") == "not_finite"
    (tmp_path / "headerless.raw").write_bytes(b"1234")
    assert reason_for(tmp_path / "headerless.raw") == "unreadable"
    text = tmp_path / "text.flac"
    text.write_text("this is no audio")
    assert reason_for(text) == "unreadable"
    audio.read_audio(write_wav(tmp_path / "good.wav", good))


@pytest.mark.parametrize("suffix", ["flac", "wav"])
def test_a_recording_cut_short_is_refused(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole.{suffix}"
    soundfile.write(whole, tone(2.0), 16_000, subtype="PCM_16")
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert reason_for(cut) == "unreadable"


@pytest.mark.parametrize(
    ("rate_hz", "channels", "subtype", "container"),
    [
        (16_000, 8, "PCM_16", "WAV"),
        (192_000, 2, "PCM_24", "WAV"),
        (16_000, 1, "IMA_ADPCM", "WAV"),  # four bits a sample
        (22_050, 1, "PCM_U8", "WAV"),
        (48_000, 1, "VORBIS", "OGG"),
        (16_000, 1, "PCM_16", "FLAC"),
    ],
)
def test_odd_but_whole_recordings_are_read(
    tmp_path: Path, rate_hz: int, channels: int, subtype: str, container: str
) -> None:
    """Under a name that does not say what they are: the content decides."""
    samples = np.sin(2 * np.pi * 440 * np.arange(rate_hz) / rate_hz).astype(np.float32) * 0.5
    path = tmp_path / "mislabelled.wav"
    frames = np.stack([samples] * channels, axis=1)
    soundfile.write(path, frames, rate_hz, subtype=subtype, format=container)
    waveform = audio.read_audio(path)
    assert abs(waveform.size - 16_000) <= 600  # ADPCM is written in whole blocks
    assert np.abs(np.fft.rfft(waveform[:16_000])).argmax() == 440


@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
def test_long_recordings_are_read_block_by_block_to_the_same_samples(
    tmp_path: Path, rate_hz: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([tone(2.0, rate_hz)] * 2, axis=1), rate_hz, subtype="FLOAT")
    whole = audio.read_audio(path)
    np.testing.assert_array_equal(whole, audio.resample(tone(2.0, rate_hz), rate_hz))
    monkeypatch.setattr(audio, "_BLOCK_FRAMES", 1_000)
    np.testing.assert_array_equal(audio.read_audio(path), whole)


def test_samples_far_beyond_full_scale_are_refused(tmp_path: Path) -> None:
    assert reason_for(write_wav(tmp_path / "a.wav", tone(1.0) * 32_768)) == "out_of_range"
    audio.read_audio(write_wav(tmp_path / "b.wav", tone(1.0) * 4))  # merely clipped elsewhere


def test_sound_above_8_khz_alone_is_silence_at_16_khz(tmp_path: Path) -> None:
    time_s = np.arange(48_000) / 48_000
    ultrasound = (0.5 * np.sin(2 * np.pi * 20_000 * time_s) * np.hanning(48_000)).astype(np.float32)
    path = tmp_path / "ultrasound.wav"
    soundfile.write(path, ultrasound, 48_000, subtype="FLOAT")
    assert reason_for(path) == "silent"


def test_excerpts_are_the_samples_they_name(tmp_path: Path) -> None:
    left, right = tone(3.0), tone(3.0, seed=1)
    path = tmp_path / "a.wav"
    soundfile.write(path, np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    part = audio.Excerpt(start_s=0.5, duration_s=1.25, channels=(1,))
    np.testing.assert_array_equal(audio.read_audio(path, part), right[8_000:28_000])
    np.testing.assert_array_equal(
        audio.read_audio(path, audio.Excerpt(start_s=2.9)), (left + right)[46_400:] / 2
    )
    rounded = audio.Excerpt(start_s=2.5, duration_s=0.51)  # 10 ms too long
    assert len(audio.read_audio(path, rounded)) == 8_000
    for wrong, reason in (
        (audio.Excerpt(start_s=3.0), "outside"),
        (audio.Excerpt(start_s=-0.1), "outside"),
        (audio.Excerpt(start_s=2.5, duration_s=0.6), "outside"),
        (audio.Excerpt(channels=(2,)), "no_channel"),
        (audio.Excerpt(channels=()), "no_channel"),
        (audio.Excerpt(duration_s=0.0), "empty"),
    ):
        with pytest.raises(AudioError) as caught:
            audio.read_audio(path, wrong)
        assert caught.value.reason == reason
