from dataclasses import dataclass

import pytest

from megatron_speech.errors import ConfigError, require_within


@dataclass
class _Config:
    batch_size: int = 1
    silence_s: float = 2.0
    limit: int | None = None


def test_settings_within_their_bounds_pass():
    require_within(_Config(), 1, "batch_size", "limit")
    require_within(_Config(), 0, "silence_s", most=2)


@pytest.mark.parametrize("value", [0, float("nan"), float("inf"), float("-inf")])
def test_the_flag_its_value_and_what_is_expected_are_named(value):
    with pytest.raises(ConfigError, match=rf"--batch-size is {value}; expected at least 1"):
        require_within(_Config(batch_size=value), 1, "limit", "batch_size")


def test_an_upper_bound_is_named():
    with pytest.raises(ConfigError, match=r"--silence-s is 2\.5; expected 0 to 2"):
        require_within(_Config(silence_s=2.5), 0, "silence_s", most=2)
