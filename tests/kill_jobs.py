"""The tools that write, each as a small job to be killed (enumerated_kills.py)."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

from tests.enumerated_kills import Job, in_fork
from tests.kill_trainings import TRAININGS, Jobs, job_of

JOBS: Jobs = {**TRAININGS}
_job = functools.partial(job_of, JOBS)


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


def no_pages(name: str, path: Path) -> bytes | None:
    """All but pages for people, which tell times."""
    return None if name.endswith(".html") else path.read_bytes()


def _corpus(inputs: Path) -> None:
    from tests.interleaving.samples import make_vocab, write_codes, write_corpus

    make_vocab(inputs)
    write_corpus(inputs / "corpus.parquet", 12)
    write_codes(inputs / "like" / "a.parquet")


def _planned(inputs: Path) -> None:
    from megatron_speech.interleaving.generate import generate
    from megatron_speech.interleaving.plan import plan
    from tests.interleaving.jobs import generate_config, plan_config
    from tests.interleaving.samples import LookUpEngine

    _corpus(inputs)
    plan(plan_config(inputs, inputs / "plan", tasks=1))
    generate(generate_config(inputs, inputs), LookUpEngine())


@_job("preprocess", _corpus)
def preprocess(inputs: Path) -> Job:
    from megatron_speech.datasets import text as text_documents
    from tools import preprocess_data

    def run(work: Path) -> None:
        text_documents._PART_BYTES = 1 + os.path.getsize(inputs / "corpus.parquet") // 2
        flags = ["--input", inputs / "corpus.parquet", "--tokenizer-model", inputs / "vocab"]
        flags += ["--output-prefix", work / "d", "--append-eod"]
        preprocess_data.main(list(map(str, flags)))

    return Job(run=run, finished=("d_text_document.json",))


@_job("plan", _corpus)
def plan_spans(inputs: Path) -> Job:
    from megatron_speech.interleaving.plan import plan
    from tests.interleaving.jobs import plan_config

    def run(work: Path) -> None:
        plan(plan_config(inputs, work / "plan", tasks=2, requests_per_shard=10))

    return Job(run=run, finished=("plan/plan.json",))


@_job("generate", _planned)
def generate_codes(inputs: Path) -> Job:
    from megatron_speech.interleaving.generate import GenerateConfig, generate
    from tests.interleaving.samples import LookUpEngine

    def run(work: Path) -> None:
        config = GenerateConfig(
            plan=inputs / "plan", model=inputs, like=inputs / "like", output=work / "codes"
        )
        generate(config, LookUpEngine())

    return Job(run=run, finished=("codes/generation.json",))


@_job("assemble", _planned)
def assemble_documents(inputs: Path) -> Job:
    from megatron_speech.interleaving import assemble as module
    from megatron_speech.interleaving.assemble import AssembleConfig, assemble
    from megatron_speech.io.files import write_text

    def run(work: Path) -> None:
        # drawing takes longer than all else; the page tells times and does not count
        module.write_report = lambda path, *facts: write_text(path, "a page")
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
    from megatron_speech.interleaving.assemble import AssembleConfig, assemble
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


@_job("dialogues", _corpus)
def build_dialogues(inputs: Path) -> Job:
    from megatron_speech.chat.build import build_dialogues
    from tests.chat.test_build import DIALOGUES, config_of, write_dialogues
    from tests.interleaving.samples import LookUpEngine

    def run(work: Path) -> None:
        config = config_of(inputs, work, modes=("streaming", "text"))
        build_dialogues(config, LookUpEngine())

    def begin(work: Path) -> None:
        write_dialogues(inputs / "in.jsonl", DIALOGUES)

    return Job(run=run, finished=("set-streaming.json", "set-text.json"), begin=begin)


def _spoken_texts(inputs: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    inputs.mkdir(parents=True)
    texts = {"a": "A cat.", "b": "A dog ran.", "c": "... !"}
    table = pa.table({"id": list(texts), "text": list(texts.values())})
    pq.write_table(table, inputs / "texts.parquet")


@_job("make speech", _spoken_texts)
def make_speech(inputs: Path) -> Job:
    from megatron_speech.text_to_speech import speech_source
    from tools import make_speech

    def forked(function, blocks, done, **how):
        for block in blocks:
            child = os.fork()
            if not child:
                function(block)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            done(block)
        return [speech_source.finished_block(block) for block in blocks]

    def run(work: Path) -> None:
        speech_source.BLOCK_UTTERANCES = 2
        speech_source.run_tasks = forked  # a fork server's processes have no hook
        flags = ["--texts", inputs / "texts.parquet", "--output-dir", work / "speech"]
        make_speech.main(list(map(str, flags)))

    return Job(run=run, finished=("speech/manifest.parquet",))


def _recordings(inputs: Path) -> None:
    from tests.speech_tokenizer.tiny_tokenizer import write_clips

    write_clips(inputs, 4)


@_job("tokenize speech", _recordings)
def tokenize_speech(inputs: Path) -> Job:
    from tools import tokenize_speech

    def run(work: Path) -> None:
        flags = ["--input", inputs / "manifest.parquet", "--speech-tokenizer", inputs / "tokenizer"]
        flags += ["--output", work / "codes", "--shard-size", 2, "--num-workers", 1]
        tokenize_speech.main(list(map(str, flags)))

    done = [f"codes/{name}" for name in ("shard_000000.parquet", "shard_000001.parquet")]
    return Job(run=run, finished=(*done, "codes/rejected.jsonl"))


def _decoder(inputs: Path) -> None:
    from tests.speech_decoder.tiny_decoder import tiny_decoder
    from tests.tools.test_decode_speech import write_codes

    tiny_decoder().save_pretrained(inputs / "decoder")
    write_codes(inputs, {"talk/000": 12, "b": 5, "empty": 0})


@_job("decode speech", _decoder)
def decode_speech(inputs: Path) -> Job:
    from tests.speech_decoder import tiny_decoder  # noqa: F401 (imported before the forks)
    from tests.tools import test_decode_speech  # noqa: F401
    from tools import decode_speech

    def run(work: Path) -> None:
        flags = ["--decoder", inputs / "decoder", "--codes", inputs / "codes.parquet"]
        decode_speech.main(list(map(str, [*flags, "--output", work / "spoken"])))

    return Job(run=run, finished=("spoken/talk%2F000.flac", "spoken/b.flac",
                                  "spoken/rejected.jsonl"))  # fmt: skip


def _nothing(inputs: Path) -> None:
    inputs.mkdir(parents=True)


@_job("stages of the demo", _nothing)
def demo_stages(inputs: Path) -> Job:
    """Two stages, begun with other settings: what those made is removed first."""
    from examples.quickstart.runner import Demo, Stage, run_stages
    from examples.quickstart.sizes import SIZES
    from megatron_speech.io.files import write_text

    def stage(name: str) -> Stage:
        def work(demo, done):
            for number in range(2):
                path = demo.path(name, f"{number}.txt")
                if not path.exists():
                    write_text(path, demo.machine["precision"])
            return {"read": [path.read_text() for path in sorted(demo.path(name).glob("*.txt"))]}

        return Stage(name, name, work)

    def run(work: Path, precision: str = "fp32") -> None:
        demo = Demo(size=SIZES["smoke"], output=work, machine={"precision": precision})
        run_stages([stage("a"), stage("b")], demo)

    def of_markers(name: str, path: Path) -> bytes:
        data = path.read_bytes()
        if not name.startswith("stages/"):
            return data
        import json

        marker = json.loads(data)
        return repr([marker.get(key) for key in ("begun", "done", "figures")]).encode()

    begin = functools.partial(run, precision="bf16")
    return Job(run=run, begin=begin, finished=(), same=of_markers, alone=False)


@_job("careless", _nothing)
def be_careless(inputs: Path) -> Job:
    """What the campaign has to find: done is said too early, and what is there is believed."""

    def run(work: Path) -> None:
        (work / "done").write_text("yes")
        if not (work / "data").exists():
            (work / "data").write_text("some data")

    return Job(run=run, finished=("done",), alone=False)
