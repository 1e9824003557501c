"""Which generated codes are good enough to stand for their words.

A rejected span stays text; the reason is counted. What is too long, too short, looping or poor is
said by real speech: the bounds are quantiles of the code shards the model was trained on. Reasons:

    too_long   the model's positions do not hold the text and its speech (from the engine)
    no_end     the model did not stop where the longest real speech of such a text would have
    empty      it stopped at once
    too_short  shorter than the shortest real speech of such a text
    loop       a stretch of codes repeats itself for longer than in real speech
    collapse   fewer different pairs of codes than in real speech
    misheard   the speech tokenizer's recogniser reads other words (self_check.py)
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..data.code_shards import find_shards, read_code_shard
from ..errors import ConfigError, require_within

_RECORDS, _SHARDS = 20_000, 16  # as many pairs, from as many shards, make the bounds
_FEWEST_RECORDS = 200
_WIDE_BOUNDS_S = (0.02, 0.2)  # seconds per character; a fast speaker takes about 0.05
_LONGEST_PERIOD = 24  # codes: two seconds at 12.5 Hz
_REPEATS = 3  # a stretch that is there three times is a loop
_SHORTEST_LOOP_S = 1.0  # texts of several sentences pause longer than what the bounds are made of
_FEWEST_PAIRS = 15  # fewer say nothing about variety


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Which codes are rejected. What is None is measured on the speech of --like, if that has 200
    records with text."""

    least_seconds_per_character: float | None = None
    """Shorter speech has lost words."""
    most_seconds_per_character: float | None = None
    """Longer speech repeats itself; generation stops there."""
    extra_seconds: float = 1.5
    """Added to the longest speech of a text, for pauses and very short texts."""
    most_loop_seconds: float | None = None
    """Longer stretches that repeat themselves are loops; a measured bound is at least a second."""
    least_different_pairs: float | None = None
    """Smallest share of different pairs among a text's pairs of neighbouring codes."""
    gate_quantile: float = 0.001
    """Share of real speech that lies beyond each measured bound."""
    gate_slack: float = 1.25
    """Measured bounds are wider by this factor."""
    self_check: Path | None = None
    """Speech tokenizer folder; its recogniser then reads every span, and what it reads otherwise
    is rejected. None leaves this out."""
    most_word_errors: float = 0.5
    """Word errors per word from which --self-check rejects a span."""

    def __post_init__(self) -> None:
        least, most = self.least_seconds_per_character, self.most_seconds_per_character
        if (least or 0) < 0 or (most is not None and (least or 0) >= most):
            raise ConfigError(
                "least_seconds_per_character must be at least 0 and below "
                f"most_seconds_per_character; got {least} and {most}"
            )
        require_within(self, 0, "extra_seconds")
        if not 0 <= self.gate_quantile < 0.5 or self.gate_slack < 1:
            raise ConfigError("gate_quantile must be from 0 to 0.5, gate_slack at least 1")


@dataclass(frozen=True)
class SpeechBounds:
    """What real speech does. Speech of n characters is `base + per_character x n` codes long times
    a ratio between `least` and `most`; `loop` is the longest loop, in codes; `pairs` the smallest
    share of different pairs of neighbouring codes."""

    base: float
    per_character: float
    least: float
    most: float
    loop: float
    pairs: float

    def length(self, text: str) -> float:
        """Codes that a text's speech has on average."""
        return self.base + self.per_character * len(text)


def measure_bounds(
    texts: Sequence[str], codes: Sequence[np.ndarray], config: GateConfig
) -> SpeechBounds:
    """Bounds from real texts and their codes (n,), widened by the config's slack."""
    characters = np.array([len(text) for text in texts], dtype=np.float64)
    lengths = np.array([len(array) for array in codes], dtype=np.float64)
    # variance grows with length: weights as of a sum of independent pieces
    slope, base = np.polyfit(characters, lengths, 1, w=1 / np.sqrt(characters))
    base, slope = (base, slope) if base > 0 else (0.0, lengths.sum() / characters.sum())
    ratios = lengths / (base + slope * characters)
    low, high = config.gate_quantile, 1 - config.gate_quantile
    flat, counts = _flat(codes)
    shares = pair_shares(flat, counts)[counts > _FEWEST_PAIRS]
    return SpeechBounds(
        base=float(base),
        per_character=float(slope),
        least=float(np.quantile(ratios, low)) / config.gate_slack,
        most=float(np.quantile(ratios, high)) * config.gate_slack,
        loop=float(np.quantile(longest_loops(flat, counts), high)) * config.gate_slack,
        pairs=float(np.quantile(shares, low)) / config.gate_slack if len(shares) else 0.0,
    )


