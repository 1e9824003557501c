"""Random numbers that are a hash of (seed, document id, purpose, counter).

Neither the order of documents, nor the number of workers, nor a restart changes them.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def document_keys(seed: int, ids: Sequence[str]) -> np.ndarray:
    """One random key per document, (n,) uint64, from the seed and the document's id alone."""
    salt = (seed % (1 << 64)).to_bytes(8, "little")
    digests = b"".join(
        hashlib.blake2b(i.encode("utf-8", "surrogatepass"), digest_size=8, key=salt).digest()
        for i in ids
    )
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def random_bits(keys: np.ndarray, purpose: int, counter: np.ndarray) -> np.ndarray:
    """SplitMix64 of key, purpose and counter, element by element: uint64."""
    with np.errstate(over="ignore"):
        bits = _mix(keys + np.uint64(purpose) * _GOLDEN)
        return _mix(bits + (counter.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def uniform(keys: np.ndarray, purpose: int, counter: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1), float64, from the same hash."""
    return (random_bits(keys, purpose, counter) >> np.uint64(11)) * 2.0**-53


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
