"""Which held-out sentences occur in training text: by runs of eight words, whatever the spelling.

Only the sentences' runs are kept in memory, as 64-bit hashes; the training corpus, of any size, is
read once.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from ..io.rejected import Rejected
from ..jobs.progress import Progress
from ..text.corpora import Document, find_texts, read_pieces, split_inputs, total_bytes

RUN = 8
"""Words that must follow one another; of a shorter sentence, all of it."""

# scripts that put no spaces between words: each character is a word
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Seen:
    """Sentences that occur in the training text, and how many documents of it were read."""

    sentences: frozenset[str]
    documents: int


def read_documents(
    inputs: Sequence[str], text_key: str, refused: Counter[str]
) -> Iterator[Document]:
    """Documents of a corpus, of all its files; broken records are counted by reason.

    Raises:
        DataError: files that are missing or damaged.
    """
    paths = find_texts(inputs)
    with Progress("read", total_bytes(paths), "bytes") as progress:
        for record in read_pieces(
            [piece for share in split_inputs(paths, 1) for piece in share], text_key
        ):
            if isinstance(record, Rejected):
                refused[record.reason] += 1
            else:
                progress.advance(len(record.text))
                yield record


def find_seen(sentences: Sequence[str], training: Iterable[str]) -> Seen:
    """The sentences that share a run of words with one of the training texts."""
    runs = [_runs_of(sentence) for sentence in sentences]
    wanted = {
        length: np.unique(np.concatenate([run for size, run in runs if size == length]))
        for length in {size for size, _ in runs}
    }
    found = {length: np.zeros(len(hashes), dtype=bool) for length, hashes in wanted.items()}
    documents = 0
    for text in training:
        words = _word_hashes(text)
        for length, hashes in wanted.items():
            found[length] |= np.isin(hashes, _hash_runs(words, length))
        documents += 1
    hit = {length: set(hashes[found[length]].tolist()) for length, hashes in wanted.items()}
    seen = (
        sentence
        for sentence, (length, hashes) in zip(sentences, runs, strict=True)
        if not hit[length].isdisjoint(hashes.tolist())
    )
    return Seen(frozenset(seen), documents)


def count_words(text: str) -> int:
    """Words of a text as runs are made of; of scripts without spaces, characters."""
    return sum(1 for _ in _words(text))


def _runs_of(sentence: str) -> tuple[int, np.ndarray]:
    words = _word_hashes(sentence)
    length = min(RUN, len(words))
    return length, _hash_runs(words, length)


def _words(text: str) -> Iterator[str]:
    return (match[0] for match in _WORD.finditer(text.casefold()))


def _word_hashes(text: str) -> np.ndarray:
    return np.fromiter(map(_hash_word, _words(text)), dtype=np.uint64)


@lru_cache(maxsize=1 << 18)
def _hash_word(word: str) -> int:
    return int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")


def _hash_runs(words: np.ndarray, length: int) -> np.ndarray:
    """Hash of each `length` successive words: (n,) uint64 to (n - length + 1,)."""
    count = len(words) - length + 1
    total = np.zeros(max(count, 0), dtype=np.uint64)
    if count > 0:
        for offset in range(length):
            total = total * _FACTOR + words[offset : offset + count]
    return total
