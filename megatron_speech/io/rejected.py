"""Items that a bulk job sets aside: one record each, one file, counts by reason."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from .files import json_text, read_bytes, write_text


@dataclass(frozen=True)
class Rejected:
    """An item set aside: why (a short reason to count by) and what came (`detail`).

    Halves of surrogate pairs in `id` and `detail` are spelled out (`\\ud800`): UTF-8 has none.
    """

    id: str
    reason: str
    detail: str = ""

    def __post_init__(self) -> None:
        for name in ("id", "detail"):
            text = getattr(self, name)
            if not text.isascii():
                written = text.encode("utf-8", "backslashreplace").decode("utf-8")
                object.__setattr__(self, name, written)


def count_reasons(rejected: Iterable[Rejected]) -> dict[str, int]:
    """How many were set aside for each reason, by name."""
    return dict(sorted(Counter(item.reason for item in rejected).items()))


def write_rejected(path: Path, rejected: Iterable[Rejected]) -> dict[str, int]:
    """Write the items set aside as JSON lines and return counts by reason.

    Without items no file is left there.
    """
    items = list(rejected)
    lines = [json_text(vars(item)) for item in items]
    if lines:
        write_text(path, "\n".join(lines) + "\n")
    else:
        path.unlink(missing_ok=True)
    return count_reasons(items)


def read_rejected(path: Path) -> list[Rejected]:
    """What `write_rejected` wrote. Ids may hold line separators that JSON leaves as they are.

    Raises:
        DataError: the file is damaged.
    """
    try:
        lines = read_bytes(path).decode("utf-8").split("\n")
        return [Rejected(**json.loads(line)) for line in lines if line]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path} is damaged ({error!r}); remove it, and only what is set aside from now on is "
            "listed"
        ) from None


def describe_counts(counts: dict[str, int]) -> str:
    """`3 empty, 1 not_text`, or `none`."""
    return ", ".join(f"{number:,} {reason}" for reason, number in counts.items()) or "none"
