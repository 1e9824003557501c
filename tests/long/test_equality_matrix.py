"""Every layout, with and without the distributed optimizer, in fp32 and bf16, against one process.

    pytest --override-ini addopts= tests/long/test_equality_matrix.py

Writes the largest deviations over 20 steps into benchmarks/results/layout_equality_cpu.json, a
piece (precision) at a time.
"""

import json
import os
from pathlib import Path

import pytest
import torch

from megatron_speech.io.files import write_json
from tests.training.megatron_world import STEPS, Run, cases, deviation, run, spawn

pytestmark = pytest.mark.long

RESULT = Path(__file__).resolve().parents[2] / "benchmarks/results/layout_equality_cpu.json"
LIMITS = {"fp32": 1e-5, "bf16": 1e-2}


@pytest.mark.parametrize("precision", LIMITS)
def test_every_layout_trains_like_one_process(precision, tmp_path):
    run(Run(last=0, save=tmp_path / "initial"))
    chosen = cases(bf16=precision == "bf16")
    results = spawn(tmp_path, tmp_path / "initial", chosen)
    found = {
        case.key: {
            name: deviation(results[case.key], results[case.reference], name)
            for name in ("lm loss", "text loss", "speech loss", "grad-norm")
        }
        for case in chosen
    }
    record = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    record |= {
        "steps": STEPS,
        "versions": {"torch": torch.__version__},
        "threads": int(os.environ.get("OMP_NUM_THREADS", "0")) or None,
        precision: {"limit": LIMITS[precision], "largest relative deviation": found},
    }
    write_json(RESULT, record)
    worst = {key: value for key, figures in found.items() for value in [max(figures.values())]}
    assert all(value <= LIMITS[precision] for value in worst.values()), worst
