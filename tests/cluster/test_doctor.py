"""The doctor names what is half-installed, hangs or crashes, in time and without a traceback."""

import importlib.metadata
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_speech.cluster import probes

ROOT = Path(__file__).resolve().parents[2]
TORCH = """
__version__ = "2.11.0"
class version: cuda, hip = "13.0", None
class cuda:
    @staticmethod
    def is_available(): return False
"""


def package(folder: Path, name: str, code: str, *distributions: str) -> None:
    """A package of one module (`a.b` makes both), with metadata of `name-version` where given."""
    path = folder
    for part in name.split("."):
        path = path / part
        path.mkdir(parents=True, exist_ok=True)
        (path / "__init__.py").touch()
    (path / "__init__.py").write_text(code)
    for distribution in distributions:
        name, version = distribution.rsplit("-", 1)
        info = folder / f"{distribution.replace('-', '_', name.count('-'))}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def fakes(tmp_path):
    """A folder of packages in which the core works and imports at once."""
    package(tmp_path, "torch", TORCH)
    package(tmp_path, "megatron.core", "__version__ = '0.19.2'")
    package(tmp_path, "megatron.core.datasets", "")
    files = importlib.metadata.files("megatron-core") or []
    helpers = next(file for file in files if file.name.startswith("helpers_cpp."))
    (tmp_path / "megatron/core/datasets" / helpers.name).symlink_to(helpers.locate())
    return tmp_path


def consult(fakes: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and screen, with the fake packages in front of the real ones."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "doctor.py"), "--seconds", "60", *arguments],
        env={**os.environ, "PYTHONPATH": str(fakes)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done.returncode, done.stdout


def line(screen: str, start: str) -> str:
    """The line of a finding; `start` is its mark and name."""
    found = [row for row in screen.splitlines() if " ".join(row.split()).startswith(start)]
    assert len(found) == 1, screen
    return found[0]


def test_a_working_core_ends_with_code_0(fakes):
    code, screen = consult(fakes)
    assert code == 0
    line(screen, "ok torch 2.11.0")
    line(screen, "ok megatron.core 0.19.2")
    line(screen, "ok index helpers")
    line(screen, "-- GPUs none")
    assert screen.rstrip().endswith("the core can work")
    assert len(screen.splitlines()) <= 40


def test_index_helpers_that_were_not_built_are_named(fakes):
    (helpers,) = (fakes / "megatron/core/datasets").glob("helpers_cpp.*")
    helpers.unlink()
    code, screen = consult(fakes)
    assert "no helpers_cpp" in line(screen, "!! index helpers")
    assert code == 1


def test_a_half_installed_transformer_engine_is_named(fakes):
    broken = "raise ImportError('libtransformer_engine.so: cannot open shared object file')"
    names = ("transformer-engine-2.20.2", "transformer-engine-cu13-2.20.2")
    package(fakes, "transformer_engine", broken, *names)
    code, screen = consult(fakes)
    found = line(screen, "!! Transformer Engine")
    assert "half-installed: transformer-engine 2.20.2 without transformer-engine-torch" in found
    assert "libtransformer_engine.so" in found
    assert "pip uninstall -y transformer-engine transformer-engine-cu13, or" in screen
    assert code == 0


def test_an_engine_built_from_source_lacks_nothing(fakes):
    package(fakes, "transformer_engine", "raise OSError('x')", "transformer-engine-2.8.0")
    (fakes / "transformer_engine" / "transformer_engine_torch.cpython-312.so").touch()
    _, screen = consult(fakes)
    assert "half-installed" not in screen
    assert "transformer-engine 2.8.0: import fails" in line(screen, "!! Transformer Engine")


def test_a_core_that_fails_with_it_ends_with_code_1(fakes):
    package(fakes, "transformer_engine", "raise OSError('undefined symbol')")
    package(fakes, "megatron.core", "import transformer_engine")
    code, screen = consult(fakes)
    assert code == 1
    assert "undefined symbol" in line(screen, "!! megatron.core")
    assert "if Transformer Engine below is broken, that is why" in screen
    assert "the core cannot work: megatron.core" in screen


def test_apex_of_pypi_is_not_taken_for_nvidias(fakes):
    package(fakes, "apex", "", "apex-0.9.10")
    code, screen = consult(fakes)
    assert "apex 0.9.10 is another package of that name" in line(screen, "!! apex")
    assert code == 0
    package(fakes, "apex.optimizers", "")
    _, screen = consult(fakes)
    assert "import fails" in line(screen, "!! apex")  # NVIDIA's, without the kernel
    package(fakes, "fused_weight_gradient_mlp_cuda", "")
    _, screen = consult(fakes)
    line(screen, "ok apex")


def test_a_package_that_crashes_takes_nothing_with_it(fakes):
    package(fakes, "flash_attn", "import os; os.abort()", "flash-attn-2.8.0")
    code, screen = consult(fakes)
    assert "crashed (SIGABRT)" in line(screen, "!! flash-attn")
    assert code == 0


def test_packages_that_hang_do_not_hold_the_screen_up(fakes):
    hang = "import time; time.sleep(600)"
    package(fakes, "torch", hang)
    package(fakes, "megatron.core", hang)
    started = time.monotonic()
    code, screen = consult(fakes, "--seconds", "1")
    assert time.monotonic() - started < 5
    line(screen, "?? torch")
    assert code == 0
    assert "whether the core works is not known: torch, megatron.core" in screen
    names = subprocess.run(
        ["ps", "-eo", "args"], capture_output=True, text=True, check=False
    ).stdout
    assert "cluster.probes torch_and" not in names


def test_folders_that_cannot_be_written_are_named(fakes):
    code, screen = consult(fakes, "--folder", "/proc/runs")
    assert "/proc" in line(screen, "!! run folder")
    assert code == 0


def test_an_environment_for_vllm_without_it_is_named(fakes):
    _, screen = consult(fakes, "--vllm-python", sys.executable)
    assert "vLLM is not installed there" in line(screen, "!! vLLM")


def test_it_needs_the_standard_library_only():
    code = (
        "import sys; before = set(sys.modules);"
        "import megatron_speech.cluster.doctor;"
        "names = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(names - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "['megatron_speech']", done.stderr


@pytest.mark.parametrize(
    ("bounds", "installed", "fits"),
    [
        (">=5.0,<6", "5.23.0", True),
        (">=5.0,<6", "6.0", False),
        (">=2.9", "2.11.0a0+nv26.6", True),
        (">=2.9", "2.8.1+cpu", False),
        (">=0.19.2,<0.20", "0.19.2", True),
        (">=0.19.2,<0.20", "0.20.0rc1", False),
        ("==1.0", "1.0.0", True),
        (">=1", None, False),
    ],
)
def test_versions_are_compared_by_release(bounds, installed, fits, tmp_path, monkeypatch, capsys):
    (tmp_path / "setup.py").write_text(f"setup(install_requires=['x{bounds}'])")
    monkeypatch.setattr(probes, "installed_version", lambda name: installed)
    probes.packages(str(tmp_path))
    said = capsys.readouterr().out
    assert f"{int(fits)} of 1 in the ranges" in said
    assert (f"{installed} is outside" in said) == (not fits and installed is not None)
    assert ("not installed" in said) == (installed is None)


def test_ranges_are_those_of_setup_py(capsys):
    probes.packages(str(ROOT))
    (line,) = filter(None, capsys.readouterr().out.splitlines())
    assert "24 of 24 in the ranges of setup.py" in line
