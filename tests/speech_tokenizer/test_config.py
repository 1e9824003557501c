import pytest

from megatron_speech.errors import ConfigError
from megatron_speech.speech_tokenizer.config import SpeechTokenizerConfig


@pytest.mark.parametrize(("pool", "rate_hz"), [(1, 50.0), (2, 25.0), (4, 12.5), (8, 6.25)])
def test_frame_rates_are_exact(pool, rate_hz):
    config = SpeechTokenizerConfig(pooling_kernel_size=pool, quantize_causal_block_size=200)
    assert config.frame_rate_hz == rate_hz
    assert config.samples_per_code * rate_hz == 16000
    assert config.code_positions == -(-1500 // pool)
    assert config.window_samples == config.codes_per_window * config.samples_per_code
    assert 0 <= 480_000 - config.window_samples < config.samples_per_code


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pooling_kernel_size": 3}, "not exact"),
        ({"quantize_position": 8}, "must not decrease"),
        ({"quantize_position": 40}, "must not decrease"),
        ({"quantize_causal_block_size": 50}, "multiple"),
        ({"encoder_attention_heads": 7}, "heads"),
        ({"asr_decoding": "ctc"}, "CTC output"),
        ({"quantize_ema_decay": 1.0}, "decay"),
        ({"quantize_vocab_size": 1}, "vocab"),
    ],
)
def test_impossible_shapes_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        SpeechTokenizerConfig(**changes)


def test_round_trip_through_the_released_layout():
    config = SpeechTokenizerConfig(quantize_vocab_size=99, ctc_head=True)
    assert SpeechTokenizerConfig.from_dict(config.to_dict() | {"unknown": 1}) == config
    with pytest.raises(ConfigError, match="no speech tokenizer"):
        SpeechTokenizerConfig.from_dict({"d_model": 4})


def test_dead_code_threshold_is_the_released_rule_unless_set():
    config = SpeechTokenizerConfig(quantize_ema_decay=0.99, quantize_restart_interval=100)
    assert config.restart_threshold == pytest.approx(0.99**100)
    assert SpeechTokenizerConfig(quantize_restart_threshold=0.1).restart_threshold == 0.1
