"""Streaming: the codes of the whole clip, whatever the chunks, at a cost that does not grow."""

import numpy as np
import pytest
import torch

from megatron_speech.errors import AudioError, ConfigError
from megatron_speech.speech_tokenizer import SpeechTokenizer
from tests.speech_tokenizer.conftest import noise

BLOCK_SAMPLES = 16 * 320  # of the tiny tokenizer: 320 ms, 4 codes
LOOK_AHEAD_SAMPLES = 40


def streamed(tokenizer: SpeechTokenizer, audio: np.ndarray, cuts: list[int]) -> np.ndarray:
    stream = tokenizer.stream()
    parts = [stream.feed(chunk) for chunk in np.split(audio, cuts)]
    return np.concatenate([*parts, stream.finish()])


def random_cuts(audio: np.ndarray, random: np.random.Generator) -> list[int]:
    """Chunks of all sizes: single samples, a few, many seconds, none."""
    sizes = np.exp(random.uniform(0, np.log(60_000), 400)).astype(int)
    return [cut for cut in np.cumsum(sizes).tolist() if cut < len(audio)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pooling_type": "max", "quantize_position": 3},
        {"pooling_kernel_size": 1, "quantize_causal_block_size": 10},
        {"pooling_kernel_size": 8, "max_source_positions": 150},  # windows are 18 whole codes
        {"max_source_positions": 40},  # windows of two and a half blocks
        {"quantize_causal_block_size": None, "encoder_causal_attention": True},
        {"quantize_causal_encoder": True, "quantize_position": 3},
    ],
    ids=str,
)
def test_any_chunks_give_the_codes_of_the_whole_clip(make_tokenizer, changes):
    tokenizer = make_tokenizer(**changes)
    random = np.random.default_rng(0)
    for number, samples in enumerate((1, 799, 1280, 3 * BLOCK_SAMPLES, 50_001)):
        audio = noise(samples, number)
        whole = tokenizer.encode([audio])[0]
        for _ in range(2):
            found = streamed(tokenizer, audio, random_cuts(audio, random))
            np.testing.assert_array_equal(found, whole)


def test_codes_come_as_soon_as_their_block_is_there(make_tokenizer):
    tokenizer = make_tokenizer()
    audio = noise(3 * BLOCK_SAMPLES)
    whole = tokenizer.encode([audio])[0]
    stream = tokenizer.stream()
    assert stream.feed(audio[: BLOCK_SAMPLES - 1]).size == 0
    first = stream.feed(audio[BLOCK_SAMPLES - 1 : BLOCK_SAMPLES])
    np.testing.assert_array_equal(first, whole[:4])
    rest = stream.feed(audio[BLOCK_SAMPLES:])
    np.testing.assert_array_equal(rest, whole[4:])
    assert stream.finish().size == 0


def test_a_stream_can_be_used_again(make_tokenizer):
    tokenizer = make_tokenizer()
    stream = tokenizer.stream()
    assert stream.finish().size == 0
    for seed in (1, 2):
        audio = noise(30_000, seed)
        found = np.concatenate([stream.feed(audio), stream.feed(audio[:0]), stream.finish()])
        np.testing.assert_array_equal(found, tokenizer.encode([audio])[0])


def test_later_audio_changes_no_code_of_a_finished_block(make_tokenizer):
    tokenizer = make_tokenizer()
    random = np.random.default_rng(3)
    for trial in range(20):
        blocks = int(random.integers(1, 4))
        audio = noise(4 * BLOCK_SAMPLES + int(random.integers(1, BLOCK_SAMPLES)), trial)
        cut = blocks * BLOCK_SAMPLES + LOOK_AHEAD_SAMPLES
        changed = audio.copy()
        changed[cut:] = noise(len(audio), 100 + trial)[cut:] * float(random.uniform(0, 5))
        before, after = tokenizer.encode([audio]), tokenizer.encode([changed])
        np.testing.assert_array_equal(after[0][: 4 * blocks], before[0][: 4 * blocks])
        shorter = tokenizer.encode([audio[:cut]])[0]
        np.testing.assert_array_equal(shorter[: 4 * blocks], before[0][: 4 * blocks])
        assert (after[0] != before[0]).any()


