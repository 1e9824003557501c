"""Job 3, assemble: plan and code shards -> interleaved documents in .bin/.idx, with provenance.

    <prefix>.bin, .idx        documents in the corpus's order
    <prefix>.spans.parquet    where every run of tokens comes from (provenance.py)
    <prefix>.rejected.jsonl   spans that stayed text, with the reason
    <prefix>.json             counts; written last

A span whose codes were rejected stays text. A code shard that is missing is an error.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..data.code_shards import CodeShardInfo, read_shard_info
from ..data.indexed import IndexedWriter, dataset_path, is_written
from ..errors import DataError, VocabularyError
from ..io.files import fingerprint_of, read_json_object, write_json
from ..io.rejected import Rejected, write_rejected
from ..jobs.executors import ClusterConfig, Place, sole_job
from ..jobs.folders import remove_folder
from ..text.build_vocab import open_vocab
from ..text.vocab import SpeechTextVocab
from .code_stream import CodeStream
from .plan_folder import plan_path, read_plan, request_paths
from .provenance import SPAN_SCHEMA, PlanColumns, provenance, shifted_spans
from .report import write_report
from .weave import weave

_WOVEN_AT_A_TIME = 128  # documents: arrays that stay in the processor's cache
_COUNTS = ("words", "spoken_words", "spans")


@dataclass(frozen=True, kw_only=True)
class AssembleConfig:
    """Plan and code shards to an indexed dataset."""

    plan: Path
    """Folder written by the plan job."""
    codes: Path
    """Folder of code shards named like the request shards."""
    vocab: Path
    """Vocabulary folder the plan was made with."""
    output_prefix: Path
    """Files are <output-prefix>.bin, .idx, .json, .spans.parquet."""
    workers: int = 1
    """Processes."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)


@dataclass(frozen=True)
class _Task:
    number: int
    part: Path
    shards: list[Path]
    generator: str
    config: AssembleConfig


def assemble(config: AssembleConfig) -> dict[str, Any]:
    """Run the job and return the contents of `<prefix>.json`; `<prefix>.report.html` shows them.

    Raises:
        DataError: the plan is unfinished, a code shard is missing, damaged, of another speech
            tokenizer or of other requests.
        VocabularyError: the plan or the codes belong to another vocabulary.
        InUseError: another process makes this dataset.
        Submitted: Slurm has it now.
    """
    with sole_job(config.output_prefix, config.cluster):
        return _assemble(config)


def _assemble(config: AssembleConfig) -> dict[str, Any]:
    started = time.monotonic()
    vocab = open_vocab(config.vocab)
    requests = request_paths(config.plan)
    planned = read_json_object(config.plan / "plan.json", vocab_fingerprint=str, not_speakable=int)
    if planned["vocab_fingerprint"] != vocab.fingerprint:
        raise VocabularyError(
            f"{config.plan} was made with vocabulary {planned['vocab_fingerprint']}, not "
            f"{vocab.fingerprint} ({config.vocab}); plan again with this vocabulary"
        )
    info = _check_codes(config, [path.name for path in requests], vocab)
    settings = config.codes / "settings.json"
    generator = ""
    if settings.exists():
        found = read_json_object(settings, generator_fingerprint=str)
        generator = found["generator_fingerprint"]
    folder = dataset_path(config.output_prefix, ".parts")
    tasks = []
    for number in range(planned["tasks"]):
        names = [path.name for path in requests if path.name.startswith(f"{number:05d}-")]
        shards = [config.codes / name for name in names]
        tasks.append(_Task(number, folder / f"{number:05d}", shards, generator, config))
    place = Place.of(assemble, config, dataset_path(config.output_prefix, ".logs"))
    place.run(_assemble_task, tasks, workers=config.workers, description="assemble")
    facts = _join_parts(config, vocab, [task.part for task in tasks], info, planned)
    remove_folder(folder)
    counts = config.codes / "generation.json"  # real speech has none
    write_report(
        dataset_path(config.output_prefix, ".report.html"),
        facts,
        read_json_object(counts) if counts.exists() else {},
        config.plan,
        {"assemble": time.monotonic() - started},
        config.workers,
    )
    return facts


