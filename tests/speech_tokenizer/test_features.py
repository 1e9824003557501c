"""Features of a batch on a device, against those of each clip."""

import numpy as np
import pytest
import torch

from megatron_speech.speech_tokenizer.config import SpeechTokenizerConfig
from megatron_speech.speech_tokenizer.features import (
    clip_features,
    collate_features,
    device_features,
)


@pytest.mark.parametrize("dynamic_range", ["fixed", "clip_maximum"])
@pytest.mark.parametrize(("bins", "pool"), [(80, 4), (128, 1)])
def test_a_batch_has_the_features_of_its_clips(dynamic_range, bins, pool, make_noise):
    config = SpeechTokenizerConfig(
        mel_dynamic_range=dynamic_range, num_mel_bins=bins, pooling_kernel_size=pool
    )
    lengths = [1, 100, 399, 1280, 16_000, 33_333, 12_345]
    clips = [make_noise(n, seed) * 10.0 ** (seed % 3 - 2) for seed, n in enumerate(lengths)]
    clips = [clip.astype(np.float32) for clip in clips]
    expected, frames = collate_features([clip_features(clip, config) for clip in clips])
    found, valid = device_features(clips, config, torch.device("cpu"))
    assert found.shape == expected.shape
    assert torch.equal(valid, frames)
    assert (found - expected).abs().max() <= 2.4e-7  # two of the last bit near 1


@pytest.mark.parametrize("dynamic_range", ["fixed", "clip_maximum"])
def test_codes_are_the_same_with_either(dynamic_range, make_tokenizer, make_noise, monkeypatch):
    from megatron_speech.speech_tokenizer import tokenizer as module

    tokenizer = make_tokenizer(mel_dynamic_range=dynamic_range)
    clips = [make_noise(n, seed) for seed, n in enumerate(range(700, 60_000, 2_900))]
    expected = tokenizer.encode(clips)
    monkeypatch.setattr(module, "batch_features", device_features)
    for one, two in zip(tokenizer.encode(clips), expected, strict=True):
        np.testing.assert_array_equal(one, two)
