"""Trainings and conversions of models, each as a small job to be killed (enumerated_kills.py)."""

import functools
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from tests.enumerated_kills import Job

Jobs = dict[str, tuple[Callable[[Path], object], Callable[[Path], Job]]]
"""By name: what makes the inputs, in a process of its own; and the job on them."""
TRAININGS: Jobs = {}


def job_of(jobs: Jobs, name: str, prepare: Callable[[Path], object]) -> Callable:
    """Decorates a job, to be kept in `jobs`."""

    def keep(job: Callable[[Path], Job]) -> Callable[[Path], Job]:
        jobs[name] = prepare, job
        return job

    return keep


_job = functools.partial(job_of, TRAININGS)


def of_training(name: str, path: Path) -> bytes | None:
    """Without speeds, and tensors without the name of the file they were written to."""
    import io
    import json

    import torch

    data = path.read_bytes()
    if name.endswith("metrics.jsonl"):
        records = [json.loads(line) for line in data.splitlines() if line.endswith(b"}")]
        kept = [r for r in records if r["kind"] != "interval"]
        timed = ("time", "slowest", "fetch")
        steps = [{k: v for k, v in r.items() if not any(t in k for t in timed)} for r in kept]
        return repr(steps).encode()
    if "/iter_" in name and "/iter_0000002/" not in name and name.startswith("run/"):
        return None  # it would be removed after the next save
    if name.endswith("/.metadata"):  # the tensors, in whatever order they lie in their files
        from tests.tools.pretraining import stored

        return repr(_listed(dict(sorted(stored(path.parent).items())))).encode()
    if name.endswith(".distcp"):
        return None
    if name.endswith(".pt"):
        return repr(_listed(torch.load(io.BytesIO(data), weights_only=True))).encode()
    return None if name.startswith("tensorboard/") else data


def _listed(value):
    import torch

    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.flatten().tolist()
    if isinstance(value, dict):
        return {name: _listed(item) for name, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


def _language_data(inputs: Path) -> None:
    from tests.tools.pretraining import write_data

    inputs.mkdir(parents=True)
    write_data(inputs)


def _load(*modules: str) -> None:
    """Import here what a run would import: processes that are killed are forked from this one."""
    for module in modules:
        import_module(module)


_FEW_STEPS = "--train-iters 2 --save-interval 1 --keep-last 1".split()


def _pretraining(recipe: Sequence[str], inputs: Path, flags: Sequence[str]) -> Job:
    from tools import pretrain

    flags = [*flags, "--data-path", str(inputs / "cut"), "--valid-data-path", str(inputs / "cut")]

    def run(work: Path) -> None:
        save = ["--save", str(work / "run")]
        pretrain.main([*recipe, *_FEW_STEPS, *flags, "--lr-warmup-iters", "1", *save])

    return Job(run=run, finished=(), same=of_training)  # the marker's number says it


@_job("pretrain", _language_data)
def pretrain(inputs: Path) -> Job:
    from tests.tools.pretraining import TINY

    _load("megatron_speech.data.dataset", "megatron_speech.model.gpt")
    return _pretraining(TINY, inputs, ["--vocab", str(inputs / "vocab")])


def _base_and_data(inputs: Path) -> None:
    from tests.tools.pretraining import write_base_and_data

    write_base_and_data(inputs)


@_job("pretrain lora", _base_and_data)
def pretrain_lora(inputs: Path) -> Job:
    from tests.tools.pretraining import TINY_LORA

    _load("megatron_speech.data.dataset", "megatron_speech.model.lora")
    return _pretraining(TINY_LORA, inputs, ["--pretrained-checkpoint", str(inputs / "base")])


@_job("train speech tokenizer", lambda inputs: _speech(inputs))
def train_speech_tokenizer(inputs: Path) -> Job:
    from tests.tools.speech_training import arguments
    from tools import train_speech_tokenizer

    def run(work: Path) -> None:
        flags = arguments(inputs / "manifest.parquet", work / "run", *_FEW_STEPS)
        train_speech_tokenizer.main([*flags, "--eval-interval", "1"])

    return Job(run=run, finished=("run/exported.json",), same=of_training)


def _speech(inputs: Path) -> None:
    from tests.tools.speech_training import write_speech

    write_speech(inputs, 6)


def _decoder_material(inputs: Path) -> None:
    from tests.speech_decoder.tiny_decoder import write_material

    write_material(inputs, 6)


@_job("train flow model", _decoder_material)
def train_flow(inputs: Path) -> Job:
    from tests.tools.decoder_training import flow_arguments
    from tools import train_speech_decoder

    def run(work: Path) -> None:
        train_speech_decoder.main(flow_arguments(inputs, work / "run", *_FEW_STEPS))

    return Job(run=run, finished=("run/export/config.json",), same=of_training)


@_job("train vocoder", _decoder_material)
def train_vocoder(inputs: Path) -> Job:
    from tests.tools.decoder_training import vocoder_arguments
    from tools import train_speech_decoder

    def run(work: Path) -> None:
        train_speech_decoder.main(vocoder_arguments(inputs, work / "run", *_FEW_STEPS))

    return Job(run=run, finished=("run/export/config.json",), same=of_training)


def _base(inputs: Path) -> None:
    import torch

    from tests.model.base_folders import write_base
    from tools import convert_checkpoint

    write_base(inputs / "hf", "qwen3", True, torch.bfloat16)
    flags = ["hf-to-megatron", "--hf", inputs / "hf", "--save", inputs / "base", "--num-codes", 16]
    convert_checkpoint.main(list(map(str, flags)))


@_job("convert hf-to-megatron", _base)
def import_base(inputs: Path) -> Job:
    from tools import convert_checkpoint

    _load("tests.model.base_folders")

    def run(work: Path) -> None:
        flags = ["hf-to-megatron", "--hf", inputs / "hf", "--save", work / "base"]
        convert_checkpoint.main(list(map(str, [*flags, "--num-codes", 16])))

    finished = ("base/latest_checkpointed_iteration.txt",)
    return Job(run=run, finished=finished, same=of_training)


@_job("convert megatron-to-hf", _base)
def export_model(inputs: Path) -> Job:
    from tools import convert_checkpoint

    _load("tests.model.base_folders")

    def run(work: Path) -> None:
        flags = ["megatron-to-hf", "--load", inputs / "base", "--hf", work / "hf"]
        convert_checkpoint.main(list(map(str, flags)))

    return Job(run=run, finished=("hf/config.json",))
