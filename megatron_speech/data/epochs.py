"""The order in which a dataset is read: epoch after epoch, each a permutation of its own.

An epoch depends on the dataset, the window length, the seed and its number, on nothing else: a
run that becomes longer, or comes back to a dataset later, reads on in the same order. Indices are
cached as whole `.npy` files with checksums, so neither a build that was killed nor a damaged disk
changes what is read.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist

from ..errors import DataError, MegatronSpeechError
from ..io.checked_json import read_checked_json, write_checked_json
from ..io.files import atomic_path, fingerprint_of
from .packing import pack_documents
from .soundness import file_checksum


@dataclass(frozen=True)
class Epoch:
    """The windows of one pass over a dataset; arrays are memory-mapped."""

    documents: np.ndarray
    """(m,) document numbers in the order they are read."""
    starts: np.ndarray
    """Where windows begin and the last one ends: (windows + 1, 2) index into `documents` and
    offset in tokens for cut windows, (windows + 1,) index alone for packed ones."""
    order: np.ndarray
    """(windows,) the order in which windows are drawn."""


def cut_epoch(
    lengths: np.ndarray, seq_length: int, documents: np.ndarray, generator: np.random.Generator
) -> Epoch:
    """Documents in random order as one stream, cut by core into windows of `seq_length` + 1 tokens
    that overlap by one, as its GPTDataset does; the last piece is dropped. Documents of fewer
    tokens than a window are read several times over.
    """
    from megatron.core.datasets import helpers

    tokens = int(lengths[documents].sum(dtype=np.int64))
    copies = -(-(seq_length + 1) // tokens)
    read = np.concatenate([generator.permutation(documents) for _ in range(copies)])
    starts = helpers.build_sample_idx(
        np.ascontiguousarray(lengths, np.int32), read, seq_length, 1, tokens * copies, True, True
    )
    return Epoch(read, starts, _shuffled(len(starts) - 1, generator))


def packed_epoch(
    lengths: np.ndarray, seq_length: int, documents: np.ndarray, generator: np.random.Generator
) -> Epoch:
    """Whole documents packed into windows; a document of n tokens takes n - 1 positions."""
    read, starts = pack_documents(lengths - 1, seq_length, generator.permutation(documents))
    return Epoch(read, starts, _shuffled(len(starts) - 1, generator))


def _shuffled(windows: int, generator: np.random.Generator) -> np.ndarray:
    return generator.permutation(np.arange(windows, dtype=np.min_scalar_type(-max(windows, 1))))


def cached(cache: Path, name: str, parts: list[str], build: Callable[[], list[np.ndarray]]) -> Any:
    """Memory-mapped arrays `<name>-<part>.npy` of a folder, built and stored where one is missing
    or not the one that was written.

    Only the process that builds may call this before the files are there. It alone compares them
    with their checksums, in `<name>.json`; processes that come after it read what it found sound.
    """
    paths = [cache / f"{name}-{part}.npy" for part in parts]
    whole = all(path.exists() for path in paths)
    if whole and (not dist.is_initialized() or dist.get_rank() == 0):
        whole = _unchanged(cache / f"{name}.json", paths)
    if not whole:
        for path, array in zip(paths, build(), strict=True):
            with atomic_path(path) as temporary, open(temporary, "wb") as stream:
                np.save(stream, array)
        checksums = {path.name: file_checksum(path) for path in paths}
        write_checked_json(cache / f"{name}.json", {"checksums": checksums})
    return [np.load(path, mmap_mode="r") for path in paths]


def _unchanged(record: Path, paths: list[Path]) -> bool:
    """Whether cached arrays are those that were written; says so in a line if they are not."""
    if not record.exists():  # an older version wrote them, or was killed before the end
        return False
    try:
        checksums = read_checked_json(record).content.get("checksums")
        if checksums == {path.name: file_checksum(path) for path in paths}:
            return True
        problem = f"the arrays of {record} are not those that were written"
    except DataError as error:
        problem = str(error)
    print(f"{problem}: built again", file=sys.stderr)
    return False


def on_first_rank_then_all(work: Callable[[], object]) -> None:
    """Do `work` on rank 0 and then, with what it cached, on the others; collective.

    Raises:
        MegatronSpeechError: what rank 0 found wrong, on every rank.
    """
    if not dist.is_initialized():
        work()
        return
    failure: list[MegatronSpeechError | None] = [None]
    if dist.get_rank() == 0:
        try:
            work()
        except MegatronSpeechError as error:
            failure = [error]
    dist.broadcast_object_list(failure)
    if failure[0] is not None:
        raise failure[0]
    if dist.get_rank():
        work()


def contents_key(prefix: str, *parts: object) -> str:
    """A cache key that changes when a dataset is built anew in place."""
    status = os.stat(f"{prefix}.idx")
    return fingerprint_of(prefix, repr((status.st_size, status.st_mtime_ns, *parts)))
