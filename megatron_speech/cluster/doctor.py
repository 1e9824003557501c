"""What works here, what is missing and what that costs; standard library only, never a traceback.

Whatever may fail, hang or crash is tried by processes of their own (`probes.py`), side by side and
within a time limit.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

from ..training.distributions import installed_version, transformer_engine_version

CHECKOUT = Path(__file__).resolve().parents[2]
_COMPILED = (
    "numpy pyarrow tokenizers safetensors soundfile soxr sentencepiece psutil yaml tyro gigatoken "
    "espeakng_loader"
).split()
_INSTALL = "pip install -c constraints.txt -e ."
_EXTRA = "pip install -c constraints.txt -e '.[{}]'"
_GPU_EXTRA = _EXTRA.format("gpu") + ", or an NGC PyTorch image"
_DRIVER = "install a newer driver, or torch built for this one; look at CUDA_VISIBLE_DEVICES"
_NETWORK = "look at firewall, /etc/hosts, GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
_ROOM = "choose a folder that can be written, make room, or start a container with --shm-size"
_VLLM = "make test-vllm makes .venv-vllm; elsewhere: --vllm-python ENVIRONMENT/bin/python"
_ENGINE = "Transformer Engine"
# name: module to import (none: metadata suffices), distributions, cost of absence, installation
_OPTIONAL = {
    _ENGINE: (
        *("transformer_engine.pytorch", "transformer-engine transformer-engine-torch"),
        *("no FP8, context parallelism or offloading; slower layers", _GPU_EXTRA),
    ),
    "flash-attn": (*("flash_attn", "flash-attn", "attention by cuDNN or torch", _GPU_EXTRA),),
    "apex": (
        *("fused_weight_gradient_mlp_cuda", "apex"),
        "weight gradients are added in a step of their own",
        "build NVIDIA's from github.com/NVIDIA/apex, or take an NGC PyTorch image",
    ),
    "triton": (
        *("triton", "triton", "codes are looked up by the plain reference, slower on GPUs"),
        _GPU_EXTRA,
    ),
    "datatrove": (
        *("", "datatrove", "no --executor slurm or ray, no corpora at URLs"),
        _EXTRA.format("cluster"),
    ),
    "num2words": ("", "num2words", "numbers are not spoken in words", _EXTRA.format("numbers")),
}
_MARKS = {"ok": "ok", "absent": "--", "broken": "!!", "unknown": "??"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the screen."""

    name: str
    state: str = "ok"
    """ok, absent, broken or unknown (not answered in time)."""
    detail: str = ""
    advice: str = ""
    """What to do about it."""
    is_core: bool = False
    """Nothing works without it."""


class _Answer(dict[str, Finding]):
    """What a probe said, by trial; for others how it ended."""

    ended = "said nothing"
    is_late = False

    def __missing__(self, name: str) -> Finding:
        return Finding(name=name, state="unknown" if self.is_late else "broken", detail=self.ended)


def examine(folder: Path, seconds: float, vllm_python: Path | None) -> dict[str, list[Finding]]:
    """Everything there is to say, by group, after at most `seconds` of waiting."""
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    places = {"run folder": str(folder), "cache": home, "shared memory": "/dev/shm"}
    other = vllm_python or CHECKOUT / ".venv-vllm" / "bin" / "python"
    there = {name: _is_there(name) for name in _OPTIONAL}
    commands = {name: ["imports", _OPTIONAL[name][0]] for name in there if there[name]}
    commands |= {"vLLM": ["vllm"]} if other.exists() else {}
    answers = _ask(
        commands
        | {
            "packages": ["packages", str(CHECKOUT)],
            "torch": ["torch_and_devices"],
            "megatron": ["megatron"],
            "compiled": ["imports", *_COMPILED],
            "folders": ["folders", *places.values()],
        },
        {"vLLM": str(other.absolute())},
        seconds,
    )
    vllm = _absent("vLLM", "text-to-token decodes with transformers, slower")
    vllm = replace(answers["vLLM"]["vLLM"] if "vLLM" in answers else vllm, advice=_VLLM)
    return {
        "core": _core(answers, there[_ENGINE]),
        "devices": _devices(answers["torch"]),
        "optional": [*(_optional(name, there[name], answers) for name in _OPTIONAL), vllm],
        "folders": [
            replace(found, name=name, detail=f"{path}: {found.detail}", advice=_ROOM)
            for name, path in places.items()
            for found in [answers["folders"][path]]
        ],
    }


def screen(groups: Mapping[str, Sequence[Finding]]) -> str:
    """The findings, and what to do next, as text of one screen."""
    lines = []
    for group, findings in groups.items():
        rows = (f"  {_MARKS[f.state]}  {f.name:<22} {f.detail}".rstrip() for f in findings)
        lines += [group, *rows]
    every = [finding for findings in groups.values() for finding in findings]
    steps = [f for state in ("broken", "absent") for f in every if f.state == state and f.advice]
    lines += ["next"] * bool(steps) + [f"  {step.name}: {step.advice}" for step in steps]
    if any(finding.state == "unknown" for finding in every):
        lines.append("  ?? were not answered in time: --seconds 60 waits longer")
    end = "the core can work"
    unknown = [f.name for f in every if f.is_core and f.state == "unknown"]
    if broken := [f.name for f in every if f.is_core and f.state == "broken"]:
        end = f"the core cannot work: {', '.join(broken)}"
    elif unknown:
        end = f"whether the core works is not known: {', '.join(unknown)}"
    return "\n".join([*lines, end])


