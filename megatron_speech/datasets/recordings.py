"""Interleaving of recordings: real codes among their own transcripts.

The paper's authors mention interleaved data of two kinds, from text and from audio; this is the
second. Consecutive segments `<document>/<nnn>` make a document, one segment a line. The plan
chooses spans of it as of any text; instead of being generated their codes are cut out of the
recording, into code shards that answer the request shards, and the assemble job does the rest.
Where word times are known (alignments.py) spans may be words; without them they are whole segments.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..data.alignments import Alignments
from ..data.code_shards import CodeRecord, CodeShardInfo, read_code_shards, write_code_shard
from ..data.indexed import dataset_path
from ..errors import ConfigError, DataError
from ..interleaving.assemble import AssembleConfig, assemble
from ..interleaving.plan import PlanConfig, plan
from ..interleaving.plan_folder import plan_path, read_plan, request_paths
from ..interleaving.spans import SpanConfig
from ..interleaving.units import UNITS
from ..io.files import atomic_path
from ..io.parquet import parquet_writer, read_parquet, write_parquet
from ..jobs.claims import exclusive
from ..jobs.progress import Progress
from ..text.speakable import SpeakableConfig
from .speech import consecutive, document_of
from .word_codes import SpokenText, spoken_text

_ROWS = 4096
_NO_TIMES = "no_word_times"
_NO_CODES = "no_codes"
_TEXT_SCHEMA = pa.schema({"id": pa.string(), "text": pa.string()})


@dataclass(frozen=True, kw_only=True)
class AlignedConfig:
    """Transcribed recordings to an interleaved dataset."""

    codes: tuple[Path, ...]
    """Code shards with text, or folders of them."""
    vocab: Path
    """Vocabulary folder of the language model that will read the documents."""
    output_prefix: Path
    """Files are <output-prefix>.bin, .idx, .json, .spans.parquet."""
    alignments: Path | None = None
    """Parquet file of word times: id, start_s, stop_s. Without it --unit must be line."""
    work: Path | None = None
    """Folder for plan and codes; <output-prefix>.work if not given."""
    seed: int = 0
    """Chooses the spans, together with each document's id."""
    tasks: int = 8
    """Shares the documents are cut into."""
    workers: int = 1
    """Processes of plan and assemble."""
    spans: SpanConfig = field(default_factory=lambda: SpanConfig(unit="line"))

    def __post_init__(self) -> None:
        if self.alignments is None and not UNITS[self.spans.unit].is_segment:
            raise ConfigError(
                f"--unit {self.spans.unit} needs --alignments, the times of words; without them "
                "spans are whole segments (--unit line)"
            )
        if UNITS[self.spans.unit].cuts_words:
            raise ConfigError(
                f"--unit {self.spans.unit} cuts words, but times are those of whole words"
            )


@dataclass(frozen=True)
class _Document:
    """Consecutive segments of a recording, a line each."""

    id: str
    segments: list[SpokenText]

    @property
    def text(self) -> str:
        return "\n".join(segment.text for segment in self.segments)

    def codes(self, start: int, stop: int) -> np.ndarray | None:
        """Codes of characters start..stop of the text; None if they cannot be cut out."""
        parts, offset = [np.zeros(0, np.int64)], 0
        for segment in self.segments:
            first, last = start - offset, stop - offset
            if first < len(segment.text) and last > 0:
                part = segment.codes(first, last)
                if part is None:
                    return None
                parts.append(part)
            offset += len(segment.text) + 1
        return np.concatenate(parts)


def build_aligned(config: AlignedConfig) -> dict[str, Any]:
    """Plan, cut and assemble; returns the contents of `<prefix>.json`.

    Raises:
        DataError: no shards, damaged ones, ones of several speech tokenizers, or no text.
        What plan and assemble raise.
    """
    work = config.work or dataset_path(config.output_prefix, ".work")
    with exclusive(work, inside=True):
        return _build(config, work)


