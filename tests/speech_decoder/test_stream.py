from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from megatron_speech.recipes.speech_decoder import RECIPES
from megatron_speech.speech_decoder.config import FlowSamplingConfig
from megatron_speech.speech_decoder.mel import HOP_SAMPLES, SAMPLE_RATE_HZ
from megatron_speech.speech_decoder.stream import VocoderStream
from megatron_speech.speech_decoder.vocoder import IstftVocoder
from tests.speech_decoder.tiny_decoder import random_codes, tiny_decoder, tiny_vocoder


def streamed(decoder, codes: np.ndarray, size: int, seed: int = 0) -> np.ndarray:
    stream = decoder.stream(seed)
    parts = [stream.feed(codes[start : start + size]) for start in range(0, len(codes), size)]
    return np.concatenate([*parts, stream.finish()])


@pytest.mark.parametrize("vocoder", ["istft", "hifigan"])
@pytest.mark.parametrize("count", [1, 9, 10, 11, 20, 67])
def test_streaming_equals_offline(vocoder: str, count: int):
    decoder, codes = tiny_decoder(vocoder), random_codes(count)
    offline = decoder.decode(codes)
    assert np.abs(offline).max() > 1e-3
    assert abs(len(offline) - count * decoder.config.samples_per_code) <= HOP_SAMPLES // 2
    for size in (1, 7, 64):
        found = streamed(decoder, codes, size)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, offline, atol=1e-4 * np.abs(offline).max(), rtol=0)


@pytest.mark.parametrize("rate", [50.0, 25.0, 6.25])
def test_streaming_equals_offline_at_other_frame_rates(rate: float):
    decoder = tiny_decoder(frame_rate_hz=rate, block_codes=max(int(0.8 * rate), 1))
    codes = random_codes(int(2.5 * rate) + 1)
    offline = decoder.decode(codes)
    found = streamed(decoder, codes, 3)
    np.testing.assert_allclose(found, offline, atol=1e-4 * np.abs(offline).max(), rtol=0)


@pytest.mark.parametrize("kind", ["istft", "hifigan"])
def test_a_vocoder_looks_no_farther_than_it_says(kind: str):
    vocoder = tiny_vocoder(kind)
    reach, middle = vocoder.context_frames, 60
    mel = torch.randn(1, 80, 121)
    changed = mel.clone()
    changed[:, :, middle] += 3
    with torch.no_grad():
        difference = (vocoder(mel) - vocoder(changed))[0].abs().view(121, HOP_SAMPLES).amax(dim=1)
    touched = difference.nonzero().flatten()
    assert middle in touched
    assert middle - reach <= touched.min()
    assert touched.max() <= middle + reach
    assert reach <= (touched.max() - middle) + 6  # and says not much more than it needs


def test_audio_comes_as_soon_as_it_can():
    decoder = tiny_decoder()
    stream, codes = decoder.stream(), random_codes(10)
    assert not len(stream.feed(codes[:9]))
    audio = stream.feed(codes[9:])
    ready = decoder.config.frames_until(10) - decoder.vocoder.context_frames
    assert len(audio) == ready * HOP_SAMPLES


def test_a_stream_starts_anew_after_its_end():
    decoder, codes = tiny_decoder(), random_codes(25)
    stream = decoder.stream()
    assert not len(stream.finish())
    first = np.concatenate([stream.feed(codes), stream.finish()])
    again = np.concatenate([stream.feed(codes), stream.finish()])
    np.testing.assert_array_equal(first, again)
    assert not len(stream.finish())


def test_nothing_to_say_is_nothing_said():
    decoder = tiny_decoder()
    assert decoder.decode(np.zeros(0, np.int64)).shape == (0,)
    assert decoder.stream().feed(np.zeros(0, np.int64)).shape == (0,)


def test_a_vocoder_stream_of_single_frames():
    vocoder = tiny_vocoder()
    mel = torch.randn(80, 50)
    stream = VocoderStream(vocoder)
    parts = [stream.feed(mel[:, n : n + 1], last=n == 49) for n in range(50)]
    with torch.no_grad():
        whole = vocoder(mel[None])[0]
    torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=0)


def jump_at(joints: np.ndarray, audio: np.ndarray) -> float:
    """Steepest step between neighbouring samples near a joint, over the steepest 1e-4 elsewhere."""
    steps = np.abs(np.diff(audio))
    near = np.zeros(len(steps), bool)
    for joint in joints:
        near[joint - 40 : joint + 40] = True
    return steps[near].max() / np.quantile(steps[~near], 0.9999)


def test_no_click_where_blocks_or_pieces_of_sound_meet():
    decoder = tiny_decoder(sampling=FlowSamplingConfig(euler_steps=4, guidance=0.7))
    codes = random_codes(200)
    stream = decoder.stream()
    parts = [stream.feed(codes[start : start + 10]) for start in range(0, 200, 10)]
    audio = np.concatenate([*parts, stream.finish()])
    blocks = np.arange(10, 200, 10) * decoder.config.samples_per_code
    pieces = np.cumsum([len(part) for part in parts])  # earlier by what the vocoder holds back
    held_back = decoder.vocoder.context_frames * HOP_SAMPLES
    np.testing.assert_allclose(blocks - pieces[:-1], held_back, atol=HOP_SAMPLES)
    for joints in (blocks, pieces):
        assert jump_at(joints, audio) < 1.5
        clicking = audio.copy()
        clicking[joints] += 2 * np.abs(np.diff(audio)).max()
        assert jump_at(joints, clicking) > 1.5  # spikes are not their own measure


@pytest.mark.parametrize("vocoder", ["istft", "hifigan"])
def test_the_cost_of_a_block_of_sound_does_not_grow(vocoder: str):
    decoder = tiny_decoder(vocoder, sampling=FlowSamplingConfig(euler_steps=1, guidance=0.0))
    stream, codes, flops = decoder.stream(), random_codes(10), {}
    for block in range(1, 101):
        counter = FlopCounterMode(display=False) if block in (5, 100) else nullcontext()
        with counter:
            stream.feed(codes)
        if block in (5, 100):
            flops[block] = counter.get_total_flops()
    with FlopCounterMode(display=False) as alone, torch.no_grad():
        decoder.vocoder(torch.zeros(1, 80, 69))
    assert flops[5] > alone.get_total_flops() > 0  # the vocoder is in it
    assert flops[100] <= 1.2 * flops[5]


def test_the_page_says_how_much_sound_is_held_back():
    recipe = RECIPES["vocoder-debug"]()
    frames = IstftVocoder(recipe.istft).context_frames
    page = (Path(__file__).parents[2] / "docs" / "speech_decoder.md").read_text()
    seconds = frames * HOP_SAMPLES / SAMPLE_RATE_HZ
    assert f"({frames} frames, {seconds:.3f} s, in the debug vocoder)" in page