def _check_codes(
    config: AssembleConfig, names: list[str], vocab: SpeechTextVocab
) -> CodeShardInfo | None:
    info = None
    for name in names:
        path = config.codes / name
        if not path.exists():
            raise DataError(f"code shard {path} is missing; run tools/build_dataset.py generate")
        found = read_shard_info(path)
        info = info or found
        if found.tokenizer_fingerprint != info.tokenizer_fingerprint:
            raise DataError(
                f"{path} was made by speech tokenizer {found.tokenizer_fingerprint}, the shards "
                f"before it by {info.tokenizer_fingerprint}; generate them with one model"
            )
        fingerprint = found.tokenizer_fingerprint
        vocab.require_speech_tokenizer(fingerprint, str(path), str(config.vocab))
        if found.num_codes != vocab.num_codes:
            raise VocabularyError(
                f"{path} holds codes of a codebook of {found.num_codes}, the vocabulary "
                f"{config.vocab} has {vocab.num_codes}"
            )
    return info


def _assemble_task(task: _Task) -> None:
    """Write one task's part, unless it is there already from the same inputs."""
    config = task.config
    plan_file = plan_path(config.plan, task.number)
    inputs = [(str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in [plan_file, *task.shards]]
    key = fingerprint_of(repr(inputs), task.generator)
    report_path = dataset_path(task.part, ".report.json")
    known = is_written(task.part) and report_path.exists()
    if known and read_json_object(report_path).get("key") == key:
        return
    report_path.unlink(missing_ok=True)
    vocab = open_vocab(config.vocab)
    report: dict[str, Any] = {"key": key, **dict.fromkeys(_COUNTS, 0)}
    rejected: list[Rejected] = []
    codes = CodeStream(task.shards, config.codes)
    with IndexedWriter(task.part, vocab) as writer:
        spans_writer = writer.companion(".spans.parquet", SPAN_SCHEMA)
        for batch in read_plan(plan_file):
            tables = []
            for first in range(0, batch.num_rows, _WOVEN_AT_A_TIME):
                columns = PlanColumns(batch.slice(first, _WOVEN_AT_A_TIME))
                taken = codes.take(columns.span_ids)
                keep = taken.lengths > 0
                spans = columns.spans(keep, taken.codes, taken.lengths)
                woven = weave(vocab, columns.tokens, columns.token_counts, spans)
                tables.append(
                    provenance(columns, keep, spans, woven, taken, writer.documents, task.generator)
                )
                writer.add(woven.tokens, woven.lengths)
                report["words"] += int(columns.words.sum())
                report["spoken_words"] += int(columns.flat("span_words")[keep].sum())
                report["spans"] += int(keep.sum())
                rejected += taken.rejected
            spans_writer.write_table(pa.concat_tables(tables))
        codes.require_end()
    writer.write_facts("interleaved", None)
    report["rejected"] = [[item.id, item.reason, item.detail] for item in rejected]
    write_json(report_path, report)


def _join_parts(
    config: AssembleConfig,
    vocab: SpeechTextVocab,
    parts: list[Path],
    info: CodeShardInfo | None,
    planned: dict[str, Any],
) -> dict[str, Any]:
    needed = {**dict.fromkeys(_COUNTS, int), "rejected": list}
    reports = [read_json_object(dataset_path(part, ".report.json"), **needed) for part in parts]
    rejected = [Rejected(*item) for report in reports for item in report["rejected"]]
    counts: dict[str, Any] = {key: sum(report[key] for report in reports) for key in _COUNTS}
    prefix = config.output_prefix
    with IndexedWriter(prefix, vocab) as writer:
        spans_writer = writer.companion(".spans.parquet", SPAN_SCHEMA)
        for part in parts:
            for table in shifted_spans(part, writer.documents):
                spans_writer.write_table(table)
            writer.add_indexed(part)
    counts["speech_word_fraction"] = counts["spoken_words"] / max(counts["words"], 1)
    counts["rejected"] = write_rejected(dataset_path(prefix, ".rejected.jsonl"), rejected)
    counts["not_speakable"] = planned["not_speakable"]
    writer.write_facts("interleaved", info.tokenizer_fingerprint if info else None, counts)
    return read_json_object(dataset_path(prefix, ".json"))
