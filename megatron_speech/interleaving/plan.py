"""Job 1, plan: documents -> which words are spoken -> request shards and a plan.

    <output>/settings.json            what the plan was begun with
    <output>/plans/00000.parquet      one row per document of the task: tokens and spans
    <output>/requests/00000-00000.parquet   texts to be spoken: id, text, document, span, seed
    <output>/plan.json                counts; written last

A task is a contiguous share of the corpus and a pure function of it; any number of workers, and
any number of kills, ends in the same files.
"""

from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..errors import ConfigError, DataError
from ..io.files import atomic_path, read_json_object, write_json
from ..io.parquet import parquet_writer
from ..io.rejected import Rejected, write_rejected
from ..jobs.executors import ClusterConfig, Place, sole_job
from ..jobs.folders import same_job
from ..jobs.randomness import document_keys, random_bits
from ..text.corpora import (
    Document,
    Piece,
    find_texts,
    fingerprint_inputs,
    read_pieces,
    split_inputs,
)
from ..text.markup import spoken_text
from ..text.numbers import numbers_in_words, require_language
from ..text.segmenters import segmenter_name
from ..text.speakable import SpeakableConfig
from ..text.vocab import SpeechTextVocab
from ..text.words import is_speakable
from .cut_points import CutText, choose_spans, cut_text
from .plan_folder import plan_path
from .requests import RequestWriter
from .spans import SpanConfig
from .units import UNITS

