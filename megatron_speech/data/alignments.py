"""When each word of a recording is said.

An alignment file is Parquet with columns id, start_s and stop_s: for each recording or record of a
code shard the times of its words in seconds, as a forced aligner gives them. Words are what stands
between whitespace; Chinese and Japanese characters count one by one (words.word_bounds).
"""

from pathlib import Path

import numpy as np

from ..errors import DataError
from ..io.parquet import read_parquet


class Alignments:
    """Times of words by record; the whole file is held in memory.

    Raises:
        DataError: the file is missing, damaged, or lists of one row differ in length.
    """

    def __init__(self, path: Path):
        table = read_parquet(path, ("id", "start_s", "stop_s"))
        starts, stops = (table[name].combine_chunks() for name in ("start_s", "stop_s"))
        lengths = starts.value_lengths().to_numpy(zero_copy_only=False)
        if not np.array_equal(lengths, stops.value_lengths().to_numpy(zero_copy_only=False)):
            raise DataError(f"{path}: start_s and stop_s of a row differ in length")
        flat = [part.flatten().to_numpy(zero_copy_only=False) for part in (starts, stops)]
        self._times = np.stack(flat, axis=1).astype(np.float64)
        self._stops = np.cumsum(lengths)
        self._rows = {name: row for row, name in enumerate(table["id"].to_pylist())}

    def times(self, record: str) -> np.ndarray | None:
        """Start and stop of each word in seconds, (w, 2); None for a record that is not there."""
        row = self._rows.get(record)
        if row is None:
            return None
        return self._times[self._stops[row - 1] if row else 0 : self._stops[row]]
