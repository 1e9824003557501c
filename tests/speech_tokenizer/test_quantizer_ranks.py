import importlib.util
import subprocess
import sys
from pathlib import Path

import torch

SCRIPT = Path(__file__).with_name("quantizer_rank.py")


def test_two_ranks_equal_one_over_50_steps_with_restarts(tmp_path):
    ranks = [
        subprocess.Popen([sys.executable, str(SCRIPT), str(tmp_path), str(rank), "2"])
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in ranks] == [0, 0]
    spec = importlib.util.spec_from_file_location("quantizer_rank", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    results = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for start in module.STARTS:
        expected, restarted = module.run(rank=0, world_size=1, start=start)
        assert start == "fsq" or sum(map(len, restarted)) > 10
        for rank in range(2):
            state, restarted_there = results[rank][start]
            assert restarted_there == restarted
            assert set(state) == set(expected) >= {"ema_count"}
            for name, value in expected.items():
                torch.testing.assert_close(state[name], value, rtol=1e-6, atol=1e-6)
                assert torch.equal(results[0][start][0][name], results[1][start][0][name])
