"""The three jobs one after the other on one machine."""

import itertools
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..data.indexed import dataset_path
from .assemble import AssembleConfig, assemble
from .generate import GenerateConfig, GenerateSettings, generate
from .plan import PlanConfig, PlanSettings, plan
from .report import write_report

JOBS = ("plan", "generate", "assemble")


@dataclass(frozen=True, kw_only=True)
class InterleavedConfig(PlanSettings, GenerateSettings):
    """Corpus and text-to-token model to an interleaved dataset; `workers` of each job."""

    output_prefix: Path
    """Files are <output-prefix>.bin, .idx, .json, .spans.parquet."""
    work: Path | None = None
    """Folder for plan and codes; <output-prefix>.work if not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.engine.require_here()

    def settings(self, kind: type) -> dict[str, Any]:
        """Those of one of the jobs, by name."""
        return {each.name: getattr(self, each.name) for each in fields(kind)}


def build_interleaved(config: InterleavedConfig) -> dict[str, Any]:
    """Plan, generate and assemble; run again after a stop, it goes on where it was.

    Returns the contents of `<prefix>.json`, and the generator's counts under `generation`; writes
    `<prefix>.report.html`, a page on all of it. Raises what the three jobs raise.
    """
    work = config.work or dataset_path(config.output_prefix, ".work")
    times = [time.monotonic()]
    language = config.engine.language
    planned = config.settings(PlanSettings)
    plan(PlanConfig(output=work / "plan", language=language, **planned))
    times.append(time.monotonic())
    settings = config.settings(GenerateSettings)
    generation = generate(GenerateConfig(plan=work / "plan", output=work / "codes", **settings))
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
