"""Datasets made readable: documents as runs of text and speech, on a terminal or as a page."""

import html
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ..data.indexed import dataset_path, map_tokens
from ..data.indexed_files import DatasetFacts, without_checksum
from ..data.soundness import sound_dataset
from ..errors import DataError, VocabularyError, require_within
from ..io.files import write_text
from ..io.parquet import named_in_errors
from ..text.vocab import SpeechTextVocab

_COLOURS = ("cyan", "magenta", "yellow", "green")
_PAGE = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<style>body{{font:16px/1.6 system-ui,sans-serif;max-width:48rem;margin:2rem auto;padding:0 1rem}}
article{{border-top:1px solid #ccc;padding:1rem 0;white-space:pre-wrap}}
.speech{{background:#cdeef6;border-radius:.3rem;padding:.1rem .3rem}}
.codes{{color:#557;font-size:.75em}}.special{{color:#999;font-size:.75em}}</style>
<h1>{title}</h1><p>{summary}</p>{articles}
"""


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Which dataset to show, and how much of it."""

    vocab: Path
    """Vocabulary folder the dataset was made with."""
    documents: int = 3
    """Documents to show."""
    first: int = 0
    """Number of the first document."""
    most_codes: int = 8
    """Codes of a speech run to spell out."""
    codes: Path | None = None
    """Code shards that tell what a span says; <prefix>.work/codes if that exists."""
    html: Path | None = None
    """Also write a page."""

    def __post_init__(self) -> None:
        require_within(self, 0, "documents", "first")


@dataclass(frozen=True)
class Run:
    """Consecutive tokens of one kind: text, speech or special.

    `text` is the decoded text, or the codes spelled out; `spoken` what speech says, if known.
    """

    kind: str
    tokens: np.ndarray
    text: str
    spoken: str | None = None


@dataclass(frozen=True)
class Inspection:
    """What a dataset holds: its facts and the runs of the documents asked for."""

    facts: DatasetFacts
    documents: list[list[Run]]


def inspect(prefix: Path, config: InspectConfig) -> Inspection:
    """Read some documents of a dataset.

    Raises:
        DataError: files missing, unfinished or cut short, or no such documents.
        VocabularyError: the dataset was made with another vocabulary.
    """
    vocab = SpeechTextVocab.from_pretrained(config.vocab)
    facts, index = sound_dataset(prefix)
    if not facts.fits(vocab):
        raise VocabularyError(
            f"{prefix} was made with vocabulary {facts.vocab_fingerprint}, {config.vocab} is "
            f"{vocab.fingerprint}; give the vocabulary it was made with"
        )
    if line := without_checksum({prefix: facts}):
        print(line, file=sys.stderr)
    tokens = map_tokens(prefix, index)
    if config.first >= len(index.lengths):
        raise DataError(f"{prefix} has {len(index.lengths)} documents, none number {config.first}")
    stop = min(config.first + config.documents, len(index.lengths))
    spoken = _spoken_words(prefix, range(config.first, stop), config.codes)
    documents = []
    for number in range(config.first, stop):
        start = index.starts[number]
        document = np.asarray(tokens[start : start + index.lengths[number]], dtype=np.int64)
        documents.append(list(runs_of(vocab, document, spoken.get(number, {}))))
    return Inspection(facts, documents)


def runs_of(
    vocab: SpeechTextVocab, tokens: np.ndarray, spoken: Mapping[int, str] | None = None
) -> Iterator[Run]:
    """Split a document (n,) into runs of one kind; `spoken` has words by position of the token."""
    special = np.isin(tokens, [*vocab.specials.values(), vocab.eod_id])
    kinds = np.where(vocab.is_speech(tokens), 1, np.where(special, 2, 0))
    edges = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(tokens)]
    for start, stop in pairwise(edges if len(tokens) else []):
        run = tokens[start:stop]
        if kinds[start] == 1:
            words = [spoken[i] for i in range(start, stop) if spoken and i in spoken]
            codes = " ".join(map(str, vocab.tokens_to_codes(run).tolist()))
            yield Run("speech", run, codes, " ".join(words) or None)
        else:
            yield Run("special" if kinds[start] else "text", run, vocab.text.decode(run.tolist()))


def _spoken_words(prefix: Path, documents: range, codes: Path | None) -> dict[int, dict[int, str]]:
    """What the spans of some documents say: document -> first token of the span -> words."""
    spans_path = dataset_path(prefix, ".spans.parquet")
    codes = codes or dataset_path(prefix, ".work") / "codes"
    if not spans_path.exists() or not codes.exists():
        return {}
    wanted = [("document", ">=", documents.start), ("document", "<", documents.stop)]
    with named_in_errors(spans_path):
        spans = pq.read_table(spans_path, filters=[*wanted, ("modality", "=", "speech")])
    texts: dict[str, str] = {}
    for shard in sorted(set(spans["request_shard"].to_pylist())):
        names = [("id", "in", spans["source_id"].to_pylist())]
        with named_in_errors(codes / shard):
            found = pq.read_table(codes / shard, columns=["id", "text"], filters=names)
        texts.update(zip(found["id"].to_pylist(), found["text"].to_pylist(), strict=True))
    spoken: dict[int, dict[int, str]] = {}
    columns = (spans[name].to_pylist() for name in ("document", "token_start", "source_id"))
    for document, start, name in zip(*columns, strict=True):
        spoken.setdefault(document, {})[start] = texts.get(name, "")
    return spoken


def summary(facts: DatasetFacts) -> str:
    """One line of counts."""
    total = max(facts.text_tokens + facts.speech_tokens, 1)
    return (
        f"{facts.kind}: {facts.documents:,} documents, {facts.text_tokens:,} text tokens, "
        f"{facts.speech_tokens:,} speech tokens ({100 * facts.speech_tokens / total:.1f}%), "
        f"loss on {facts.loss_rule}, packing {facts.packing}"
    )


def print_inspection(inspection: Inspection, config: InspectConfig) -> None:
    """Show documents on the terminal, speech in colour."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    console.print(summary(inspection.facts), style="bold")
    for number, runs in enumerate(inspection.documents, start=config.first):
        line = Text(f"\n[{number}] ", style="bold")
        colour = 0
        for run in runs:
            if run.kind == "speech":
                style = f"{_COLOURS[colour % len(_COLOURS)]} reverse"
                words = f"{run.spoken} " if run.spoken else ""
                line.append(f" {words}{_short_codes(run, config)} ", style)
                colour += 1
            else:
                line.append(run.text, "dim" if run.kind == "special" else "")
        console.print(line)


def write_page(inspection: Inspection, title: str, config: InspectConfig) -> None:
    """Write the documents as a self-contained page to `config.html`."""
    assert config.html is not None
    articles = []
    for runs in inspection.documents:
        spans = "".join(_span(run, config) for run in runs)
        articles.append(f"<article>{spans}</article>")
    page = _PAGE.format(
        title=html.escape(title), summary=summary(inspection.facts), articles="\n".join(articles)
    )
    write_text(config.html, page)


def _span(run: Run, config: InspectConfig) -> str:
    text = html.escape(run.text)
    if run.kind == "speech":
        words, codes = html.escape(run.spoken or ""), html.escape(_short_codes(run, config))
        return f'<span class="speech">{words} <span class="codes">{codes}</span></span>'
    return f'<span class="special">{text}</span>' if run.kind == "special" else text


def _short_codes(run: Run, config: InspectConfig) -> str:
    codes = run.text.split()
    more = f" … ({len(codes)} codes)" if len(codes) > config.most_codes else ""
    return "♪ " + " ".join(codes[: config.most_codes]) + more