def test_with_whispers_floor_only_a_rising_maximum_changes_codes(make_tokenizer):
    """A clip whose loudest sound is in its first block streams exactly; another one need not."""
    tokenizer = make_tokenizer(mel_dynamic_range="clip_maximum")
    loud_first = noise(6 * BLOCK_SAMPLES)
    loud_first[BLOCK_SAMPLES:] *= 0.3
    whole = tokenizer.encode([loud_first])[0]
    np.testing.assert_array_equal(streamed(tokenizer, loud_first, [777, 9_000]), whole)
    one_block = noise(BLOCK_SAMPLES - 300, 1)
    found = streamed(tokenizer, one_block, [100])
    np.testing.assert_array_equal(found, tokenizer.encode([one_block])[0])
    rising = 3 * noise(6 * BLOCK_SAMPLES)  # offline, its loud end lifts the floor of the whole clip
    tone = 0.01 * np.sin(np.arange(5 * BLOCK_SAMPLES) ** 1.2 * 0.03)
    rising[: len(tone)] = tone
    assert (streamed(tokenizer, rising, []) != tokenizer.encode([rising])[0]).any()


def test_work_per_block_is_bounded_by_the_window(make_tokenizer):
    """Keys seen by a block: all of its window, never more, and none are computed twice."""
    tokenizer = make_tokenizer(max_source_positions=64)  # windows of 4 blocks
    layer = tokenizer.model.encoder.layers[0].self_attn
    queries, keys = [], []
    layer.q_proj.register_forward_hook(lambda _, args, __: queries.append(args[0].shape[1]))
    layer.register_forward_hook(
        lambda _, __, kwargs, ___: keys.append(kwargs["attention_mask"].shape[-1]), with_kwargs=True
    )
    streamed(tokenizer, noise(8 * BLOCK_SAMPLES), [5_000, 20_000])
    assert queries == [16] * 8
    assert keys == [16, 32, 48, 64] * 2


def test_what_cannot_stream_says_so(make_tokenizer):
    for changes, words in (
        ({"encoder_causal_convolution": False}, "look ahead"),
        ({"quantize_causal_block_size": None}, "whole clip"),
        ({"quantize_vocab_size": None}, "no codes"),
    ):
        with pytest.raises(ConfigError, match=words):
            make_tokenizer(**changes).stream()


@pytest.mark.parametrize(
    ("chunk", "words"),
    [
        (np.zeros((2, 100), np.float32), "mono"),
        (np.zeros(100, np.int16), "float"),
        (np.full(100, np.nan, np.float32), "NaN"),
        (np.full(100, 20_000.0, np.float32), "32768"),
    ],
)
def test_unusable_chunks_are_refused_and_change_nothing(make_tokenizer, chunk, words):
    tokenizer = make_tokenizer()
    audio = noise(20_000)
    stream = tokenizer.stream()
    parts = [stream.feed(audio[:9_000])]
    with pytest.raises(AudioError, match=words):
        stream.feed(chunk)
    parts += [stream.feed(audio[9_000:]), stream.finish()]
    np.testing.assert_array_equal(np.concatenate(parts), tokenizer.encode([audio])[0])


def test_streams_of_a_rounded_encoder(make_tokenizer, tmp_path):
    make_tokenizer().save_pretrained(tmp_path)
    tokenizer = SpeechTokenizer.from_pretrained(tmp_path, dtype=torch.bfloat16)
    audio = noise(30_000)
    found = streamed(tokenizer, audio, [1_000])
    assert (found == tokenizer.encode([audio])[0]).mean() > 0.7
