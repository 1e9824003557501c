"""Which launcher starts a training, with what, and when it gives up."""

import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest

from megatron_speech.cluster import launch as module
from megatron_speech.cluster.launch import LaunchConfig, chosen, launch
from megatron_speech.errors import ConfigError
from tools import launch as tool

TOOL = ["tools/pretrain.py", "lm-debug", "--save", "runs/lm"]


class Executed(Exception):
    """What would replace this process."""


@pytest.fixture
def version(monkeypatch):
    """Sets the version of the extension that is found."""
    return lambda found: monkeypatch.setattr(module, "installed_version", lambda _: found)


def test_without_the_extension_torchrun_is_taken_as_before(version, monkeypatch):
    def execute(path, words):
        raise Executed(words)

    monkeypatch.setattr("os.execv", execute)
    version(None)
    words = ["--nnodes=4", "--nproc-per-node=8", "--numa-binding=node", "--rdzv-id=7"]
    meeting = ["--rdzv-endpoint=host:20001", "--rdzv-conf=is_host=1"]
    with pytest.raises(Executed) as executed:
        tool.main([*words, *meeting, *TOOL])
    (command,) = executed.value.args
    assert command[1:4] == ["-m", "torch.distributed.run", "--signals-to-handle=SIGINT"]
    assert command[-len(TOOL) :] == TOOL
    assert {*words, *meeting, "--rdzv-backend=c10d"} == set(command[4 : -len(TOOL)])


@pytest.mark.parametrize(
    ("found", "taken", "said"),
    [
        ("0.6.0", "ft_launcher", False),
        ("0.4.1", "torchrun", True),
        ("0.61.0", "torchrun", True),
        ("0.7.0", "torchrun", True),
        (None, "torchrun", False),
    ],
)
def test_auto_takes_tested_versions_and_names_others(found, taken, said, version, capsys):
    version(found)
    assert chosen("auto") == taken
    assert ("nothing restarts them" in capsys.readouterr().out) == said
    assert chosen("torchrun") == "torchrun"


@pytest.mark.parametrize("found", [None, "0.7.0"])
def test_what_is_asked_for_and_not_there_is_refused(found, version):
    version(found)
    with pytest.raises(ConfigError, match=r"ft_launcher needs 0\.6\.\*: pip install"):
        chosen("ft_launcher")


def test_refuses_settings_that_mean_nothing():
    with pytest.raises(ConfigError, match="--restarts is -1"):
        LaunchConfig(restarts=-1)
    with pytest.raises(ConfigError, match="--hang-timeout-s is 0"):
        LaunchConfig(hang_timeout_s=0)
    with pytest.raises(ConfigError, match="no tool to run"):
        tool.main(["--nproc-per-node=2"])


class Tracker:
    """The extension's, as far as ours builds on it."""

    def __init__(self, cycle: int = 0):
        self.no_progress_count, self.cycle_number = 0, cycle


@pytest.fixture
def extension(monkeypatch):
    """A stand-in for the extension: its launcher does what the test says."""
    package = "nvidia_resiliency_ext.fault_tolerance"
    root, inner = ModuleType("nvidia_resiliency_ext"), ModuleType(package)
    progress, launcher = ModuleType("progress_tracker"), ModuleType("launcher")
    progress.TrainingProgressTracker = launcher.TrainingProgressTracker = Tracker
    launcher.LogConfig = SimpleNamespace(name="stand-in")
    inner.launcher = launcher
    found = {"nvidia_resiliency_ext": root, package: inner}
    found |= {f"{package}.launcher": launcher, f"{package}.progress_tracker": progress}
    for name, part in found.items():
        monkeypatch.setitem(sys.modules, name, part)
    monkeypatch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", "")
    monkeypatch.setattr(module, "chosen", lambda _: "ft_launcher")
    return launcher


def restarts(extension, save, reached: list[int | None], budget: int) -> tuple[int, list[str]]:
    """How many starts a training gets that reaches these steps, and the launcher's flags."""
    given = []

    def main(words):
        given.extend(words)
        tracker = extension.TrainingProgressTracker(cycle=0)
        for step in reached:
            if step is not None:
                (save / "latest_checkpointed_iteration.txt").write_text(str(step))
            tracker.analyze_previous_cycle()
            if tracker.should_terminate_early():
                raise SystemExit(1)
        raise SystemExit(0)

    extension.main = main
    config = LaunchConfig(restarts=budget, hang_timeout_s=20)
    with pytest.raises(SystemExit) as end:
        launch(config, ["tools/pretrain.py", "--save", str(save)])
    return end.value.code, given


def test_a_run_may_restart_as_long_as_it_gets_on(extension, tmp_path, capsys):
    code, words = restarts(extension, tmp_path, [None, 3, 6, None, None, 9, None, None], 2)
    assert code == 0
    assert capsys.readouterr().err == ""
    assert "--ft-rank-heartbeat-timeout=20" in words
    assert "--ft-initial-rank-heartbeat-timeout=3600.0" in words


def test_starts_without_a_checkpoint_use_up_the_budget(extension, tmp_path, capsys):
    code, _ = restarts(extension, tmp_path, [None, None, None], 2)
    assert code == 1
    said = capsys.readouterr().err
    assert said.startswith("gave up: processes of this node ended 3 times, and the last 3 starts")
    assert "there is none yet" in said


def test_checkpoints_of_before_are_no_progress(extension, tmp_path, capsys):
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("500")
    code, _ = restarts(extension, tmp_path, [500, 500], 1)
    assert code == 1
    assert "the last checkpoint is that of step 500" in capsys.readouterr().err


def test_a_training_that_keeps_nothing_is_not_started_again(extension):
    given = []
    extension.main = given.extend
    with pytest.raises(SystemExit):
        launch(LaunchConfig(), ["tools/pretrain.py", "lm-debug"])
    assert "--max-restarts=0" in given
    given.clear()
    with pytest.raises(SystemExit):
        launch(LaunchConfig(), ["tools/pretrain.py", "--save=runs/lm"])
    assert "--max-restarts=10000" in given


def test_a_machine_without_gpus_hears_nothing_of_them(extension, monkeypatch, caplog):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    extension.main = lambda _: None
    with pytest.raises(SystemExit):
        launch(LaunchConfig(), TOOL)
    logger = logging.getLogger("stand-in")
    for file in ("health_check.py", "memory.py", "launcher.py"):
        logger.handle(logging.LogRecord("stand-in", logging.ERROR, file, 1, file, (), None))
    assert [record.message for record in caplog.records] == ["launcher.py"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"nproc_per_node": "abc"}, "--nproc-per-node is 'abc'"),
        ({"nproc_per_node": "0"}, "--nproc-per-node is '0'"),
        ({"nnodes": "x"}, "--nnodes is 'x'"),
        ({"nnodes": "2"}, "--nnodes 2 needs --rdzv-endpoint"),
        ({"nnodes": "2", "standalone": True, "rdzv_endpoint": "host:1"}, "no --standalone"),
    ],
)
def test_processes_that_cannot_be_started_are_refused_before_the_launcher_sees_them(wrong, said):
    with pytest.raises(ConfigError, match=said):
        LaunchConfig(**wrong)


def test_a_tool_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match=r"tools/pretrian\.py does not exist"):
        tool.main(["--standalone", "tools/pretrian.py", "--save", "runs/lm"])
