"""What the benchmark of the chat server calls a failure."""

import importlib
from pathlib import Path

import pytest

FIGURES = {
    "ratio": 1.8,
    "longest_gap_alone_s": 0.0,
    "longest_gap_of_two_s": 0.0,
    "memory_grown_in_round_2_mib": 30.0,
    "memory_grown_in_round_3_mib": 0.5,
}


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    return importlib.import_module("chat_server")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"ratio": 2.1}, ["first sound takes 2.10 times"]),
        ({"ratio": float("nan")}, ["first sound takes nan times"]),
        ({"longest_gap_of_two_s": 0.2}, ["sound has a gap: longest_gap_of_two_s is 0.200"]),
        ({"memory_grown_in_round_3_mib": 12.0}, ["memory goes on growing: by 30, 12 MiB"]),
        ({"ratio": 3.0, "longest_gap_alone_s": 1.0}, ["first sound", "longest_gap_alone_s is 1"]),
    ],
)
def test_what_falls_short_is_said(benchmark, changes, said):
    found = benchmark.shortcomings({**FIGURES, **changes})
    assert len(found) == len(said)
    assert all(part in line for part, line in zip(said, found, strict=True))


def test_what_is_sent_is_larger_than_any_server_reads(benchmark):
    assert len(benchmark.HUGE) == 100_000_000 > benchmark.ServerConfig().message_bytes
