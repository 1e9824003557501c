"""Which texts are read, interleaved and spoken: StoryWorld's, or the user's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from examples.quickstart.runner import Demo
from examples.storyworld.outputs import write_table
from megatron_speech.errors import DataError
from megatron_speech.io.files import atomic_path
from megatron_speech.io.rejected import Rejected, describe_counts, write_rejected
from megatron_speech.text.corpora import Document, find_texts, read_pieces, split_inputs

_VALID_ONE_IN = 50
_WORDS_OF_A_STORY = 40
"""A user's documents may be far longer than ours; interleaving is measured in words then."""


def split_test_texts(folder: Path) -> None:
    """Make `sentences.parquet` and `windows.parquet` of the held-out `test.parquet`."""
    table = pq.read_table(folder / "test.parquet")
    for kind in ("sentence", "window"):
        chosen = [value == kind for value in table["kind"].to_pylist()]
        with atomic_path(folder / f"{kind}s.parquet") as temporary:
            pq.write_table(table.filter(pa.array(chosen)), temporary)


def choose_text(demo: Demo) -> dict[str, Any]:
    """Write the texts to interleave and, for a user's text, those to train and validate on.

    Raises:
        DataError: the user's text holds no usable documents.
    """
    if not demo.text:
        source = demo.path("storyworld", "corpus", "train.parquet")
        documents = read_documents([str(source)], [])
        write_documents(demo.path("text", "interleaved.parquet"),
               [next(documents) for _ in range(demo.size.interleaved_documents)])  # fmt: skip
        return {"name": "StoryWorld", "text_documents": pq.ParquetFile(source).metadata.num_rows}
    rejected: list[Rejected] = []
    documents = first_words(read_documents(list(demo.text), rejected), demo.size.most_text_words)
    counts = write_rejected(demo.path("text", "rejected.jsonl"), rejected)
    print(f"your text: {len(documents):,} documents; rejected: {describe_counts(counts)}")
    if len(documents) < 2:
        why = f", the first: {rejected[0].detail or rejected[0].reason}" if rejected else ""
        raise DataError(
            f"{', '.join(demo.text)}: {len(documents)} usable documents (rejected: "
            f"{describe_counts(counts)}{why}); give more"
        )
    every = min(_VALID_ONE_IN, len(documents))
    train = [document for n, document in enumerate(documents) if n % every]
    write_documents(demo.path("text", "train.parquet"), train)
    write_documents(demo.path("text", "valid.parquet"), documents[::every])
    limit = _WORDS_OF_A_STORY * demo.size.interleaved_documents
    write_documents(demo.path("text", "interleaved.parquet"), first_words(train, limit))
    return {"name": "your text", "text_documents": len(documents), "text_rejected": counts}


def text_path(demo: Demo, part: str) -> Path:
    """The corpus for `train`, `valid` or `interleaved`."""
    if part == "interleaved" or demo.text:
        return demo.path("text", f"{part}.parquet")
    return demo.path("storyworld", "corpus", f"{part}.parquet")


def vocabulary_inputs(demo: Demo) -> list[Path]:
    """Texts the vocabulary must read well: StoryWorld is evaluated in any case."""
    storyworld = demo.path("storyworld", "corpus", "train.parquet")
    return [storyworld, demo.path("text", "train.parquet")] if demo.text else [storyworld]


def rows_per_shard(manifest: Path, shards: int) -> int:
    """Rows of each shard so that a manifest makes about `shards` of them."""
    return -(-pq.ParquetFile(manifest).metadata.num_rows // shards)


def read_documents(inputs: list[str], rejected: list[Rejected]) -> Iterator[Document]:
    """Documents in order; what is none is added to `rejected`."""
    (pieces,) = split_inputs(find_texts(inputs), 1)
    for record in read_pieces(pieces, "text"):
        if isinstance(record, Document):
            yield record
        else:
            rejected.append(record)


def first_words(documents: Any, most_words: int) -> list[Document]:
    """Documents from the start until `most_words` words are reached."""
    chosen, words = [], 0
    for document in documents:
        chosen.append(document)
        words += len(document.text.split())
        if words >= most_words:
            break
    return chosen


def write_documents(path: Path, documents: list[Document]) -> None:
    """A corpus as Parquet."""
    write_table(path, {"id": [d.id for d in documents], "text": [d.text for d in documents]})
