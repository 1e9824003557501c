"""What works here, what is missing and what that costs; standard library only, never a traceback.

Whatever may fail, hang or crash is tried by processes of their own (`probes.py`), side by side and
within a time limit.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
_PROBE = ("-m", "megatron_speech.cluster.probes")
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
    there = {name: module for name, (module, *_) in _OPTIONAL.items() if _is_there(name)}
    commands = {
        **{name: ["imports", module] for name, module in there.items() if module},
        "packages": ["packages", str(CHECKOUT)],
        "torch": ["torch_and_devices"],
        "megatron": ["megatron"],
        "compiled": ["imports", *_COMPILED],
        "folders": ["folders", *places.values()],
    }
    lines = {key: [sys.executable, *_PROBE, *command] for key, command in commands.items()}
    if other.exists():
        lines["vLLM"] = [str(other.absolute()), *_PROBE, "vllm"]
    with ThreadPoolExecutor(len(lines)) as pool:
        found = pool.map(lambda line: _ask(line, seconds), lines.values())
    answers = dict(zip(lines, found, strict=True))
    vllm = _absent("vLLM", "text-to-token decodes with transformers, slower")
    vllm = answers["vLLM"]["vLLM"] if "vLLM" in answers else vllm
    optional = [
        _optional(name, answers.get(name)) if name in there else _absent(name, *_OPTIONAL[name][2:])
        for name in _OPTIONAL
    ]
    return {
        "core": _core(answers, _ENGINE in there),
        "devices": _devices(answers["torch"]),
        "optional": [*optional, replace(vllm, advice=_VLLM)],
        "folders": [
            replace(found, name=name, detail=f"{path}: {found.detail}", advice=_ROOM)
            for name, path in places.items()
            for found in [answers["folders"][path]]
        ],
    }


def _ask(line: Sequence[str], seconds: float) -> _Answer:
    """Run a probe, for so long at most."""
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    answer = _Answer()
    probe = subprocess.Popen(
        line,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
        start_new_session=True,
    )
    try:
        said, _ = probe.communicate(timeout=seconds)
        if code := probe.returncode:
            crash = f"crashed ({signal.Signals(-code).name})" if code < 0 else ""
            answer.ended = crash or f"ended with code {code}"
    except subprocess.TimeoutExpired:
        os.killpg(probe.pid, signal.SIGKILL)
        said, _ = probe.communicate()
        answer.is_late, answer.ended = True, f"no answer within {seconds:.1f} s"
    for row in said.splitlines():
        with suppress(ValueError, TypeError):  # libraries print too
            found = Finding(**json.loads(row))
            answer[found.name] = found
    return answer


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
    for state, words in (
        ("unknown", "whether the core works is not known"),
        ("broken", "the core cannot work"),
    ):
        if names := [f.name for f in every if f.is_core and f.state == state]:
            end = f"{words}: {', '.join(names)}"
    return "\n".join([*lines, end])


def can_work(groups: Mapping[str, Sequence[Finding]]) -> bool:
    """False only if something is known to be broken that nothing works without."""
    return not any(f.is_core and f.state == "broken" for each in groups.values() for f in each)


def _core(answers: Mapping[str, _Answer], with_engine: bool) -> list[Finding]:
    python = Finding(name=f"Python {sys.version.split()[0]}", is_core=True)
    supported = sys.version_info >= (3, 12)
    if not supported:
        python = replace(python, state="broken", detail="too old", advice="install Python 3.12")
    findings = [python]
    for found in list(answers["packages"].values()) or [answers["packages"]["packages"]]:
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
    gpus, findings = torch["GPUs"], []
    if not gpus.detail or ("GPUs" not in torch and gpus.state == "broken"):
        gpus = _absent("GPUs", "none: everything runs on CPU, in small sizes")
    if "gloo loopback" in torch or torch.is_late:
        findings.append(torch["gloo loopback"])
    if "NCCL loopback" in torch:
        findings.append(torch["NCCL loopback"])
    gpus = replace(gpus, advice=_DRIVER * (gpus.state == "broken"))
    return [gpus, *(replace(each, advice=_NETWORK) for each in findings)]


def _absent(name: str, detail: str, advice: str = "") -> Finding:
    return Finding(name=name, state="absent", detail=detail, advice=advice)


def _is_there(name: str) -> bool:
    """Any trace of an optional package: metadata, or a package of that name."""
    module, parts, *_ = _OPTIONAL[name]
    tops = {parts.split()[0].replace("-", "_"), module.partition(".")[0]} - {""}
    return any(map(installed_version, parts.split())) or any(map(find_spec, tops))


def _optional(name: str, answer: _Answer | None) -> Finding:
    """Of a package that makes something possible or fast: whole, or half there."""
    module, parts, _, install = _OPTIONAL[name]
    found = {part: installed_version(part) for part in parts.split()}
    have = ", ".join(f"{part} {version}" for part, version in found.items() if version)
    said = answer[module] if answer is not None else Finding(name=name)
    if said.state != "broken":
        return replace(said, name=name, detail=have if said.state == "ok" else said.detail)
    first = parts.split()[0]
    names = sorted({each.name.lower() for each in distributions() if each.name})
    all_parts = [each for each in names if f"{each}-".replace("_", "-").startswith(f"{first}-")]
    remove = "pip uninstall -y " + " ".join(all_parts or found)
    spec = find_spec("apex") if name == "apex" else None
    places = [Path(place) for place in (spec and spec.submodule_search_locations) or []]
    if name == "apex" and not any(next(place.glob("optimizers*"), None) for place in places):
        detail = f"{have or 'apex'} is another package of that name, not NVIDIA's"
        return replace(said, name=name, detail=detail, advice=f"{remove}; {install}")
    is_whole = name == _ENGINE and transformer_engine_version() is not None
    missing = ", ".join(part for part, version in found.items() if not version and not is_whole)
    lacking = f"half-installed: {have} without {missing}; " if have and missing else ""
    detail = f"{lacking or (have + ': ' if have else '')}import fails: {said.detail}"
    advice = f"{remove}, or install all of it: {install}"
    return replace(said, name=name, detail=detail, advice=advice)