_DOCUMENTS_AT_A_TIME = 1024
_SEED_PURPOSE = 100
_INT_LIST = pa.list_(pa.int32())
PLAN_SCHEMA = pa.schema(
    {
        "document_id": pa.string(),
        "tokens": _INT_LIST,
        "words": pa.int32(),
        "characters": pa.int32(),
        "token_start": _INT_LIST,
        "token_stop": _INT_LIST,
        "character_start": _INT_LIST,
        "character_stop": _INT_LIST,
        "span_words": _INT_LIST,
        "seed": pa.list_(pa.int64()),
    }
)
_COUNTS = (
    "documents", "words", "unspeakable_words", "spoken_words", "text_tokens", "requests",
    "not_speakable",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PlanSettings:
    """What is spoken of which documents."""

    input: tuple[str, ...]
    """Corpus files, folders or patterns: .parquet, .jsonl, .jsonl.gz, .jsonl.zst."""
    vocab: Path
    """Vocabulary folder of the language model that will read the documents."""
    text_key: str = "text"
    """Column or key that holds the text."""
    seed: int = 0
    """Chooses the spans, together with each document's id."""
    tasks: int = 8
    """Shares the corpus is cut into; decides the files, not the documents."""
    workers: int = 1
    """Processes."""
    requests_per_shard: int = 20_000
    """Most texts in one request shard."""
    spans: SpanConfig = field(default_factory=SpanConfig)
    speakable: SpeakableConfig = field(default_factory=SpeakableConfig)
    segment_words: bool = False
    """Find the words of Chinese (jieba), Japanese or Thai (BudouX): no span begins or ends in one.
    Without it each Chinese or Japanese character is a word, and Thai is cut at its spaces alone."""


@dataclass(frozen=True, kw_only=True)
class PlanConfig(PlanSettings):
    """Documents to spans and request shards."""

    output: Path
    """Folder for plans and request shards."""
    language: str = "en"
    """Language of the texts (ISO 639-1): of their sentences, words and numbers."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        if self.tasks < 1 or self.requests_per_shard < 1:
            raise ConfigError("tasks and requests_per_shard must be at least 1")
        if self.speakable.spoken_numbers:
            require_language(self.language)
        if self.segment_words and UNITS[self.spans.unit].cuts_words:
            raise ConfigError(f"--segment-words is not for --unit {self.spans.unit}: it cuts words")


@dataclass(frozen=True)
class _Task:
    number: int
    pieces: list[Piece]
    config: PlanConfig


def plan(config: PlanConfig) -> dict[str, Any]:
    """Run the job and return the counts of `plan.json`; finished tasks are kept.

    Raises:
        DataError: no corpus there, a column missing, or not one usable document.
        ConfigError: the output folder was begun with other settings or another corpus.
        InUseError: another process plans into the folder.
        Submitted: Slurm has it now.
    """
    with sole_job(config.output, config.cluster, inside=True):
        return _plan(config)


def _plan(config: PlanConfig) -> dict[str, Any]:
    vocab = SpeechTextVocab.from_pretrained(config.vocab)
    paths = find_texts(config.input)
    splitter = UNITS[config.spans.unit].splitter
    settings = {
        "inputs": fingerprint_inputs(paths, config.workers),
        "vocab_fingerprint": vocab.fingerprint,
        "spans": asdict(config.spans),
        "speakable": asdict(config.speakable),
        "sentences": splitter and splitter(config.language),
        **{
            key: getattr(config, key)
            for key in ("text_key", "seed", "tasks", "requests_per_shard", "language")
        },
    }
    if config.segment_words:
        settings["words"] = segmenter_name(config.language)
    same_job(config.output / "settings.json", settings)
    if (config.output / "plan.json").exists():
        return read_json_object(config.output / "plan.json", request_shards=list)
    shares = split_inputs(paths, config.tasks)
    tasks = [_Task(number, pieces, config) for number, pieces in enumerate(shares)]
    place = Place.of(plan, config, config.output / "logs")
    place.run(_plan_task, tasks, workers=config.workers, description="plan")
    needed = {**dict.fromkeys(_COUNTS, int), "rejected": list}
    reports = [
        read_json_object(_report_path(config.output, task.number), **needed) for task in tasks
    ]
    rejected = [Rejected(*item) for report in reports for item in report["rejected"]]
    counts: dict[str, Any] = {key: sum(report[key] for report in reports) for key in _COUNTS}
    counts["rejected"] = write_rejected(config.output / "rejected.jsonl", rejected)
    counts["request_shards"] = [name for report in reports for name in report["shards"]]
    if not counts["documents"]:
        raise DataError(
            f"no usable document in {', '.join(config.input)}: {counts['rejected'] or 'no records'}"
        )
    write_json(config.output / "plan.json", {**settings, **counts})
    return counts


def _report_path(folder: Path, task: int) -> Path:
    return folder / "plans" / f"{task:05d}.json"


def _plan_task(task: _Task) -> None:
    config, report_path = task.config, _report_path(task.config.output, task.number)
    if report_path.exists():
        return
    vocab = SpeechTextVocab.from_pretrained(config.vocab)
    records = read_pieces(task.pieces, config.text_key)
    rejected: list[Rejected] = []
    report: dict[str, int] = dict.fromkeys(_COUNTS, 0)
    with (
        atomic_path(plan_path(config.output, task.number)) as temporary,
        parquet_writer(temporary, PLAN_SCHEMA) as writer,
        RequestWriter(config.output / "requests", task.number, config.requests_per_shard) as shards,
    ):
        while batch := list(islice(records, _DOCUMENTS_AT_A_TIME)):
            rejected += [record for record in batch if isinstance(record, Rejected)]
            documents = [record for record in batch if isinstance(record, Document)]
            rows, requests = _plan_batch(vocab, documents, config, report)
            writer.write_table(_table(rows, PLAN_SCHEMA))
            shards.add(requests)
    write_json(
        report_path,
        {
            **report,
            "shards": shards.names,
            "rejected": [[item.id, item.reason, item.detail] for item in rejected],
        },
    )


def _plan_batch(
    vocab: SpeechTextVocab, documents: list[Document], config: PlanConfig, report: dict[str, int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    keys = document_keys(config.seed, [document.id for document in documents])
    unit, skip = config.spans.unit, config.speakable.skip_unspeakable
    how = (unit, config.language, skip, config.segment_words)
    cuts = [cut_text(vocab, document.text, *how) for document in documents]
    spans = choose_spans(cuts, keys, config.spans)
    edges = np.searchsorted(spans.document, np.arange(len(documents) + 1)).tolist()
    rows, requests = [], []
    for number, (document, cut) in enumerate(zip(documents, cuts, strict=True)):
        chosen = slice(edges[number], edges[number + 1])
        row, silent = _plan_document(
            document, cut, keys[number], spans.start[chosen], spans.stop[chosen]
        )
        asked = _requests(document, cut, row, config)
        rows.append(row)
        requests += asked
        report["documents"] += 1
        report["words"] += row["words"]
        report["unspeakable_words"] += int((~cut.speakable).sum())
        report["spoken_words"] += sum(row["span_words"])
        report["text_tokens"] += len(cut.tokens)
        report["requests"] += len(asked)
        report["not_speakable"] += silent
    return rows, requests


def _plan_document(
    document: Document, cut: CutText, key: np.uint64, start: np.ndarray, stop: np.ndarray
) -> tuple[dict[str, Any], int]:
    """The plan's row, and how many spans had nothing to say."""
    characters = np.stack([cut.unit_characters[start, 0], cut.unit_characters[stop - 1, 1]], axis=1)
    keep = np.array([is_speakable(cut.text[a:b]) for a, b in characters.tolist()], dtype=bool)
    start, stop, characters = start[keep], stop[keep], characters[keep]
    bits = random_bits(np.repeat(key, len(start)), _SEED_PURPOSE, np.arange(len(start)))
    row = {
        "document_id": document.id,
        "tokens": cut.tokens,
        "words": len(cut.unit_tokens),
        "characters": len(cut.text),
        "token_start": cut.unit_tokens[start, 0],
        "token_stop": cut.unit_tokens[stop - 1, 1],
        "character_start": characters[:, 0],
        "character_stop": characters[:, 1],
        "span_words": (stop - start).tolist(),
        "seed": (bits >> np.uint64(1)).astype(np.int64).tolist(),
    }
    return row, int((~keep).sum())


def _requests(
    document: Document, cut: CutText, row: dict[str, Any], config: PlanConfig
) -> list[dict[str, Any]]:
    spans = zip(row["character_start"].tolist(), row["character_stop"].tolist(), strict=True)
    requests = []
    for number, (start, stop) in enumerate(spans):
        text = spoken_text(cut.text, start, stop)
        if config.speakable.spoken_numbers:
            text = numbers_in_words(text, config.language)
        requests.append(
            {
                "id": f"{document.id}/{number:03d}",
                "text": text,
                "document_id": document.id,
                "span": number,
                "seed": row["seed"][number],
                "position": start / len(cut.text),
                "content": cut.content.kind(start, stop),
            }
        )
    return requests


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    columns = {name: [row[name] for row in rows] for name in schema.names}
    return pa.Table.from_pydict(columns, schema)
