"""Text runs and speech segments woven into token documents: arrays in, arrays out."""

from dataclasses import dataclass

import numpy as np

from ..text.vocab import SpeechTextVocab


@dataclass(frozen=True)
class SpanBatch:
    """Accepted spans of a batch of documents, in order; all arrays int64.

    `document` (s,) index into the batch; `token_start`, `token_stop` (s,) within the document's
    text tokens; `codes` (c,) flat and `code_lengths` (s,).
    """

    document: np.ndarray
    token_start: np.ndarray
    token_stop: np.ndarray
    codes: np.ndarray
    code_lengths: np.ndarray


@dataclass(frozen=True)
class Woven:
    """`tokens` (n,) of all documents, `lengths` (d,).

    `speech_start` (s,) is where in its document each span's codes begin; `text_start` and
    `text_length` (s + d,) are the text runs, in order, a run before each span and one at the end
    of each document; `text_document` (s + d,) says whose they are and `text_span` (s + d,) which
    span follows (-1: the document ends).
    """

    tokens: np.ndarray
    lengths: np.ndarray
    speech_start: np.ndarray
    text_start: np.ndarray
    text_length: np.ndarray
    text_document: np.ndarray
    text_span: np.ndarray


def weave(
    vocab: SpeechTextVocab, text: np.ndarray, text_lengths: np.ndarray, spans: SpanBatch
) -> Woven:
    """Replace spans of text tokens by their codes: text <boa> codes <eoa> text ... <eod>.

    `text` (t,) are the text tokens of all documents, `text_lengths` (d,). Spans that follow each
    other without text between share one pair of delimiters.

    Raises:
        VocabularyError: a code outside the vocabulary.
    """
    documents, count = len(text_lengths), len(spans.document)
    text_base = np.cumsum(text_lengths) - text_lengths
    per_document = np.bincount(spans.document, minlength=documents)
    # every span gives four pieces (text, begin, codes, end), every document two (text, eod)
    span_piece = 4 * np.arange(count) + 2 * spans.document
    end_piece = 4 * np.cumsum(per_document) + 2 * np.arange(documents)
    source = np.concatenate(
        [
            text.astype(np.int64, copy=False),
            [vocab.begin_of_audio_id, vocab.end_of_audio_id, vocab.eod_id],
            vocab.codes_to_tokens(spans.codes),
        ]
    )
    boa, eoa, eod, first_code = len(text) + np.arange(4)
    before, last, opens, closes = _edges(spans, per_document)

    starts = np.empty(4 * count + 2 * documents, np.int64)
    lengths = np.empty_like(starts)
    own_base = text_base[spans.document]
    starts[span_piece], lengths[span_piece] = own_base + before, spans.token_start - before
    starts[span_piece + 1], lengths[span_piece + 1] = boa, opens
    starts[span_piece + 2] = first_code + np.cumsum(spans.code_lengths) - spans.code_lengths
    lengths[span_piece + 2] = spans.code_lengths
    starts[span_piece + 3], lengths[span_piece + 3] = eoa, closes
    starts[end_piece], lengths[end_piece] = text_base + last, text_lengths - last
    starts[end_piece + 1], lengths[end_piece + 1] = eod, 1

    out_start = np.cumsum(lengths) - lengths
    gather = np.repeat(starts - out_start, lengths)
    gather += np.arange(len(gather))
    stops = out_start[end_piece + 1] + 1
    base = np.concatenate([[0], stops[:-1]]) if documents else stops
    pieces = np.sort(np.concatenate([span_piece, end_piece]))
    owner = np.repeat(np.arange(documents), per_document + 1)
    follows = np.full(len(pieces), -1)
    follows[np.searchsorted(pieces, span_piece)] = np.arange(count)
    return Woven(
        tokens=source[gather],
        lengths=np.diff(stops, prepend=0),
        speech_start=out_start[span_piece + 2] - base[spans.document],
        text_start=out_start[pieces] - base[owner],
        text_length=lengths[pieces],
        text_document=owner,
        text_span=follows,
    )


def _edges(
    spans: SpanBatch, per_document: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where text goes on: before each span (s,) and in the end (d,); 0 or 1 delimiters (s,)."""
    count, documents = len(spans.document), len(per_document)
    same = spans.document[1:] == spans.document[:-1]
    joined = same & (spans.token_start[1:] == spans.token_stop[:-1])
    opens, closes = np.ones(count, np.int64), np.ones(count, np.int64)
    opens[1:][joined] = 0
    closes[:-1][joined] = 0
    before = np.zeros(count, np.int64)
    before[1:][same] = spans.token_stop[:-1][same]
    last = np.zeros(documents, np.int64)
    some = per_document > 0
    last[some] = spans.token_stop[np.cumsum(per_document)[some] - 1]
    return before, last, opens, closes
