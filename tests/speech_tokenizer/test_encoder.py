from dataclasses import replace

import pytest
import torch

from megatron_speech.speech_tokenizer.encoder import SpeechTokenizerEncoder, attention_mask
from megatron_speech.speech_tokenizer.features import clip_features, collate_features

LOOK_AHEAD_SAMPLES = 40  # 2.5 ms: what the last frame's 25 ms window sees past the block


def hidden_of(encoder, audio):
    mel, lengths = collate_features([clip_features(audio, encoder.shape)])
    with torch.no_grad():
        return encoder.lower(mel, lengths)[0][0]


@pytest.fixture
def encoder(tiny_config):
    torch.manual_seed(0)
    return SpeechTokenizerEncoder(tiny_config).eval()


def test_vectors_at_the_quantizer_stay_fp32_under_autocast(encoder, make_noise):
    """What training passes to the look-up: the fp32 positions make the residual stream fp32."""
    with torch.autocast("cpu", torch.bfloat16):
        assert hidden_of(encoder, make_noise(16_000)).dtype == torch.float32


def test_block_mask_by_hand():
    valid = torch.tensor([[True, True, True, True, True, False]])
    allowed = attention_mask(valid, block_size=2, causal=False, dtype=torch.float32)[0, 0] == 0
    expected = [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 0],
    ]
    assert allowed.int().tolist() == expected


def test_causal_and_full_masks():
    valid = torch.tensor([[True, True, False]])
    causal = attention_mask(valid, None, causal=True, dtype=torch.float32)[0, 0] == 0
    assert causal.int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 0]]
    full = attention_mask(valid, None, causal=False, dtype=torch.float32)[0, 0] == 0
    assert full.int().tolist() == [[1, 1, 0]] * 3


def test_later_audio_never_changes_a_finished_block(encoder, make_noise):
    block = 16 * 320  # samples of one block
    audio = make_noise(3 * block)
    changed = audio.copy()
    changed[2 * block + LOOK_AHEAD_SAMPLES :] = make_noise(len(changed), seed=5)[
        2 * block + LOOK_AHEAD_SAMPLES :
    ]
    before, after = hidden_of(encoder, audio), hidden_of(encoder, changed)
    codes_per_block = 4
    torch.testing.assert_close(after[: 2 * codes_per_block], before[: 2 * codes_per_block])
    assert not torch.allclose(after[2 * codes_per_block :], before[2 * codes_per_block :])


def test_audio_inside_a_block_changes_its_first_code(encoder, make_noise):
    audio = make_noise(2 * 16 * 320)
    changed = audio.copy()
    changed[-2000:] = 0.0  # the end of the second block
    before, after = hidden_of(encoder, audio), hidden_of(encoder, changed)
    assert not torch.allclose(after[4], before[4], atol=1e-4)


def test_the_causality_test_can_fail(tiny_config, make_noise):
    torch.manual_seed(0)
    open_config = replace(tiny_config, encoder_causal_convolution=False)
    encoder = SpeechTokenizerEncoder(replace(open_config, quantize_causal_block_size=None)).eval()
    audio = make_noise(3 * 5120)
    changed = audio.copy()
    changed[2 * 5120 + LOOK_AHEAD_SAMPLES :] = 0.0
    before, after = hidden_of(encoder, audio), hidden_of(encoder, changed)
    assert not torch.allclose(after[:8], before[:8], atol=1e-4)


@pytest.mark.parametrize(("samples", "codes"), [(1, 1), (1280, 1), (1281, 2), (16000, 13)])
def test_one_code_for_every_begun_80_ms(encoder, samples, codes, make_noise):
    mel, lengths = collate_features(
        [
            clip_features(make_noise(samples), encoder.shape),
            clip_features(make_noise(40000), encoder.shape),
        ]
    )
    with torch.no_grad():
        valid = encoder.lower(mel, lengths).valid
    assert valid.sum(dim=1).tolist() == [codes, 32]


def test_pool_averages_whole_groups(encoder):
    frames = torch.arange(8.0)[None, :, None].repeat(1, 1, 2)
    assert encoder._pool(frames)[0, :, 0].tolist() == [1.5, 5.5]
    encoder.shape = replace(encoder.shape, pooling_type="max")
    assert encoder._pool(frames)[0, :, 0].tolist() == [3.0, 7.0]


def test_padding_does_not_change_valid_frames(encoder, make_noise):
    short = clip_features(make_noise(20000), encoder.shape)
    long = clip_features(make_noise(60000, seed=1), encoder.shape)
    with torch.no_grad():
        alone = encoder(*collate_features([short]))
        mixed = encoder(*collate_features([short, long]))
    count = int(alone.valid.sum())
    torch.testing.assert_close(
        mixed.hidden[0, :count], alone.hidden[0, :count], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("attention", ["sdpa"])
def test_attention_implementations_agree(tiny_config, attention, make_noise):
    torch.manual_seed(0)
    eager = SpeechTokenizerEncoder(tiny_config).eval()
    other = SpeechTokenizerEncoder(tiny_config, attention).eval()
    other.load_state_dict(eager.state_dict())
    mel, lengths = collate_features(
        [clip_features(make_noise(n), tiny_config) for n in (9000, 30000)]
    )
    with torch.no_grad():
        a, b = eager(mel, lengths), other(mel, lengths)
    torch.testing.assert_close(b.hidden[a.valid], a.hidden[a.valid], rtol=1e-4, atol=1e-4)
