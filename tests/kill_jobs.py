"""The tools that write, each as a small job to be killed (enumerated_kills.py)."""

import os
from collections.abc import Callable
from pathlib import Path

from tests.enumerated_kills import Job, in_fork

JOBS: dict[str, tuple[Callable[[Path], object], Callable[[Path], Job]]] = {}
"""By name: what makes the inputs, in a process of its own; and the job on them."""


def make_job(name: str, folder: Path) -> Job:
    """The job called `name`, with its inputs made in `folder`."""
    prepare, job = JOBS[name]
    inputs = folder / "inputs"
    made = job(inputs)  # imports what the fork below needs
    if not inputs.exists():
        log = folder / "log.txt"
        if in_fork(lambda: prepare(inputs), log):
            raise RuntimeError(log.read_text())
    return made


def _job(name: str, prepare: Callable[[Path], object]) -> Callable:
    def keep(job: Callable[[Path], Job]) -> Callable[[Path], Job]:
        JOBS[name] = prepare, job
        return job

    return keep


def no_pages(name: str, data: bytes) -> bytes | None:
    """All but pages for people, which tell times."""
    return None if name.endswith(".html") else data


def _corpus(inputs: Path) -> None:
    from tests.corpus.samples import make_vocab, write_codes, write_corpus

    make_vocab(inputs)
    write_corpus(inputs / "corpus.parquet", 12)
    write_codes(inputs / "like" / "a.parquet")


def _planned(inputs: Path) -> None:
    from megatron_speech.corpus.generate import generate
    from megatron_speech.corpus.plan import plan
    from tests.corpus.jobs import generate_config, plan_config
    from tests.corpus.samples import LookUpEngine

    _corpus(inputs)
    plan(plan_config(inputs, inputs / "plan", tasks=2))
    generate(generate_config(inputs, inputs), LookUpEngine())


@_job("preprocess", _corpus)
def preprocess(inputs: Path) -> Job:
    from megatron_speech.corpus import text_documents
    from tools import preprocess_data

    def run(work: Path) -> None:
        text_documents._PART_BYTES = 1 + os.path.getsize(inputs / "corpus.parquet") // 2
        flags = ["--input", inputs / "corpus.parquet", "--tokenizer-model", inputs / "vocab"]
        flags += ["--output-prefix", work / "d", "--append-eod"]
        preprocess_data.main(list(map(str, flags)))

    return Job(run=run, finished=("d_text_document.json",))


@_job("plan", _corpus)
def plan_spans(inputs: Path) -> Job:
    from megatron_speech.corpus.plan import plan
    from tests.corpus.jobs import plan_config

    def run(work: Path) -> None:
        plan(plan_config(inputs, work / "plan", tasks=2, requests_per_shard=10))

    return Job(run=run, finished=("plan/plan.json",))


@_job("generate", _planned)
def generate_codes(inputs: Path) -> Job:
    from megatron_speech.corpus.generate import GenerateConfig, generate
    from tests.corpus.samples import LookUpEngine

    def run(work: Path) -> None:
        config = GenerateConfig(
            plan=inputs / "plan", model=inputs, like=inputs / "like", output=work / "codes"
        )
        generate(config, LookUpEngine())

    return Job(run=run, finished=("codes/generation.json",))


@_job("assemble", _planned)
def assemble_documents(inputs: Path) -> Job:
    from megatron_speech.corpus.assemble import AssembleConfig, assemble

    def run(work: Path) -> None:
        config = AssembleConfig(
            plan=inputs / "plan",
            codes=inputs / "codes",
            vocab=inputs / "vocab",
            output_prefix=work / "out",
        )
        assemble(config)

    return Job(run=run, finished=("out.json",), same=no_pages)


@_job("merge", _planned)
def merge_datasets(inputs: Path) -> Job:
    from megatron_speech.corpus.assemble import AssembleConfig, assemble
    from tools import merge_datasets

    def run(work: Path) -> None:
        flags = ["--input", *sorted(inputs.glob("part-?")), "--vocab", inputs / "vocab"]
        merge_datasets.main(list(map(str, [*flags, "--output-prefix", work / "whole"])))

    def begin(work: Path) -> None:
        folders = {"plan": inputs / "plan", "codes": inputs / "codes", "vocab": inputs / "vocab"}
        for part in ("a", "b"):
            assemble(AssembleConfig(**folders, output_prefix=inputs / f"part-{part}"))
            (inputs / f"part-{part}").touch()  # so that a pattern finds the prefix

    return Job(run=run, finished=("whole.json",), begin=begin)


def _of_codes(kind: str, finished: tuple[str, ...]) -> Callable[[Path], Job]:
    def job(inputs: Path) -> Job:
        from tools import build_dataset

        def run(work: Path) -> None:
            flags = [kind, "--codes", inputs / "like", "--vocab", inputs / "vocab"]
            build_dataset.main(list(map(str, [*flags, "--output-prefix", work / "d"])))

        return Job(run=run, finished=finished, same=no_pages)

    return job


_job("speech", _corpus)(_of_codes("speech", ("d.json",)))
_job("pairs", _corpus)(_of_codes("pairs", ("d-asr.json", "d-tts.json")))
_job("text-to-token", _corpus)(_of_codes("text-to-token", ("d.json",)))
_job("interleaved-aligned", _corpus)(_of_codes("interleaved-aligned", ("d.json",)))


@_job("vocabulary", _corpus)
def train_vocabulary(inputs: Path) -> Job:
    from tools import build_vocab

    def run(work: Path) -> None:
        flags = ["--input", inputs / "corpus.parquet", "--train-bpe", 300, "--num-codes", 16]
        build_vocab.main(list(map(str, [*flags, "--output", work / "vocab"])))

    return Job(run=run, finished=("vocab/speech_text_vocab.json",))