def real_speech(like: Path) -> tuple[list[str], list[np.ndarray]]:
    """Texts and codes of up to 20,000 records of up to 16 shards, evenly chosen."""
    shards = find_shards(like)
    chosen = [shards[n * len(shards) // _SHARDS] for n in range(_SHARDS)]
    each = -(-_RECORDS // len(set(chosen)))
    pairs: list[tuple[str, np.ndarray]] = []
    for path in dict.fromkeys(chosen):
        _, records = read_code_shard(path)
        usable = [(r.text, r.codes) for r in records if r.text and len(r.codes)]
        pairs += usable[:: max(1, len(usable) // each)][:each]
    return [text for text, _ in pairs], [codes for _, codes in pairs]


class Gates:
    """Bounds on generated codes of `frame_rate_hz` codes a second, for any text.

    `bounds` is None where `like` has too little speech with text to measure any: lengths are then
    checked against wide bounds that any speech keeps, and loops and variety are not looked at.
    """

    def __init__(self, config: GateConfig, like: Path, frame_rate_hz: float):
        self._config, self._rate = config, frame_rate_hz
        texts, codes = real_speech(like)
        enough = len(texts) >= _FEWEST_RECORDS
        self.bounds = None
        if enough:
            found = measure_bounds(texts, codes, config)
            loop = max(found.loop, _SHORTEST_LOOP_S * frame_rate_hz)
            self.bounds = replace(found, loop=loop)

    def least_codes(self, text: str) -> float:
        """Codes that a text's speech has at least."""
        least = self._config.least_seconds_per_character
        if least is None and self.bounds is not None:
            return self.bounds.length(text) * self.bounds.least
        return self._rate * (_WIDE_BOUNDS_S[0] if least is None else least) * len(text)

    def most_codes(self, text: str) -> int:
        """Codes after which a text's speech should have ended."""
        most, extra = self._config.most_seconds_per_character, self._config.extra_seconds
        if most is None and self.bounds is not None:
            return math.ceil(self.bounds.length(text) * self.bounds.most + extra * self._rate)
        return math.ceil(
            self._rate * (extra + (_WIDE_BOUNDS_S[1] if most is None else most) * len(text))
        )

    def reasons(
        self, texts: Sequence[str], codes: Sequence[np.ndarray], ended: Iterable[bool]
    ) -> list[str | None]:
        """For each text why its codes (n,) are not to be used, or None."""
        flat, counts = _flat(codes)
        loops, shares = longest_loops(flat, counts), pair_shares(flat, counts)
        found: list[str | None] = []
        for n, (text, stopped) in enumerate(zip(texts, ended, strict=True)):
            if not stopped:
                found.append("no_end")
            elif not counts[n]:
                found.append("empty")
            elif counts[n] < self.least_codes(text):
                found.append("too_short")
            else:
                found.append(self._monotony(int(counts[n]), int(loops[n]), float(shares[n])))
        return found

    def _monotony(self, count: int, loop: int, pairs: float) -> str | None:
        most, least = self._config.most_loop_seconds, self._config.least_different_pairs
        if most is not None:
            most *= self._rate
        elif self.bounds is not None:
            most = self.bounds.loop
        if least is None and self.bounds is not None:
            least = self.bounds.pairs
        if most is not None and loop > most:
            return "loop"
        if least is not None and count > _FEWEST_PAIRS and pairs < least:
            return "collapse"
        return None


def _flat(codes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    counts = np.array([len(array) for array in codes], dtype=np.int64)
    return np.concatenate([np.zeros(0, np.int64), *codes]), counts


def longest_loops(codes: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Longest stretch that repeats a pattern at least three times, (n,) codes; 0 without one.

    `codes` are the codes of all texts, flat, `lengths` (n,) how many each has. Patterns are of up
    to 24 codes; a single code held on is one of 1.
    """
    owner = np.repeat(np.arange(len(lengths)), lengths)
    longest = np.zeros(len(lengths), np.int64)
    for period in range(1, min(_LONGEST_PERIOD, len(codes) - 1) + 1):
        same = codes[period:] == codes[:-period]
        same &= owner[period:] == owner[:-period]
        edges = np.flatnonzero(np.diff(same, prepend=False, append=False))
        starts, stops = edges[::2], edges[1::2]
        stretch = stops - starts + period
        looping = stretch >= _REPEATS * period
        np.maximum.at(longest, owner[starts[looping]], stretch[looping])
    return longest


def pair_shares(codes: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Different pairs of neighbouring codes among all of a text's pairs, (n,); 1 without pairs.

    `codes` are the codes of all texts, flat, `lengths` (n,) how many each has.
    """
    owner = np.repeat(np.arange(len(lengths)), lengths)
    inside = owner[1:] == owner[:-1]
    size = int(codes.max(initial=0)) + 1
    pair = codes[:-1] * size + codes[1:]
    order = np.lexsort((pair[inside], owner[1:][inside]))
    whose, pair = owner[1:][inside][order], pair[inside][order]
    new = np.ones(len(pair), bool)
    new[1:] = (pair[1:] != pair[:-1]) | (whose[1:] != whose[:-1])
    different = np.bincount(whose[new], minlength=len(lengths))
    return np.where(lengths > 1, different / np.maximum(lengths - 1, 1), 1.0)
