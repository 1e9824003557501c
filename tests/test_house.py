"""The repository as a whole: imports start nothing, light modules import no torch, no circles."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def python(code: str, **environment: str) -> str:
    """Run `code` in a fresh interpreter at the repository root and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules() -> list[str]:
    files = [
        f for top in ("megatron_speech", "tools", "examples") for f in (ROOT / top).rglob("*.py")
    ]
    dotted = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in sorted(files)]
    return [name.removesuffix(".__init__") for name in dotted]


SET_BY_LIBRARIES = {"TORCHINDUCTOR_CACHE_DIR"}
"""Names in the environment that packages we need set when they are imported."""
STATE = """
import logging, os, signal, threading
from pathlib import Path

def state():
    return {
        "signal handlers": {name: signal.getsignal(name) for name in signal.valid_signals()},
        "threads": [thread.name for thread in threading.enumerate()],
        "processes": [file.read_text() for file in Path("/proc/self/task").glob("*/children")
                      if file.read_text()],
        "environment": {name: value for name, value in os.environ.items()
                        if name not in SET_BY_LIBRARIES},
        "log handlers": list(logging.getLogger().handlers),
        "folder": os.getcwd(),
    }
"""


def changed_by(code: str) -> str:
    """Which parts of a fresh interpreter's state `code` changes."""
    compared = "print(*(name for name, old in before.items() if state()[name] != old), sep=', ')"
    known = f"SET_BY_LIBRARIES = {SET_BY_LIBRARIES!r}"
    return python("\n".join([known, STATE, "before = state()", code, compared])).splitlines()[-1]


def test_importing_every_module_starts_nothing():
    code = f"""
import importlib
for name in {modules()!r}:
    importlib.import_module(name)
import torch
assert not torch.cuda.is_initialized(), "CUDA was started"
assert not torch.distributed.is_initialized(), "a process group was started"
assert torch.get_default_dtype() == torch.float32
"""
    assert changed_by(code) == ""


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("signal.signal(signal.SIGTERM, lambda *_: None)", "signal handlers"),
        ("threading.Thread(target=threading.Event().wait, daemon=True).start()", "threads"),
        ("import subprocess; child = subprocess.Popen(['sleep', '1'])", "processes"),
        ("os.environ['ANY_NAME'] = '1'", "environment"),
        ("logging.basicConfig()", "log handlers"),
    ],
)
def test_what_an_import_may_not_do_is_seen(code, found):
    assert changed_by(code) == found


@pytest.mark.parametrize(
    "name",
    ["errors", "io.files", "cli", "text.vocab", "interleaving.spans", "data.code_shards"],
)
def test_light_modules_import_no_torch(name: str):
    code = (
        f"import megatron_speech.{name}, sys;"
        "print([m for m in ('torch', 'megatron', 'transformers') if m in sys.modules])"
    )
    assert python(code).strip() == "[]"


def test_kernels_folder_does_not_shadow_a_library_of_that_name():
    """transformers looks for a top-level package called `kernels`; ours must not be it."""
    code = (
        "from transformers import WhisperModel; import megatron_speech.kernels.vq_lookup as v;"
        "print(v.__name__)"
    )
    assert python(code).strip() == "megatron_speech.kernels.vq_lookup"
    assert not (ROOT / "kernels" / "__init__.py").exists()


def test_every_tool_teaches_itself():
    for tool in sorted((ROOT / "tools").glob("*.py")):
        text = tool.read_text()
        assert text.count("\n") <= 80, f"{tool.name} is longer than 80 lines"
        assert "python tools/" in text or "torchrun" in text, f"{tool.name} shows no usage"


def test_no_module_imports_in_a_circle():
    """Nor for its types alone: two modules that need each other are one."""
    files: dict[str, Path] = {}
    for path in (ROOT / "megatron_speech").rglob("*.py"):
        dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        files[dotted.removesuffix(".__init__")] = path
    graph = {name: relative_imports(name, path) & files.keys() for name, path in files.items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def relative_imports(name: str, path: Path) -> set[str]:
    """Modules that a module names in its relative imports, at any level of it."""
    parts = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = parts[: len(parts) - node.level + 1]
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
            if node.module:
                found.add(module)
    return found - {name}


@pytest.mark.parametrize("folder", ["megatron_speech", "tools"])
def test_sound_is_written_in_one_place(folder: str):
    """On a full disk libsndfile raises no OSError, so that a user would see a traceback."""
    writer = ROOT / "megatron_speech" / "io" / "audio_files.py"
    others = [path for path in (ROOT / folder).rglob("*.py") if path != writer]
    assert not [path for path in others if "soundfile.write(" in path.read_text()]


@pytest.mark.parametrize("folder", ["megatron_speech", "kernels", "tools", "examples"])
def test_functions_are_short(folder: str):
    long = [
        f"{path.relative_to(ROOT)}: {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60
    ]
    assert not long, "\n".join(long)


MARKERS = {
    "gpu": {"gpu"},
    "gpu_image": {"gpu_image"},
    "gpus": {"gpus"},
    "long": {"long", "browser", "ray", "vllm"},
    "real_speech": {"real"},
    "slurm": {"slurm"},
}
"""Folders of tests that `make test` leaves out, and the markers of what they need."""


def test_what_make_test_leaves_out_is_marked_and_has_a_target():
    """A marker that is forgotten would bring an hour, or a GPU, into `make test`."""
    for folder, markers in MARKERS.items():
        for path in (ROOT / "tests" / folder).glob("test_*.py"):
            found = re.findall(r"^pytestmark = pytest\.mark\.(\w+)$", path.read_text(), re.M)
            assert len(found) == 1, f"{path.relative_to(ROOT)} has the markers {found}"
            assert found[0] in markers, f"{path.relative_to(ROOT)} is marked {found[0]}"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    known = {line.partition(":")[0] for line in settings["markers"]}
    assert known == set().union(*MARKERS.values())
    assert set(re.findall(r"\w+", settings["addopts"][-1])) - {"not", "or"} == known
    targets = re.findall(r"pytest -q -m (\"[a-z_ ]+\"|\w+)$", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"\w+", " ".join(targets))) - {"or"} == known
