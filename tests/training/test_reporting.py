"""The log line, and where figures go besides."""

import sys
from types import SimpleNamespace

import pytest

from megatron_speech.training.devices import peak_tflops
from megatron_speech.training.loop_config import LoopConfig
from megatron_speech.training.reporting import Interval, Reporter, read_metrics

STEP = {
    "lm loss": 2.0,
    "text loss": 3.0,
    "speech loss": 1.0,
    "grad-norm": 0.5,
    "grad-norm attention": 0.25,
    "learning-rate": 1e-4,
    "batch-size": 4.0,
    "consumed samples": 40.0,
    "number of skipped iterations": 1.0,
}
FIGURES = {
    "tokens/s/GPU": 1000.0,
    "throughput per GPU (TFLOP/s/GPU)": 401.25,
    "MFU (%)": 40.5,
    "memory (GiB)": 60.0,
    "forward time slowest (ms)": 150.0,
    "forward time median (ms)": 100.0,
    "forward slowest rank": 3.0,
}


def reporter(folder, **settings):
    return Reporter(folder, 0, LoopConfig(train_iters=100, tensorboard=False, **settings))


def test_the_line_is_megatron_s(tmp_path, capsys):
    reporter(tmp_path).log_train(10, STEP | FIGURES, 12.34)
    assert capsys.readouterr().out.partition("] ")[2] == (
        "iteration       10/     100 | consumed samples:           40 | elapsed time per iteration "
        "(ms): 12.3 | throughput per GPU (TFLOP/s/GPU): 401.2 | tokens/s/GPU: 1000.0 | MFU (%): "
        "40.5 | memory (GiB): 60.0 | learning rate: 1.000000E-04 | global batch size:     4 | "
        "lm loss: 2.000000E+00 | text loss: 3.000000E+00 | speech loss: 1.000000E+00 | "
        "grad norm: 0.500 | number of skipped iterations:   1 | slowest forward: rank 3 "
        "(1.50 x median) |\n"
    )


def test_a_figure_with_time_in_its_name_is_on_the_line(tmp_path, capsys):
    names = ("time to first audio", "slowest speaker loss")
    reporter(tmp_path).log_train(10, STEP | FIGURES | dict.fromkeys(names, 2.5), 12.34)
    said = capsys.readouterr().out
    assert all(f"| {name}: 2.500000E+00 |" in said for name in names)
    assert "median (ms)" not in said


def test_figures_of_steps_that_changed_nothing_are_not_averaged():
    interval = Interval()
    for loss, skipped in ((2.0, 0.0), (float("nan"), 1.0), (4.0, 0.0)):
        interval.add({"lm loss": loss, "number of skipped iterations": skipped})
    figures, seconds, per_step = interval.take()
    assert figures == {"lm loss": 3.0, "number of skipped iterations": 1.0}
    assert seconds == pytest.approx(3 * per_step)


def test_wandb_gets_every_figure_and_a_resumed_run_goes_on(tmp_path, monkeypatch):
    begun, logged = [], []
    fake = SimpleNamespace(
        init=lambda **settings: (
            begun.append(settings)
            or SimpleNamespace(log=lambda d, step: logged.append((step, d)), finish=lambda: None)
        ),
        util=SimpleNamespace(generate_id=lambda: f"id{len(begun)}"),
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        writer = reporter(tmp_path, wandb_project="speech")
        writer.record("train", 1, STEP)
        writer.record("valid", 1, {"lm loss": 2.5})
        writer.close()
    assert [(b["project"], b["name"], b["id"]) for b in begun] == [
        ("speech", tmp_path.name, "id0")
    ] * 2
    assert logged[1] == (1, {"lm loss validation": 2.5})


def test_metrics_that_are_no_numbers_are_left_out_of_the_file(tmp_path):
    writer = reporter(tmp_path)
    writer.record("train", 1, {"lm loss": float("nan"), "grad-norm": 1.0})
    writer.close()
    assert read_metrics(tmp_path) == [{"kind": "train", "iteration": 1, "grad-norm": 1.0}]


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA GeForce GTX 1080", None),
        (None, None),
    ],
)
def test_peaks_of_known_devices(name, peak):
    assert peak_tflops(name) == peak
