"""From a token of a dataset back to where it came from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ..data.indexed import dataset_path, open_tokens
from ..data.indexed_files import read_facts
from ..errors import DataError, VocabularyError
from ..io.parquet import named_in_errors
from ..text.corpora import Document, find_texts, read_pieces, split_inputs
from ..text.vocab import SpeechTextVocab


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a token comes from. What does not apply, or is not known, is None.

    `source_id` is the document's id in its corpus, or the record's id in its code shard; `text`
    are the characters `character_start` to `character_stop` of the source document.
    """

    document: int
    position: int
    token: int
    kind: str
    """text, speech or special."""
    code: int | None = None
    source_id: str | None = None
    character_start: int | None = None
    character_stop: int | None = None
    text: str | None = None
    seed: int | None = None
    generator_fingerprint: str | None = None
    request_shard: str | None = None
    batch: int | None = None
    speech_tokenizer: str | None = None
    run_start: int | None = None
    """First token of the run of text, or of the synthetic span, that holds it."""
    run_stop: int | None = None


def trace(
    prefix: Path,
    vocab: SpeechTextVocab,
    document: int,
    position: int,
    corpus: Sequence[str] = (),
    text_key: str = "text",
) -> Origin:
    """The origin of token `position` of a document.

    For text, the very characters of the token are found if the corpus is given; without it those
    of the run of text it belongs to.

    Raises:
        DataError: the dataset is unfinished or damaged, has no such token or no provenance, or the
            corpus does not hold the document.
        VocabularyError: the dataset was made with another vocabulary.
    """
    facts = read_facts(prefix)
    if not facts.fits(vocab):
        raise VocabularyError(
            f"{prefix} was made with vocabulary {facts.vocab_fingerprint}, not {vocab.fingerprint}"
        )
    tokens = document_tokens(prefix, document)
    if not 0 <= position < len(tokens):
        raise DataError(f"document {document} of {prefix} has {len(tokens)} tokens")
    token = int(tokens[position])
    known: dict[str, Any] = {"document": document, "position": position, "token": token}
    special = np.isin(tokens, [*vocab.specials.values(), vocab.eod_id])
    kinds = np.where(vocab.is_speech(tokens), 1, np.where(special, 2, 0))
    known["kind"] = ("text", "speech", "special")[kinds[position]]
    if known["kind"] == "speech":
        known["code"] = int(vocab.tokens_to_codes([token])[0])
        known["speech_tokenizer"] = facts.tokenizer_fingerprint
    elif known["kind"] == "text":
        edges = np.flatnonzero(kinds != 0)
        known["run_start"] = int(np.max(edges[edges < position], initial=-1)) + 1
        known["run_stop"] = int(np.min(edges[edges > position], initial=len(tokens)))
    known |= _provenance(prefix, document, position)
    if corpus and known["kind"] != "special":
        known |= _characters(vocab, tokens, known, corpus, text_key)
    return Origin(**known)


def document_tokens(prefix: Path, document: int) -> np.ndarray:
    """Token ids of one document, (n,) int64.

    Raises:
        DataError: no such document, or a damaged dataset.
    """
    index, tokens = open_tokens(prefix)
    if not 0 <= document < len(index.lengths):
        raise DataError(f"{prefix} has {len(index.lengths)} documents, none number {document}")
    start = index.starts[document]
    return np.asarray(tokens[start : start + index.lengths[document]], dtype=np.int64)


def _provenance(prefix: Path, document: int, position: int) -> dict[str, Any]:
    spans, sources = (dataset_path(prefix, f".{name}.parquet") for name in ("spans", "sources"))
    if sources.exists():
        with named_in_errors(sources), pq.ParquetFile(sources) as file:
            first = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if document < first + rows:
                    name = file.read_row_group(group)["source_id"][document - first].as_py()
                    return {"source_id": name}
                first += rows
    if not spans.exists():
        raise DataError(
            f"{prefix} has neither .sources.parquet nor .spans.parquet: it says nothing of its "
            "sources; build it again"
        )
    with named_in_errors(spans):
        rows = pq.read_table(spans, filters=[("document", "=", document)]).to_pylist()
    for row in rows:
        if row["token_start"] <= position < row["token_stop"]:
            del row["modality"]
            return row | {
                "document": document,
                "run_start": row.pop("token_start"),
                "run_stop": row.pop("token_stop"),
            }
    return {}


def _characters(
    vocab: SpeechTextVocab,
    tokens: np.ndarray,
    known: dict[str, Any],
    corpus: Sequence[str],
    text_key: str,
) -> dict[str, Any]:
    """The characters of a token (of its whole span if it is speech), read in the corpus."""
    name, is_speech = known["source_id"], known["kind"] == "speech"
    if is_speech and "run_start" not in known:
        return {}  # a recording: no text of a corpus stands behind it
    wanted = name.rpartition("/")[0] if is_speech else name
    found = False
    for source in find_documents(corpus, wanted, text_key):
        found = True
        start, stop = known.get("character_start"), known.get("character_stop")
        if not is_speech:
            run = tokens[known["run_start"] : known["run_stop"]]
            offsets = _offsets(vocab, source, run, start or 0)
            if offsets is None:
                continue  # ids may occur twice
            start, stop = offsets[known["position"] - known["run_start"]]
        text = source.text[start:stop]
        return {"character_start": start, "character_stop": stop, "text": text}
    if found:
        raise DataError(
            f"{wanted!r} in the corpus is not the text this dataset was made of; give the corpus "
            "it was made of"
        )
    raise DataError(f"{', '.join(corpus)} holds no document {wanted!r}")


def _offsets(
    vocab: SpeechTextVocab, source: Document, ids: np.ndarray, character: int
) -> list[tuple[int, int]] | None:
    """Characters of the tokens of a run of text that begins at or near `character`, if there."""
    found, offsets = vocab.text.offsets(source.text)
    stream = np.array(found, dtype=np.int64)
    places = np.flatnonzero(stream[: max(len(stream) - len(ids) + 1, 0)] == ids[0])
    matches = [p for p in places if np.array_equal(stream[p : p + len(ids)], ids)]
    if not matches:
        return None
    best = min(matches, key=lambda place: abs(offsets[place][0] - character))
    return offsets[best : best + len(ids)]


def find_documents(corpus: Sequence[str], name: str, text_key: str = "text") -> Iterator[Document]:
    """The documents of a corpus that have that id; it is read from the start."""
    for record in read_pieces(split_inputs(find_texts(list(corpus)), 1)[0], text_key):
        if isinstance(record, Document) and record.id == name:
            yield record
