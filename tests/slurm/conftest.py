"""A Slurm cluster for the time of the tests."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from tests.slurm.commands import ROOT, Slurm


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    cluster = ROOT / "tests" / "slurm" / "cluster.sh"
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        environment = {
            **os.environ,
            "SLURM_CONF": f"{folder}/slurm.conf",
            "PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        started = subprocess.run(
            ["bash", cluster, "start", folder], capture_output=True, text=True, check=False
        )
        if started.returncode:
            pytest.exit(started.stderr, returncode=started.returncode)
        try:
            yield Slurm(environment)
        finally:
            subprocess.run(["bash", cluster, "stop", folder], check=True)
