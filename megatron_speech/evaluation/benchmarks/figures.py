"""Figures of items by part, of all and of those that training text does not hold."""

from collections.abc import Mapping, Sequence, Set

import numpy as np

from ..context import Figure, Result
from .items import Item, Pair


def results_of(
    benchmark: str,
    direction: str,
    items: Sequence[Item],
    points: Mapping[str, np.ndarray],
    headline: str,
    seen: Set[str],
) -> list[Result]:
    """A result for each part that the items count in.

    `points` are those of each item (n,) under each rule, 0 to 1; `seen` the ids of items that occur
    in training text. Where there are any, figures of the others are under `unseen`.
    """
    results = []
    for part in dict.fromkeys(part for item in items for part in item.parts):
        at = np.array([part in item.parts for item in items])
        clean = at & np.array([item.id not in seen for item in items])
        rules = {rule: figure(items, values, at) for rule, values in points.items()}
        details = {}
        if seen:
            details["unseen"] = {
                rule: figure(items, values, clean).to_json() for rule, values in points.items()
            } if clean.any() else {"n": 0}  # fmt: skip
        results.append(
            Result(
                task=benchmark,
                part=part,
                direction=direction,
                headline=rules[headline],
                rule=headline,
                rules=rules,
                details=details,
            )
        )
    return results


def figure(items: Sequence[Item], points: np.ndarray, chosen: np.ndarray) -> Figure:
    """Mean over tallies of the mean within each, of the chosen items (n,) bool."""
    tallies: dict[str, list[float]] = {}
    for item, point, is_in in zip(items, points, chosen, strict=True):
        if is_in:
            name = item.tally if isinstance(item, Pair) else item.id
            tallies.setdefault(name, []).append(float(point))
    means = [float(np.mean(values)) for values in tallies.values()]
    return Figure(accuracy=float(np.mean(means)), n=len(means))
