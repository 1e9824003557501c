"""Packages that make something possible or fast: there, absent, or half there."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ..training.distributions import installed_version, transformer_engine_version
from .findings import Finding, State
from .packages import installed_beginning_with
from .probing import Answer


@dataclass(frozen=True, kw_only=True)
class Optional:
    """A package that makes something possible or fast."""

    name: str
    distributions: tuple[str, ...]
    """All must be there."""
    module: str
    costs: str
    """What its absence costs."""
    install: str
    is_risky: bool = True
    """Compiled parts that may not fit; of others the metadata suffices."""


_GPU_EXTRA = "pip install -c constraints.txt -e '.[gpu]', or an NGC PyTorch image"
ENGINE = Optional(
    name="Transformer Engine",
    distributions=("transformer-engine", "transformer-engine-torch"),
    module="transformer_engine.pytorch",
    costs="no FP8, context parallelism or offloading; slower layers",
    install=_GPU_EXTRA,
)
OPTIONAL = (
    ENGINE,
    Optional(
        name="flash-attn",
        distributions=("flash-attn",),
        module="flash_attn",
        costs="attention by cuDNN or torch",
        install=_GPU_EXTRA,
    ),
    Optional(
        name="apex",
        distributions=("apex",),
        module="fused_weight_gradient_mlp_cuda",
        costs="weight gradients are added in a step of their own",
        install="build NVIDIA's from github.com/NVIDIA/apex, or take an NGC PyTorch image",
    ),
    Optional(
        name="triton",
        distributions=("triton",),
        module="triton",
        costs="codes are looked up by the plain reference, slower on GPUs",
        install=_GPU_EXTRA,
    ),
    Optional(
        name="datatrove",
        distributions=("datatrove",),
        module="datatrove",
        costs="no --executor slurm or ray, no corpora at URLs",
        install="pip install -c constraints.txt -e '.[cluster]'",
        is_risky=False,
    ),
    Optional(
        name="num2words",
        distributions=("num2words",),
        module="num2words",
        costs="numbers are not spoken in words",
        install="pip install -c constraints.txt -e '.[numbers]'",
        is_risky=False,
    ),
)


def is_there(option: Optional) -> bool:
    """Any trace of it: metadata, or a package of that name."""
    top = option.distributions[0].replace("-", "_")
    if any(map(installed_version, option.distributions)):
        return True
    return find_spec(top) is not None or find_spec(option.module.partition(".")[0]) is not None


def optional_finding(option: Optional, answer: Answer | None) -> Finding:
    if not is_there(option):
        return Finding(
            group="optional",
            name=option.name,
            state="absent",
            detail=option.costs,
            advice=option.install,
        )
    found = {name: installed_version(name) for name in option.distributions}
    have = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    fact = {} if answer is None else answer.get(option.module)
    if answer is None or "error" not in fact:
        return Finding(group="optional", name=option.name, state="ok", detail=have)
    if answer.is_late:
        return Finding(
            group="optional", name=option.name, state="unknown", detail=answer.ended or ""
        )
    parts = installed_beginning_with(option.distributions[0])
    remove = "pip uninstall -y " + " ".join(parts or option.distributions)
    if option.name == "apex" and not _has_part("apex", "optimizers"):
        return Finding(
            group="optional",
            name="apex",
            state="broken",
            detail=f"{have or 'apex'} is another package of that name, not NVIDIA's",
            advice=f"{remove}; {option.install}",
        )
    is_whole = option is ENGINE and transformer_engine_version() is not None
    missing = ", ".join(name for name, version in found.items() if not version and not is_whole)
    lacking = f"half-installed: {have} without {missing}; " if have and missing else ""
    return Finding(
        group="optional",
        name=option.name,
        state="broken",
        detail=f"{lacking or (have + ': ' if have else '')}import fails: {fact['error']}",
        advice=f"{remove}, or install all of it: {option.install}",
    )


def _has_part(package: str, part: str) -> bool:
    """Whether a folder or file of a package exists, without importing it."""
    spec = find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec else []
    return any(next(Path(place).glob(f"{part}*"), None) for place in places)


def vllm_finding(answer: Answer | None) -> Finding:
    make = "make test-vllm makes .venv-vllm; elsewhere: --vllm-python ENVIRONMENT/bin/python"
    if answer is None:
        detail = "text-to-token decodes with transformers, slower"
        return Finding(group="optional", name="vLLM", state="absent", detail=detail, advice=make)
    fact = answer.get("vllm")
    if "error" in fact:
        state: State = "unknown" if answer.is_late else "broken"
        return Finding(
            group="optional", name="vLLM", state=state, detail=fact["error"], advice=make
        )
    detail = f"{fact['version']}, in an environment of its own"
    return Finding(group="optional", name="vLLM", state="ok", detail=detail)
