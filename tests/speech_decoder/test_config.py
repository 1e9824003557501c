import pytest

from megatron_speech.errors import ConfigError
from megatron_speech.speech_decoder.config import FlowSamplingConfig, SpeechDecoderConfig
from megatron_speech.speech_decoder.mel import HOP_SAMPLES
from tests.speech_decoder.tiny_decoder import SIZES


@pytest.mark.parametrize(("rate", "samples"), [(50, 441), (25, 882), (12.5, 1764), (6.25, 3528)])
def test_frames_lie_where_their_middles_do(rate: float, samples: int):
    config = SpeechDecoderConfig(frame_rate_hz=rate)
    assert config.samples_per_code == samples
    middles = [HOP_SAMPLES * frame + HOP_SAMPLES // 2 for frame in range(2000)]
    for codes in range(1, 60):
        assert config.frames_until(codes) == sum(m < codes * samples for m in middles)
    hours = round(10 * 3600 * rate)
    assert abs(config.frames_until(hours) * HOP_SAMPLES - hours * samples) <= HOP_SAMPLES // 2


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"frame_rate_hz": 13.0}, "--frame-rate-hz"),
        ({"flow_heads": 3}, "--flow-heads"),
        ({"block_codes": 0}, "--block-codes"),
        ({"lookback_blocks": -1}, "--lookback-blocks"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, flag):
    with pytest.raises(ConfigError, match=flag):
        SpeechDecoderConfig(**SIZES | changes)


@pytest.mark.parametrize(("rate", "codes"), [(50, 40), (25, 20), (12.5, 10), (6.25, 5)])
def test_a_block_lasts_as_long_at_every_frame_rate(rate: float, codes: int):
    config = SpeechDecoderConfig(frame_rate_hz=rate)
    assert config.codes_in_block == codes
    assert SpeechDecoderConfig.from_dict(config.to_dict()).block_codes == codes
    assert SpeechDecoderConfig(frame_rate_hz=rate, block_codes=7).codes_in_block == 7


def test_config_survives_its_file():
    config = SpeechDecoderConfig(**SIZES | {"speakers": ("ann", "bob"), "block_codes": 10})
    assert SpeechDecoderConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match="model_type"):
        SpeechDecoderConfig.from_dict({"model_type": "whisper"})
    with pytest.raises(ConfigError, match="does not make"):
        SpeechDecoderConfig.from_dict(config.to_dict() | {"wings": 2})
    with pytest.raises(ConfigError, match="--euler-steps"):
        FlowSamplingConfig(euler_steps=0)
