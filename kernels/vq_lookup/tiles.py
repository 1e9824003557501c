"""Shapes of the look-up's passes, by device."""

from typing import NamedTuple


class Tiles(NamedTuple):
    """Shape of the passes over the codebook."""

    m: int
    n: int
    d: int
    warps: int
    stages: int
    tma: bool


def choose_tiles(capability: tuple[int, int] | None, plain: bool, bulk_copies: bool) -> Tiles:
    """Tile shape by compute capability (None: the interpreter) and operands.

    A fixed table instead of autotuning: thousands of workers need not spend their first minute on
    the same measurement, and what is compiled does not depend on a noisy one. Hopper: 128 x 256
    holds the most products per byte from L2 in the registers of two warpgroups, four stages fill
    the shared memory. Split operands pass through registers and take smaller tiles.
    """
    if capability is None:
        return Tiles(256, 256, 64, 4, 1, bulk_copies)
    if not plain:
        return Tiles(128, 128, 32, 8, 2, False)
    if (9, 0) <= capability < (12, 0):
        return Tiles(128, 256, 64, 8, 4 if bulk_copies else 3, bulk_copies)
    return Tiles(128, 128, 64, 8, 3, False)
