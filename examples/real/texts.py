"""Which texts are read, interleaved, spoken and held out."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import batched
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from examples.quickstart.corpora import first_words, read_documents, write_documents
from examples.real.sizes import RealSize
from megatron_speech.corpus.sources import Document
from megatron_speech.errors import DataError
from megatron_speech.evaluation.cloze_items import ItemConfig, Sentence, usable_sentences
from megatron_speech.files import atomic_path, write_text
from megatron_speech.rejected import Rejected, describe_counts, write_rejected

_SEED = 17
_SPOKEN = ItemConfig(min_length=20, max_length=150)
_PASSAGE_SENTENCES = 6
_WINDOW_WORDS = (4, 16)
"""Least and most words of a window; the interleaver's spans have 10 on average."""


def write_texts(folder: Path, corpora: Sequence[str], size: RealSize) -> dict[str, Any]:
    """Split the corpora by documents, and choose what is interleaved and what is spoken.

    `train.parquet`, `held-out.parquet` and `interleaved.parquet` are documents, `check.txt` the
    beginning of the held-out ones; `spoken.parquet` (sentences and windows of words),
    `passages.parquet` and `test.parquet` (held-out sentences) are to be spoken.

    Raises:
        DataError: too few usable documents, or none with sentences that can be spoken.
    """
    if not corpora:
        raise DataError("there is no text to read; give a corpus of English prose as --text")
    chance, rejected = random.Random(_SEED), list[Rejected]()
    documents: list[Document] = []
    for number, corpus in enumerate(corpora):
        chosen = first_words(read_documents([corpus], rejected), size.most_words // len(corpora))
        # documents of several corpora may be called alike
        documents += [replace(d, id=f"{number}-{d.id}") for d in chosen]
    counts = write_rejected(folder / "rejected.jsonl", rejected)
    chance.shuffle(documents)
    held = max(1, round(len(documents) * size.held_out_share))
    held_out, train = documents[:held], documents[held:]
    if len(held_out) < 2 or len(train) < 2:
        raise DataError(
            f"{', '.join(map(str, corpora))}: {len(documents)} usable documents (rejected: "
            f"{describe_counts(counts)}); some are held out and some trained on, give at least 8"
        )
    write_documents(folder / "train.parquet", train)
    write_documents(folder / "held-out.parquet", held_out)
    write_documents(folder / "interleaved.parquet", first_words(train, size.interleaved_words))
    check = "\n\n".join(document.text for document in held_out)
    write_text(folder / "check.txt", check[: size.check_characters])
    sentences = _sentences(train)
    passages = list(_passages(sentences))[: size.spoken_passages]
    write_rows(folder / "passages.parquet", [
        (f"passage-{n:05d}/{k:03d}", sentence.text)
        for n, passage in enumerate(passages) for k, sentence in enumerate(passage)
    ])  # fmt: skip
    chance.shuffle(sentences)
    spoken = sentences[: size.spoken_sentences]
    windows = [_window(s.text, chance) for s in chance.choices(sentences, k=len(spoken))]
    test = _sentences(held_out)
    chance.shuffle(test)
    write_rows(folder / "spoken.parquet", [
        *((f"sentence-{n:06d}", s.text) for n, s in enumerate(spoken)),
        *((f"window-{n:06d}", window) for n, window in enumerate(windows)),
    ])  # fmt: skip
    write_rows(
        folder / "test.parquet",
        [(f"test-{n:05d}", s.text) for n, s in enumerate(test[: size.test_recordings])],
    )
    return {
        "documents": len(train),
        "held_out_documents": len(held_out),
        "words": sum(len(document.text.split()) for document in documents),
        "rejected": counts,
        "sentences": len(spoken),
        "windows": len(windows),
        "passages": len(passages),
    }


def _sentences(documents: Sequence[Document]) -> list[Sentence]:
    """Whole sentences that can be spoken, in order."""
    refused: Counter[str] = Counter()
    found = [
        sentence
        for number, document in enumerate(documents)
        for sentence in usable_sentences(document.text, number, "en", _SPOKEN, refused)
    ]
    if not found:
        raise DataError(
            f"{len(documents):,} documents hold no sentence of {_SPOKEN.min_length} to "
            f"{_SPOKEN.max_length} characters that can be spoken (not used: {dict(refused)}); "
            "give ordinary prose"
        )
    return found


def _passages(sentences: Sequence[Sentence]) -> Iterator[Sequence[Sentence]]:
    """Sentences that follow one another, some at a time; from all over the corpus."""
    for start in range(_PASSAGE_SENTENCES):
        for passage in batched(sentences[start:], _PASSAGE_SENTENCES):
            first, last = passage[0], passage[-1]
            if first.document == last.document and last.place - first.place == len(passage) - 1:
                yield passage


def _window(sentence: str, chance: random.Random) -> str:
    """Some words of a sentence, cut anywhere."""
    words = sentence.split()
    count = min(chance.randint(*_WINDOW_WORDS), len(words))
    start = chance.randint(0, len(words) - count)
    return " ".join(words[start : start + count])


def write_rows(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Ids and texts as Parquet."""
    table = pa.table({"id": [row[0] for row in rows], "text": [row[1] for row in rows]})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)
