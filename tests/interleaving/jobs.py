"""The three jobs with a look-up engine, as tests run them."""

from pathlib import Path

from megatron_speech.data.indexed import open_tokens
from megatron_speech.interleaving.assemble import AssembleConfig, assemble
from megatron_speech.interleaving.generate import GenerateConfig, generate
from megatron_speech.interleaving.plan import PlanConfig, plan
from tests.interleaving.samples import LookUpEngine


def plan_config(world: Path, output: Path, **changes) -> PlanConfig:
    settings = {
        "input": (str(world / "corpus.parquet"),),
        "vocab": world / "vocab",
        "output": output,
        "tasks": 3,
        "requests_per_shard": 20,
        **changes,
    }
    return PlanConfig(**settings)


def run_jobs(world: Path, work: Path, workers: int = 1, **changes) -> dict:
    plan(plan_config(world, work / "plan", workers=workers, **changes))
    generate(generate_config(world, work), LookUpEngine())
    return assemble(assemble_config(world, work, workers))


def generate_config(world: Path, work: Path, **changes) -> GenerateConfig:
    return GenerateConfig(
        plan=work / "plan", model=work, like=world / "like", output=work / "codes", **changes
    )


def assemble_config(world: Path, work: Path, workers: int = 1) -> AssembleConfig:
    return AssembleConfig(
        plan=work / "plan",
        codes=work / "codes",
        vocab=world / "vocab",
        output_prefix=work / "out",
        workers=workers,
    )


def files_of(folder: Path) -> dict[str, bytes]:
    """All files but the page for people, which tells times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".report.html")
    }


def documents_of(prefix: Path) -> list[list[int]]:
    index, tokens = open_tokens(prefix)
    return [tokens[a : a + n].tolist() for a, n in zip(index.starts, index.lengths, strict=True)]
