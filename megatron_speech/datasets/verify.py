"""A finished dataset checked from end to end: structure, checksums, ids, counts, provenance."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..data.indexed import dataset_path, map_tokens
from ..data.indexed_files import DatasetFacts, read_facts, without_checksum
from ..data.soundness import Index, changed_files, sound_dataset
from ..errors import DataError
from ..interleaving.provenance import shifted_spans
from ..io.files import read_json
from ..io.parquet import open_parquet, read_batches
from ..jobs.progress import Progress
from ..text.vocab import SpeechTextVocab

_TOKENS_AT_A_TIME = 1 << 22
_ROWS_AT_A_TIME = 1 << 16


@dataclass(frozen=True)
class Verification:
    """What was found: `problems` in words (none: all is well) and what was counted."""

    problems: list[str] = field(default_factory=list)
    documents: int = 0
    text_tokens: int = 0
    speech_tokens: int = 0
    spans: int = 0


def verify(prefix: Path, vocab: SpeechTextVocab) -> Verification:
    """Check every byte of a dataset; what cannot even be opened is a problem like any other."""
    try:
        facts = read_facts(prefix)
    except DataError as error:
        return Verification([str(error)])
    problems = [] if facts.checksums else [f"{prefix}.json holds no checksums; build it again"]
    try:
        _, index = sound_dataset(prefix)
    except DataError as error:
        return Verification([str(error), *changed_files(prefix, facts), *problems])
    problems += changed_files(prefix, facts)
    if not facts.fits(vocab):
        problems.append(
            f"{prefix} was made with vocabulary {facts.vocab_fingerprint}, not {vocab.fingerprint}"
        )
    if problems:  # positions may be wrong: what follows would only repeat it in other words
        return Verification(problems, len(index.lengths))
    if line := without_checksum({prefix: facts}):
        print(line, file=sys.stderr)
    tokens = map_tokens(prefix, index)
    counts = _count(tokens, vocab)
    problems += _tokens(prefix, index, tokens, facts, vocab, counts)
    spans = 0
    try:
        if dataset_path(prefix, ".spans.parquet").exists():
            spans, found = _spans(prefix, index, tokens, vocab, counts)
            problems += found
        problems += _sources(prefix, len(index.lengths))
    except DataError as error:
        problems.append(str(error))
    text = len(tokens) - counts.speech
    return Verification(problems, len(index.lengths), text, counts.speech, spans)


@dataclass(frozen=True)
class _Counts:
    lowest: int
    highest: int
    speech: int
    delimiters: int


def _delimiters(vocab: SpeechTextVocab) -> list[int]:
    return [*vocab.specials.values(), vocab.eod_id]


def _count(tokens: np.ndarray, vocab: SpeechTextVocab) -> _Counts:
    lows, highs, speech, delimiters = [], [], 0, 0
    with Progress("verify", len(tokens), "tokens") as progress:
        for first in range(0, len(tokens), _TOKENS_AT_A_TIME):
            block = np.asarray(tokens[first : first + _TOKENS_AT_A_TIME])
            lows.append(int(block.min()))
            highs.append(int(block.max()))
            speech += int(vocab.is_speech(block).sum())
            delimiters += int(np.isin(block, _delimiters(vocab)).sum())
            progress.advance(len(block))
    return _Counts(min(lows), max(highs), speech, delimiters)


def _tokens(
    prefix: Path,
    index: Index,
    tokens: np.ndarray,
    facts: DatasetFacts,
    vocab: SpeechTextVocab,
    counts: _Counts,
) -> Iterator[str]:
    if counts.lowest < 0 or counts.highest >= vocab.size:
        yield (
            f"{prefix}.bin holds ids {counts.lowest}..{counts.highest}; the vocabulary has "
            f"0..{vocab.size - 1}"
        )
    counted = (len(index.lengths), len(tokens) - counts.speech, counts.speech)
    said = (facts.documents, facts.text_tokens, facts.speech_tokens)
    if counted != said:
        yield (f"{prefix}.json says {said} documents, text and speech tokens; there are {counted}")
    if read_json(dataset_path(prefix, ".json")).get("append_eod", True):
        ends = tokens[index.starts + index.lengths - 1]
        if (ends != vocab.eod_id).any():
            yield f"{prefix}: document {int(np.argmax(ends != vocab.eod_id))} has no end mark"


def _spans(
    prefix: Path, index: Index, tokens: np.ndarray, vocab: SpeechTextVocab, counts: _Counts
) -> tuple[int, list[str]]:
    """Rows and problems of the spans: in order, inside their document, of the tokens they name."""
    rows, covered, speech_covered, problems = 0, 0, 0, []
    last = (-1, 0)  # document and end of the row before
    for table in shifted_spans(prefix, 0):
        document, start, stop = (
            table[name].to_numpy().astype(np.int64)
            for name in ("document", "token_start", "token_stop")
        )
        is_speech = np.array(table["modality"].cast(pa.string()).to_pylist()) == "speech"
        wrong = _misplaced(index, document, start, stop, last)
        if wrong is None:
            length = stop - start
            base = np.repeat(index.starts[document] + start - np.cumsum(length) + length, length)
            found = np.asarray(tokens[base + np.arange(length.sum())])
            expected = np.repeat(is_speech, length)
            differs = (vocab.is_speech(found) != expected) | np.isin(found, _delimiters(vocab))
            if differs.any():
                row = int(np.searchsorted(np.cumsum(length), np.argmax(differs), side="right"))
                wrong = row, f"names tokens that are no {'speech' if is_speech[row] else 'text'}"
        if wrong is not None:
            row, what = wrong
            problems.append(f"{prefix}.spans.parquet: row {rows + row} {what}")
            return rows, problems
        rows, covered = rows + len(document), covered + int(length.sum())
        speech_covered += int(length[is_speech].sum())
        last = (int(document[-1]), int(stop[-1])) if len(document) else last
    if speech_covered != counts.speech or covered + counts.delimiters != len(tokens):
        problems.append(
            f"{prefix}.spans.parquet names {covered:,} tokens, {speech_covered:,} of them speech; "
            f"the dataset has {len(tokens) - counts.delimiters:,} and {counts.speech:,}"
        )
    return rows, problems


def _misplaced(
    index: Index, document: np.ndarray, start: np.ndarray, stop: np.ndarray, last: tuple[int, int]
) -> tuple[int, str] | None:
    """The first row that is out of order or reaches out of its document, and what is wrong."""
    outside = (document < 0) | (document >= len(index.lengths)) | (start >= stop) | (start < 0)
    if not outside.any():
        outside = stop > index.lengths[document]
    if outside.any():
        return int(np.argmax(outside)), "is not inside a document"
    before = np.append(last[0], document[:-1]), np.append(last[1], stop[:-1])
    disordered = (document < before[0]) | ((document == before[0]) & (start < before[1]))
    return (int(np.argmax(disordered)), "is out of order") if disordered.any() else None


def _sources(prefix: Path, documents: int) -> Iterator[str]:
    path = dataset_path(prefix, ".sources.parquet")
    if path.exists():
        batches = read_batches(open_parquet(path), path, _ROWS_AT_A_TIME)
        rows = sum(batch.num_rows for batch in batches)
        if rows != documents:
            yield f"{path} names the sources of {rows} documents; there are {documents}"