def can_work(groups: Mapping[str, Sequence[Finding]]) -> bool:
    """False only if something is known to be broken that nothing works without."""
    return not any(f.is_core and f.state == "broken" for each in groups.values() for f in each)


def _core(answers: Mapping[str, _Answer], with_engine: bool) -> list[Finding]:
    python = Finding(name=f"Python {sys.version.split()[0]}", is_core=True)
    supported = sys.version_info >= (3, 12)
    if not supported:
        python = replace(python, state="broken", detail="too old", advice="install Python 3.12")
    packages = answers["packages"] or {"packages": answers["packages"]["packages"]}
    findings = [python]
    for found in packages.values():
        missing = found.detail == "not installed"
        findings.append(replace(found, advice=_INSTALL, is_core=missing))
    trials = [("torch", "torch"), ("megatron", "index helpers"), ("megatron", "megatron.core")]
    for probe, name in [*trials, *(("compiled", name) for name in _COMPILED)]:
        found = replace(answers[probe][name], advice=_INSTALL, is_core=True)
        if found.state == "unknown":
            found = replace(found, detail=f"{found.detail}; imports take long on busy cores")
        if found.state == "broken":
            why = f"if {_ENGINE} below is broken, that is why; else "
            advice = why * (name == "megatron.core" and with_engine) + _INSTALL
            found = replace(found, detail=f"import fails: {found.detail}", advice=advice)
        if probe != "compiled" or found.state != "ok":
            findings.append(found)
    return findings


def _devices(torch: _Answer) -> list[Finding]:
    gpus, gloo = torch["GPUs"], torch["gloo loopback"]
    if not gpus.detail or ("GPUs" not in torch and gpus.state == "broken"):
        gpus = _absent("GPUs", "none: everything runs on CPU, in small sizes")
    sums = [gloo] if "gloo loopback" in torch or torch.is_late else []
    sums += [torch["NCCL loopback"]] if gpus.detail and "NCCL loopback" in torch else []
    return [
        replace(gpus, advice=_DRIVER * (gpus.state == "broken")),
        *(replace(each, advice=_NETWORK) for each in sums),
    ]


def _absent(name: str, detail: str, advice: str = "") -> Finding:
    return Finding(name=name, state="absent", detail=detail, advice=advice)


def _is_there(name: str) -> bool:
    """Any trace of an optional package: metadata, or a package of that name."""
    module, parts, *_ = _OPTIONAL[name]
    tops = {parts.split()[0].replace("-", "_"), module.partition(".")[0]} - {""}
    return any(map(installed_version, parts.split())) or any(map(find_spec, tops))


def _optional(name: str, is_there: bool, answers: Mapping[str, _Answer]) -> Finding:
    """Of a package that makes something possible or fast: there, absent, or half there."""
    module, parts, costs, install = _OPTIONAL[name]
    if not is_there:
        return _absent(name, costs, install)
    found = {part: installed_version(part) for part in parts.split()}
    have = ", ".join(f"{part} {version}" for part, version in found.items() if version)
    said = answers[name][module] if module else Finding(name=name)
    if said.state == "ok":
        return Finding(name=name, detail=have)
    if said.state == "unknown":
        return replace(said, name=name)
    first = parts.split()[0]
    names = sorted({each.name.lower() for each in distributions() if each.name})
    all_parts = [each for each in names if f"{each}-".replace("_", "-").startswith(f"{first}-")]
    remove = "pip uninstall -y " + " ".join(all_parts or found)
    spec = find_spec("apex") if name == "apex" else None
    places = [Path(place) for place in (spec and spec.submodule_search_locations) or []]
    if name == "apex" and not any(next(place.glob("optimizers*"), None) for place in places):
        detail = f"{have or 'apex'} is another package of that name, not NVIDIA's"
        advice = f"{remove}; {install}"
        return Finding(name=name, state="broken", detail=detail, advice=advice)
    is_whole = name == _ENGINE and transformer_engine_version() is not None
    missing = ", ".join(part for part, version in found.items() if not version and not is_whole)
    lacking = f"half-installed: {have} without {missing}; " if have and missing else ""
    detail = f"{lacking or (have + ': ' if have else '')}import fails: {said.detail}"
    advice = f"{remove}, or install all of it: {install}"
    return Finding(name=name, state="broken", detail=detail, advice=advice)


def _ask(
    commands: Mapping[str, Sequence[str]], pythons: Mapping[str, str], seconds: float
) -> dict[str, _Answer]:
    """Start all probes, wait for them at most so long, kill the rest."""
    deadline = time.monotonic() + seconds
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    answers = {}
    with tempfile.TemporaryDirectory(prefix="doctor-") as folder:
        running = {}
        for key, command in commands.items():
            line = [pythons.get(key, sys.executable), "-m", "megatron_speech.cluster.probes"]
            with open(Path(folder) / key, "wb") as stream:  # a pipe that nobody reads would block
                running[key] = subprocess.Popen(
                    [*line, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                    start_new_session=True,
                )
        while time.monotonic() < deadline and any(p.poll() is None for p in running.values()):
            time.sleep(0.02)
        for key, process in running.items():
            answer = answers[key] = _Answer()
            if (code := process.poll()) is None:
                os.killpg(process.pid, signal.SIGKILL)
                answer.is_late, answer.ended = True, f"no answer within {seconds:.1f} s"
            elif code:
                crash = f"crashed ({signal.Signals(-code).name})" if code < 0 else ""
                answer.ended = crash or f"ended with code {code}"
            for said in (Path(folder) / key).read_text(errors="replace").splitlines():
                try:
                    found = Finding(**json.loads(said))
                except (ValueError, TypeError):
                    continue  # libraries print too
                answer[found.name] = found
    return answers
