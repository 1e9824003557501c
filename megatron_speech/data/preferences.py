"""Pairs of a better and a worse answer as documents, and what the reference model thinks of them.

A document is the better text_to_token document and the worse one, each with its end of document.
`<prefix>.reference.parquet` has for each the log-probability of both answers under the model that
training starts from: DPO compares with it, and training then holds one model.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from ..errors import DataError
from ..io.parquet import read_parquet
from .indexed_files import dataset_path

REFERENCE_SUFFIX = ".reference.parquet"
REFERENCE_SCHEMA = pa.schema({"chosen": pa.float32(), "rejected": pa.float32()})


@dataclass(frozen=True)
class Preferences:
    """Which positions of a window belong to which answer.

    `pairs` (n,) is 0 where there is no pair, else the pair's number (1 + the position it begins at)
    in the better answer and its negative in the worse one. `reference` (n,) is, at the last
    position of a pair, by how much the reference model prefers the better answer, else 0.
    """

    pairs: np.ndarray
    reference: np.ndarray

    @classmethod
    def none(cls, size: int) -> "Preferences":
        return cls(np.zeros(size, np.int64), np.zeros(size, np.float32))

    def add(self, place: slice, rejected: np.ndarray, reference: float) -> None:
        """A pair at `place`; `rejected` (m,) says which of its positions are the worse answer's."""
        self.pairs[place] = np.where(rejected, -1, 1) * (place.start + 1)
        self.reference[place.stop - 1] = reference


def is_rejected(inputs: np.ndarray, eod: int) -> np.ndarray:
    """Which positions (n,) of a pair lie behind its first end of document."""
    return np.cumsum(inputs == eod) - (inputs == eod) > 0


def read_reference(prefix: str, documents: int) -> np.ndarray:
    """By how much the reference prefers the better answers, in nats, (documents,).

    Raises:
        DataError: the file is missing, damaged or of another dataset.
    """
    path = dataset_path(prefix, REFERENCE_SUFFIX)
    table = read_parquet(path, ("chosen", "rejected"))
    if table.num_rows != documents:
        raise DataError(
            f"{path} has {table.num_rows:,} rows, the dataset {documents:,} documents; build the "
            "dataset again"
        )
    chosen, rejected = (table[name].to_numpy() for name in ("chosen", "rejected"))
    return chosen - rejected
