"""The three jobs one after the other on one machine."""

import itertools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.indexed import dataset_path
from .assemble import AssembleConfig, assemble
from .engines import EngineConfig
from .gates import GateConfig
from .generate import GenerateConfig, generate
from .plan import PlanConfig, plan
from .report import write_report
from .spans import SpanConfig
from .speakable import SpeakableConfig

JOBS = ("plan", "generate", "assemble")


@dataclass(frozen=True, kw_only=True)
class InterleavedConfig:
    """Corpus and text-to-token model to an interleaved dataset."""

    input: tuple[str, ...]
    """Corpus files, folders or patterns: .parquet, .jsonl, .jsonl.gz, .jsonl.zst."""
    vocab: Path
    """Vocabulary folder of the language model that will read the documents."""
    model: Path
    """Exported text-to-token model."""
    like: Path
    """A code shard (or folder of them) of the speech the model was trained on."""
    output_prefix: Path
    """Files are <output-prefix>.bin, .idx, .json, .spans.parquet."""
    work: Path | None = None
    """Folder for plan and codes; <output-prefix>.work if not given."""
    text_key: str = "text"
    """Column or key that holds the text."""
    seed: int = 0
    """Chooses the spans, together with each document's id."""
    tasks: int = 8
    """Shares the corpus is cut into."""
    workers: int = 1
    """Processes of each job."""
    requests_per_shard: int = 20_000
    """Most texts in one request shard."""
    spans: SpanConfig = field(default_factory=SpanConfig)
    speakable: SpeakableConfig = field(default_factory=SpeakableConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    gates: GateConfig = field(default_factory=GateConfig)


def build_interleaved(config: InterleavedConfig) -> dict[str, Any]:
    """Plan, generate and assemble; run again after a stop, it goes on where it was.

    Returns the contents of `<prefix>.json`, and the generator's counts under `generation`; writes
    `<prefix>.report.html`, a page on all of it. Raises what the three jobs raise.
    """
    work = config.work or dataset_path(config.output_prefix, ".work")
    times = [time.monotonic()]
    plan(
        PlanConfig(
            input=config.input,
            vocab=config.vocab,
            output=work / "plan",
            text_key=config.text_key,
            seed=config.seed,
            tasks=config.tasks,
            workers=config.workers,
            requests_per_shard=config.requests_per_shard,
            language=config.engine.language,
            spans=config.spans,
            speakable=config.speakable,
        )
    )
    times.append(time.monotonic())
    generation = generate(
        GenerateConfig(
            plan=work / "plan",
            model=config.model,
            like=config.like,
            output=work / "codes",
            workers=config.workers,
            engine=config.engine,
            gates=config.gates,
        )
    )
    times.append(time.monotonic())
    facts = assemble(
        AssembleConfig(
            plan=work / "plan",
            codes=work / "codes",
            vocab=config.vocab,
            output_prefix=config.output_prefix,
            workers=config.workers,
        )
    )
    times.append(time.monotonic())
    seconds = {
        job: stop - start
        for job, (start, stop) in zip(JOBS, itertools.pairwise(times), strict=True)
    }
    report = dataset_path(config.output_prefix, ".report.html")
    write_report(report, facts, generation, work / "plan", seconds, config.workers)
    return {**facts, "generation": generation}