def _build(config: AlignedConfig, work: Path) -> dict[str, Any]:
    info, _ = read_code_shards(config.codes)
    if config.alignments is not None:
        info.require_places_in_time("--alignments")
    alignments = Alignments(config.alignments) if config.alignments else None
    with (
        atomic_path(work / "documents.parquet") as temporary,
        parquet_writer(temporary, _TEXT_SCHEMA) as writer,
    ):
        for part in batched(_documents(config, info, alignments), _ROWS):
            rows = [{"id": document.id, "text": document.text} for document in part]
            writer.write_table(pa.Table.from_pylist(rows, _TEXT_SCHEMA))
    plan(
        PlanConfig(
            input=(str(work / "documents.parquet"),),
            vocab=config.vocab,
            output=work / "plan",
            seed=config.seed,
            tasks=config.tasks,
            workers=config.workers,
            spans=config.spans,
            speakable=SpeakableConfig(skip_unspeakable=False),  # it was spoken
        )
    )
    _cut_codes(config, work, info, alignments)
    return assemble(
        AssembleConfig(
            plan=work / "plan",
            codes=work / "codes",
            vocab=config.vocab,
            output_prefix=config.output_prefix,
            workers=config.workers,
        )
    )


def _documents(
    config: AlignedConfig, info: CodeShardInfo, alignments: Alignments | None
) -> Iterator[_Document]:
    """Documents with text and codes, in the order of the shards."""
    _, records = read_code_shards(config.codes, info.tokenizer_fingerprint)
    usable = (r for r in records if len(r.codes) and (r.text or "").strip())
    for segments in consecutive(usable):
        spoken = [spoken_text(record, alignments, info.frame_rate_hz) for record in segments]
        yield _Document(document_of(segments[0].id) or segments[0].id, spoken)


def _cut_codes(
    config: AlignedConfig, work: Path, info: CodeShardInfo, alignments: Alignments | None
) -> None:
    """Code shards that answer the plan's request shards, one for one."""
    cuts = _cuts(work, _documents(config, info, alignments))
    paths = request_paths(work / "plan")
    with Progress("cut", len(paths), "shards") as progress:
        for path in paths:
            requests = read_parquet(path, ("id", "text"))
            records, reasons = [], []
            texts = requests["text"].to_pylist()
            for name, text in zip(requests["id"].to_pylist(), texts, strict=True):
                found, codes = next(cuts, ("nothing", None))
                if found != name:
                    raise DataError(f"{path} asks for {name!r} where {found!r} comes; plan again")
                reasons.append(_NO_TIMES if codes is None else None if len(codes) else _NO_CODES)
                codes = np.zeros(0, np.int64) if codes is None else codes
                duration = len(codes) / info.frame_rate_hz
                records.append(CodeRecord(id=name, codes=codes, text=text, duration_s=duration))
            report = {"id": requests["id"], "batch": [None] * len(records), "reason": reasons}
            schema = pa.schema({"id": pa.string(), "batch": pa.int32(), "reason": pa.string()})
            write_parquet(work / "codes" / "reports" / path.name, pa.table(report, schema))
            write_code_shard(work / "codes" / path.name, records, info)
            progress.advance()


def _cuts(work: Path, documents: Iterator[_Document]) -> Iterator[tuple[str, np.ndarray | None]]:
    """Ids and codes of all spans of the plan, in order."""
    tasks = sorted({path.stem for path in (work / "plan" / "plans").glob("*.parquet")})
    for task in tasks:
        for batch in read_plan(plan_path(work / "plan", int(task))):
            rows = batch.select(["document_id", "character_start", "character_stop"]).to_pylist()
            for row in rows:
                document = next(documents, None)
                if document is None or document.id != row["document_id"]:
                    raise DataError(f"{work / 'plan'} is of other recordings; remove it")
                spans = zip(row["character_start"], row["character_stop"], strict=True)
                for number, (start, stop) in enumerate(spans):
                    yield f"{document.id}/{number:03d}", document.codes(start, stop)
