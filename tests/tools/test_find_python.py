"""The interpreter that `make install` takes, looked for on a PATH that holds nothing else."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "find_python.sh"


@pytest.fixture
def find(tmp_path):
    """Runs the script where `interpreters` are installed: name -> whether it is new enough."""
    (tmp_path / "cat").symlink_to(shutil.which("cat"))

    def find(interpreters: dict[str, bool]) -> subprocess.CompletedProcess[str]:
        for name, fits in interpreters.items():
            fake = tmp_path / name
            fake.write_text(f"#!/bin/sh\nexit {0 if fits else 1}\n")
            fake.chmod(0o755)
        bash = str(shutil.which("bash"))
        environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
        return subprocess.run(
            [bash, SCRIPT], env=environment, capture_output=True, text=True, check=False
        )

    return find


@pytest.mark.parametrize(
    ("interpreters", "chosen"),
    [
        ({"python3.12": True, "python3": False}, "python3.12"),
        ({"python3.12": False, "python3": True}, "python3"),
    ],
)
def test_the_first_that_is_new_enough_is_named(find, tmp_path, interpreters, chosen):
    done = find(interpreters)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / chosen}\n")


@pytest.mark.parametrize("interpreters", [{}, {"python3": False}])
def test_without_one_it_says_what_to_install(find, interpreters):
    done = find(interpreters)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no Python >= 3.12 found" in done.stderr
    assert "apt-get install python3.12" in done.stderr
