"""A training tells the monitor that watches it that it goes on."""

import sys
from types import ModuleType

import pytest

from megatron_speech.training import heartbeats
from megatron_speech.training.loop import LoopConfig, train
from tests.training.test_loop import make

SOCKET = "FT_RANK_MONITOR_IPC_SOCKET"


class Monitor:
    """The extension's client: keeps what it is told, and can go away."""

    heard: list[str]
    gone: bool

    def init_workload_monitoring(self):
        self.heard.append("connected")

    def send_heartbeat(self):
        if type(self).gone:
            raise Broken("broken pipe")
        self.heard.append("beat")

    def shutdown_workload_monitoring(self):
        if type(self).gone:
            raise OSError("not connected")
        self.heard.append("disconnected")


class Broken(Exception):
    pass


@pytest.fixture
def monitor(monkeypatch):
    extension = ModuleType("fault_tolerance")
    extension.RankMonitorClient, extension.RankMonitorClientError = Monitor, Broken
    monkeypatch.setitem(sys.modules, "nvidia_resiliency_ext", ModuleType("nvidia_resiliency_ext"))
    monkeypatch.setitem(sys.modules, "nvidia_resiliency_ext.fault_tolerance", extension)
    monkeypatch.setattr(Monitor, "heard", [], raising=False)
    monkeypatch.setattr(Monitor, "gone", False, raising=False)
    monkeypatch.setattr(heartbeats, "_monitors", {})
    monkeypatch.setenv(SOCKET, "/tmp/socket")
    return Monitor


def test_nothing_is_told_where_nobody_watches(monitor, monkeypatch):
    monkeypatch.delenv(SOCKET)
    heartbeats.connect()
    heartbeats.beat()
    heartbeats.disconnect()
    assert monitor.heard == []


def test_a_process_that_never_connected_does_not_beat(monitor):
    heartbeats.beat()
    heartbeats.disconnect()
    assert monitor.heard == []


def test_steps_evaluations_and_checkpoints_are_told(monitor, tmp_path):
    heartbeats.connect()
    heartbeats.connect()
    config = LoopConfig(
        train_iters=6, save=tmp_path, save_interval=2, eval_interval=3, tensorboard=False
    )
    train(make(), config)
    # of 6 steps, 2 evaluations and the 3 checkpoints, the last of which is asked for twice
    assert monitor.heard == ["connected", *["beat"] * 12, "disconnected"]


def test_a_monitor_that_goes_away_leaves_the_training_alone(monitor, tmp_path, capsys):
    heartbeats.connect()
    monitor.gone = True
    result = train(make(), LoopConfig(train_iters=4, save=tmp_path, tensorboard=False))
    assert result.finished
    assert capsys.readouterr().err.count("the monitor of this process is gone (broken pipe)") == 1
