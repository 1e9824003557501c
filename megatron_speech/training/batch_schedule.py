"""Which windows a step reads: global batches of one size, or of sizes that change on the way."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..errors import ConfigError

_FLAG = "--step-batch-size-schedule"
_SUFFIXES = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


@dataclass(frozen=True, kw_only=True)
class BatchSchedule:
    """Global batches in the order of the data, each known by its number alone.

    `schedule` reads as Megatron's: `0:64 1B:128 10B:256` takes 64 windows a step from token 0 on,
    128 once 1e9 tokens are read, and so on; None takes `global_batch_size` always.

    Raises:
        ConfigError: the schedule cannot be read or does not end at `global_batch_size`.
    """

    global_batch_size: int
    schedule: str | None
    seq_length: int
    _parts: tuple[tuple[int, int, int], ...] = field(init=False, repr=False)
    """First batch, first window and windows a batch, of each part with one size."""

    def __post_init__(self) -> None:
        steps = [(0, self.global_batch_size)]
        if self.schedule is not None:
            steps = [(tokens // self.seq_length, size) for tokens, size in _parse(self.schedule)]
        if steps[-1][1] != self.global_batch_size:
            raise ConfigError(
                f"{_FLAG} {self.schedule!r} ends at {steps[-1][1]} windows, but "
                f"--global-batch-size is {self.global_batch_size}; make them equal"
            )
        batch = window = 0
        parts = []
        for index, (threshold, size) in enumerate(steps):
            if index:  # the batch under way goes over the threshold
                batches = -(-max(threshold - window, 0) // steps[index - 1][1])
                batch, window = batch + batches, window + batches * steps[index - 1][1]
            parts.append((batch, window, size))
        object.__setattr__(self, "_parts", tuple(parts))

    def first(self, number: int) -> int:
        """Windows read before batch `number` (0-based)."""
        batch, window, size = self._part(number)
        return window + (number - batch) * size

    def size(self, number: int) -> int:
        """Windows in batch `number`."""
        return self._part(number)[2]

    def sizes(self) -> list[int]:
        """All sizes that are asked for."""
        return sorted({size for *_, size in self._parts})

    def _part(self, number: int) -> tuple[int, int, int]:
        return self._parts[bisect_right(self._parts, number, key=lambda part: part[0]) - 1]


def micro_batches(
    first: int, size: int, micro_batch_size: int, replicas: int, replica: int
) -> Iterator[range]:
    """The windows `replica` of `replicas` reads of a global batch, `first` .. `first + size`.

    One range for each micro-batch. `size` is a multiple of `micro_batch_size` x `replicas`.
    """
    for low in range(first, first + size, micro_batch_size * replicas):
        begin = low + replica * micro_batch_size
        yield range(begin, begin + micro_batch_size)


def _parse(schedule: str) -> list[tuple[int, int]]:
    """Tokens and windows of each entry."""
    entries = []
    for entry in schedule.replace(",", " ").split():
        tokens, _, size = entry.partition(":")
        try:
            entries.append((_number(tokens), _number(size)))
        except ValueError:
            entries.append((-1, -1))
        if entries[-1][0] < 0 or entries[-1][1] < 1:
            raise ConfigError(
                f"{_FLAG} {schedule!r}: {entry!r} is no TOKENS:WINDOWS; expected as '0:64 1B:128'"
            )
    thresholds = [tokens for tokens, _ in entries]
    if not entries or thresholds[0] != 0 or thresholds != sorted(set(thresholds)):
        raise ConfigError(
            f"{_FLAG} {schedule!r} must begin at token 0 and name growing numbers of tokens"
        )
    return entries


def _number(text: str) -> int:
    text = text.strip().upper()
    factor = _SUFFIXES.get(text[-1:], 1)
    return int(float(text[:-1] if factor > 1 else text) * factor)
