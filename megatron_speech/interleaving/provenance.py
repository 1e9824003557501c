"""Where every run of tokens of an interleaved dataset comes from: `<prefix>.spans.parquet`.

One row per run of text and per spoken span, in document order. `source_id` is the document's id
for text and `<document>/<span>` for speech, the id of its record in the code shard; characters
are those of the source document, and no character is left out: whitespace before a span counts to
the text before it, though its first token may carry it. token_start and token_stop of speech
enclose its codes only.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.indexed import dataset_path
from ..io.parquet import open_parquet, read_batches
from .code_stream import TakenCodes
from .weave import SpanBatch, Woven

_ROWS_AT_A_TIME = 65_536
_NAMES = pa.dictionary(pa.int32(), pa.string())
SPAN_SCHEMA = pa.schema(
    {
        "document": pa.int64(),
        "token_start": pa.int32(),
        "token_stop": pa.int32(),
        "modality": _NAMES,
        "source_id": pa.string(),
        "character_start": pa.int32(),
        "character_stop": pa.int32(),
        "seed": pa.int64(),
        "generator_fingerprint": _NAMES,
        "request_shard": _NAMES,
        "batch": pa.int32(),
    }
)


class PlanColumns:
    """A batch of plan rows as flat arrays."""

    def __init__(self, batch: pa.RecordBatch):
        self._batch = batch
        self.ids = batch["document_id"]
        self.tokens = self.flat("tokens")
        self.token_counts = self._counts("tokens")
        self.words = batch["words"].to_numpy()
        self.characters = batch["characters"].to_numpy()
        self.span_counts = self._counts("token_start")
        self.span_document = np.repeat(np.arange(batch.num_rows), self.span_counts)

    def flat(self, name: str) -> np.ndarray:
        return self._batch[name].flatten().to_numpy(zero_copy_only=False).astype(np.int64)

    def _counts(self, name: str) -> np.ndarray:
        return self._batch[name].value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)

    @cached_property
    def span_ids(self) -> pa.Array:
        """`<document>/<number>` of every span, its number within the document in three digits."""
        first = np.cumsum(self.span_counts) - self.span_counts
        number = np.arange(len(self.span_document)) - first[self.span_document]
        digits = pc.utf8_lpad(pa.array(number).cast(pa.string()), 3, "0")
        return pc.binary_join_element_wise(self.ids.take(pa.array(self.span_document)), digits, "/")

    def spans(self, keep: np.ndarray, codes: np.ndarray, lengths: np.ndarray) -> SpanBatch:
        return SpanBatch(
            document=self.span_document[keep],
            token_start=self.flat("token_start")[keep],
            token_stop=self.flat("token_stop")[keep],
            codes=codes,
            code_lengths=lengths[keep],
        )


def provenance(
    columns: PlanColumns,
    keep: np.ndarray,
    spans: SpanBatch,
    woven: Woven,
    taken: TakenCodes,
    first_document: int,
    generator: str,
) -> pa.Table:
    """Rows of SPAN_SCHEMA for text runs (that are not empty) and spans, in document order."""
    begins, ends = (columns.flat(f"character_{end}")[keep] for end in ("start", "stop"))
    runs = np.flatnonzero(woven.text_length)
    follows, owner = woven.text_span[runs], woven.text_document[runs]
    # a run reaches from the end of the span before (or 0) to the span that follows (or the end)
    stops = np.append(begins, 0)[follows]
    stops = np.where(follows < 0, columns.characters[owner], stops)
    previous = runs - 1 - owner  # spans before run r of document d: r - d
    is_first = np.zeros(len(runs), bool)
    if len(runs):
        is_first = (previous < 0) | (
            np.append(spans.document, -1)[np.maximum(previous, -1)] != owner
        )
    starts = np.where(is_first, 0, np.append(ends, 0)[np.maximum(previous, -1)])
    number, texts = len(spans.document), len(runs)
    document = np.concatenate([owner, spans.document])
    start = np.concatenate([woven.text_start[runs], woven.speech_start])
    length = np.concatenate([woven.text_length[runs], spans.code_lengths])
    order = np.lexsort((start, document))
    speech = (np.arange(texts + number) >= texts)[order]
    kept = np.flatnonzero(keep)

    def of_speech(values: np.ndarray, known: np.ndarray | None = None) -> pa.Array:
        """A column of spans; text, and spans of which it is not `known`, have no value."""
        known = np.ones(number, bool) if known is None else known
        has_value = np.concatenate([np.zeros(texts, bool), known])
        full = np.concatenate([np.zeros(texts, np.int64), values])
        return pa.array(full[order], mask=~has_value[order])

    def named(numbers: pa.Array, names: list[str]) -> pa.Array:
        names_array = pa.array(names, pa.string())
        return pa.DictionaryArray.from_arrays(numbers.cast(pa.int32()), names_array)

    sources = [columns.ids.take(pa.array(owner)), columns.span_ids.take(pa.array(kept))]
    batches = taken.batches[kept]
    has_generator = np.full(number, bool(generator))
    columns_out = [
        pa.array((document + first_document)[order]),
        pa.array(start[order]),
        pa.array((start + length)[order]),
        named(pa.array(speech.astype(np.int32)), ["text", "speech"]),
        pa.concat_arrays(sources).take(pa.array(order)),
        pa.array(np.concatenate([starts, begins])[order]),
        pa.array(np.concatenate([stops, ends])[order]),
        of_speech(columns.flat("seed")[keep]),
        named(of_speech(np.zeros(number, np.int64), has_generator), [generator]),
        named(of_speech(taken.shards[kept]), taken.names),
        of_speech(batches, batches >= 0),
    ]
    return pa.table(columns_out, names=SPAN_SCHEMA.names).cast(SPAN_SCHEMA)


def shifted_spans(prefix: Path, first_document: int) -> Iterator[pa.Table]:
    """The spans of a dataset whose document 0 becomes `first_document`, some thousands at a time.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = dataset_path(prefix, ".spans.parquet")
    for batch in read_batches(open_parquet(path), path, _ROWS_AT_A_TIME):
        table = pa.Table.from_batches([batch]).cast(SPAN_SCHEMA)
        document = table["document"].to_numpy() + first_document
        yield table.set_column(0, "document", pa.array(document))
