"""Which texts are read, interleaved, spoken and held out."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from examples.quickstart.corpora import first_words, read_documents, write_documents
from examples.real.sizes import RealSize
from megatron_speech.errors import DataError
from megatron_speech.evaluation.cloze_items import ItemConfig, Sentence, usable_sentences
from megatron_speech.io.files import atomic_path, write_text
from megatron_speech.io.rejected import Rejected, describe_counts, write_rejected
from megatron_speech.text.corpora import Document

_SEED = 17
_SPOKEN = ItemConfig(min_length=20, max_length=150)
_CUT = ItemConfig(min_length=20, max_length=400)
"""Sentences that windows are cut from: these may be longer than what is spoken whole."""
_PASSAGE_SENTENCES = 6
_WINDOW_WORDS = (4, 16)
"""Least and most words of a window; the interleaver's spans have 10 on average."""
_SHORT_WORDS = (1, 8)
"""Of a short one, from which a text-to-token model learns where in a text it is."""


def write_texts(folder: Path, corpora: Sequence[str], size: RealSize) -> dict[str, Any]:
    """Split the corpora by documents, and choose what is interleaved and what is spoken.

    `train.parquet`, `held-out.parquet` and `interleaved.parquet` are documents, `check.txt` the
    beginning of the held-out ones; `narrated.parquet` (sentences and windows of words),
    `spoken.parquet` (some of both), `short.parquet` (short windows), `passages.parquet` and
    `test.parquet` (held-out sentences) are to be spoken.

    Raises:
        DataError: too few usable documents, or none with sentences that can be spoken.
    """
    chance = random.Random(_SEED)
    train, held_out, counts = _split_documents(folder, corpora, size, chance)
    write_documents(folder / "train.parquet", train)
    write_documents(folder / "held-out.parquet", held_out)
    write_documents(folder / "interleaved.parquet", first_words(train, size.interleaved_words))
    check = "\n\n".join(document.text for document in held_out)
    write_text(folder / "check.txt", check[: size.check_characters])
    sentences = _sentences(train)
    passages = _passages(sentences)[: size.spoken_passages]
    write_rows(folder / "passages.parquet", [
        (f"passage-{n:05d}/{k:03d}", sentence.text)
        for n, passage in enumerate(passages) for k, sentence in enumerate(passage)
    ])  # fmt: skip
    chance.shuffle(sentences)
    narrated = [(f"sentence-{n:06d}", s.text)
                for n, s in enumerate(sentences[: size.narrated_sentences])]  # fmt: skip
    to_cut = _sentences(train, _CUT)
    cut = chance.choices(to_cut, k=size.narrated_windows)
    windows = [(f"window-{n:06d}", _window(s.text, _WINDOW_WORDS, chance))
               for n, s in enumerate(cut)]  # fmt: skip
    test = _sentences(held_out)
    chance.shuffle(test)
    write_rows(folder / "narrated.parquet", [*narrated, *windows])
    few = size.spoken_sentences
    write_rows(folder / "spoken.parquet", [*narrated[:few], *windows[:few]])
    write_rows(
        folder / "test.parquet",
        [(f"test-{n:05d}", s.text) for n, s in enumerate(test[: size.test_recordings])],
    )
    cut = chance.choices(to_cut, k=size.short_windows)
    write_rows(folder / "short.parquet", [
        (f"short-{n:06d}", _window(s.text, _SHORT_WORDS, chance)) for n, s in enumerate(cut)
    ])  # fmt: skip
    return {
        "documents": len(train),
        "held_out_documents": len(held_out),
        "words": sum(len(document.text.split()) for document in train + held_out),
        "rejected": counts,
        "sentences": len(narrated),
        "windows": len(windows),
        "short_windows": size.short_windows,
        "passages": len(passages),
    }


def _split_documents(
    folder: Path, corpora: Sequence[str], size: RealSize, chance: random.Random
) -> tuple[list[Document], list[Document], dict[str, int]]:
    """Documents to train on, those held out, and how many records were none, by reason."""
    if not corpora:
        raise DataError("there is no text to read; give a corpus of English prose as --text")
    rejected: list[Rejected] = []
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
    return train, held_out, counts


def _sentences(documents: Sequence[Document], which: ItemConfig = _SPOKEN) -> list[Sentence]:
    """Whole sentences that can be spoken, in order."""
    refused: Counter[str] = Counter()
    found = [
        sentence
        for number, document in enumerate(documents)
        for sentence in usable_sentences(document.text, number, "en", which, refused)
    ]
    if not found:
        raise DataError(
            f"{len(documents):,} documents hold no sentence of {which.min_length} to "
            f"{which.max_length} characters that can be spoken (not used: {dict(refused)}); "
            "give ordinary prose"
        )
    return found


def _passages(sentences: Sequence[Sentence]) -> list[list[Sentence]]:
    """Sentences that follow one another, at most some; the longest passages first."""
    found: list[list[Sentence]] = []
    for sentence in sentences:
        last = found[-1][-1] if found and len(found[-1]) < _PASSAGE_SENTENCES else None
        if last and (last.document, last.place + 1) == (sentence.document, sentence.place):
            found[-1].append(sentence)
        else:
            found.append([sentence])
    return sorted(found, key=len, reverse=True)


def _window(sentence: str, bounds: tuple[int, int], chance: random.Random) -> str:
    """Some words of a sentence, cut anywhere."""
    words = sentence.split()
    count = min(chance.randint(*bounds), len(words))
    start = chance.randint(0, len(words) - count)
    return " ".join(words[start : start + count])


def write_rows(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    """Ids and texts as Parquet."""
    table = pa.table({"id": [row[0] for row in rows], "text": [row[1] for row in rows]})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary)
