"""Which generated codes are good enough to stand for their words.

Cheap checks that need no recogniser. A rejected span stays text; the reason is counted. One more
reason, too_long, comes from the engine: the model's positions do not hold the text and its speech.
"""

import math
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Bounds on how long speech may be for its text."""

    least_seconds_per_character: float = 0.02
    """Shorter speech has lost words (a fast speaker takes about 0.05 s per letter)."""
    most_seconds_per_character: float = 0.2
    """Longer speech repeats itself."""
    extra_seconds: float = 1.5
    """Allowed on top, for pauses and very short texts."""

    def __post_init__(self) -> None:
        if not 0 <= self.least_seconds_per_character < self.most_seconds_per_character:
            raise ConfigError(
                "least_seconds_per_character must be at least 0 and below "
                "most_seconds_per_character"
            )


def most_codes(text: str, frame_rate_hz: float, config: GateConfig) -> int:
    """Codes after which a text's speech should long have ended."""
    seconds = config.extra_seconds + config.most_seconds_per_character * len(text)
    return math.ceil(frame_rate_hz * seconds)


def reject_reason(
    text: str, codes: np.ndarray, ended: bool, frame_rate_hz: float, config: GateConfig
) -> str | None:
    """Why the codes of `text` are not to be used, or None.

    Reasons: no_end (the model never closed the audio), empty, too_short.
    """
    if not ended:
        return "no_end"
    if not len(codes):
        return "empty"
    if len(codes) < config.least_seconds_per_character * len(text) * frame_rate_hz:
        return "too_short"
    return None
