"""Start the processes of a training, and start them again when one dies or hangs.

torchrun starts them once. `ft_launcher` of NVIDIA's Resiliency Extension also watches them: it
ends a process that gives no sign of life (training/heartbeats.py), and starts all of them again
when one has ended badly; they go on from the last checkpoint, with the same bits.
"""

import logging
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from ..errors import ConfigError
from ..training.checkpoint import MARKER
from ..training.distributions import installed_version

PACKAGE = "nvidia-resiliency-ext"
TESTED = "0.6"
"""The version that core names as well; its launcher is reached into below."""
_MOST = 10_000  # restarts in all; `restarts` is what ends a run


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """How to start the processes. Names are torchrun's where it has one."""

    nnodes: str = "1"
    """Nodes of the job."""
    nproc_per_node: str = "1"
    """Processes a node."""
    standalone: bool = False
    """One node, which needs no meeting point."""
    rdzv_id: str = "none"
    """Name of the job at the meeting point."""
    rdzv_backend: str = "c10d"
    """Kind of the meeting point."""
    rdzv_endpoint: str = ""
    """The meeting point, HOST:PORT."""
    rdzv_conf: str = ""
    """More about it, `is_host=1` on the node that has it."""
    numa_binding: str | None = None
    """CPUs of a process, as torchrun has it; ft_launcher goes by NVRX_GPUS_PER_NUMA instead."""
    launcher: Literal["auto", "torchrun", "ft_launcher"] = "auto"
    """auto: ft_launcher where nvidia-resiliency-ext of a tested version is installed."""
    restarts: int = 3
    """ft_launcher: restarts in a row that bring no new checkpoint, after which it gives up."""
    start_timeout_s: float = 3600.0
    """ft_launcher: a process hangs if its first step takes longer than this."""
    hang_timeout_s: float = 900.0
    """ft_launcher: or if it is silent for longer: a step, a checkpoint or an evaluation."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", self.nnodes):
            raise ConfigError(f"--nnodes is {self.nnodes!r}; expected a number, or MIN:MAX")
        if not re.fullmatch(r"[1-9]\d*|cpu|gpu|xpu|auto", self.nproc_per_node):
            raise ConfigError(
                f"--nproc-per-node is {self.nproc_per_node!r}; expected a number, gpu, cpu or auto"
            )
        if self.nnodes != "1" and (self.standalone or not self.rdzv_endpoint):
            raise ConfigError(
                f"--nnodes {self.nnodes} needs --rdzv-endpoint HOST:PORT, and no --standalone: "
                "the nodes have to meet"
            )
        if self.restarts < 0:
            raise ConfigError(f"--restarts is {self.restarts}; give >= 0")
        for name in ("start_timeout_s", "hang_timeout_s"):
            if not getattr(self, name) > 0:
                flag = name.replace("_", "-")
                raise ConfigError(f"--{flag} is {getattr(self, name):g}; give more than 0")


def launch(config: LaunchConfig, tool: list[str]) -> NoReturn:
    """Run a tool with its arguments in all processes; ends this one with their exit status.

    Raises:
        ConfigError: ft_launcher is asked for and not there.
    """
    rendezvous = ["--standalone"] if config.standalone else [
        f"--rdzv-id={config.rdzv_id}",
        f"--rdzv-backend={config.rdzv_backend}",
        f"--rdzv-endpoint={config.rdzv_endpoint}",
        f"--rdzv-conf={config.rdzv_conf}",
    ]  # fmt: skip
    flags = [f"--nnodes={config.nnodes}", f"--nproc-per-node={config.nproc_per_node}", *rendezvous]
    if chosen(config.launcher) == "ft_launcher":
        _watch(config, flags, tool)
    if config.numa_binding:
        flags.append(f"--numa-binding={config.numa_binding}")
    run = [sys.executable, "-m", "torch.distributed.run", "--signals-to-handle=SIGINT"]
    sys.stdout.flush()
    os.execv(sys.executable, [*run, *flags, *tool])


def chosen(launcher: str) -> str:
    """`torchrun` or `ft_launcher`.

    Raises:
        ConfigError: ft_launcher is asked for and not there, or of a version not tested.
    """
    if launcher == "torchrun":
        return launcher
    found = installed_version(PACKAGE)
    tested = found is not None and found.startswith(f"{TESTED}.")
    if tested:
        return "ft_launcher"
    said = f"{PACKAGE} {found or 'is not installed'}; ft_launcher needs {TESTED}.*"
    if launcher == "ft_launcher":
        raise ConfigError(f"--launcher ft_launcher: {said}: pip install '{PACKAGE}=={TESTED}.*'")
    if found is not None:
        print(f"{said}: torchrun starts the processes, and nothing restarts them", flush=True)
    return "torchrun"


def _watch(config: LaunchConfig, flags: list[str], tool: list[str]) -> NoReturn:
    import torch
    from nvidia_resiliency_ext.fault_tolerance import launcher
    from nvidia_resiliency_ext.fault_tolerance.progress_tracker import TrainingProgressTracker

    save = _save_of(tool)

    class Budget(TrainingProgressTracker):
        """Counts restarts that brought no checkpoint, the very first one included."""

        cycles = 0

        def __init__(self, *settings: Any, **named: Any):
            super().__init__(*settings, **named)
            self._saved = _saved(save)

        def analyze_previous_cycle(self) -> None:
            Budget.cycles += 1
            before, self._saved = self._saved, _saved(save)
            self.no_progress_count = 0 if self._saved > before else self.no_progress_count + 1
            self.cycle_number += 1

        def should_terminate_early(self) -> bool:
            return self.no_progress_count > config.restarts

    launcher.TrainingProgressTracker = Budget
    if not torch.cuda.is_available():
        logging.getLogger(launcher.LogConfig.name).addFilter(_is_not_about_gpus)
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGINT"  # the trainers take the others
    restarts = 0 if save is None else _MOST  # nothing to go on from: a restart begins anew
    watching = [
        f"--max-restarts={restarts}",
        f"--ft-initial-rank-heartbeat-timeout={config.start_timeout_s}",
        f"--ft-rank-heartbeat-timeout={config.hang_timeout_s}",
        f"--ft-workload-check-interval={min(5.0, config.hang_timeout_s / 10)}",
    ]
    try:
        launcher.main([*flags, *watching, *tool])
    except SystemExit as end:
        if end.code and Budget.cycles and save is not None:
            print(_last_word(config.restarts, Budget.cycles, save), file=sys.stderr, flush=True)
        raise
    raise SystemExit(0)


def _last_word(restarts: int, cycles: int, save: Path) -> str:
    reached = _saved(save)
    stands = f"the last checkpoint is that of step {reached}" if reached else "there is none yet"
    return (
        f"gave up: processes of this node ended {cycles} times, and the last {restarts + 1} starts "
        f"(--restarts {restarts}) left no new checkpoint in {save}: {stands}. Look above for "
        "what the first of them said; once that is mended, the same command continues"
    )


def _saved(save: Path | None) -> int:
    """Step of the last checkpoint; 0 without one, or where that cannot be told."""
    try:
        return int(((save or Path()) / MARKER).read_text())
    except (OSError, ValueError):
        return 0


def _save_of(tool: list[str]) -> Path | None:
    """Where a tool's command says that checkpoints go."""
    for word, following in zip(tool, [*tool[1:], ""], strict=True):
        if word.startswith("--save="):
            return Path(word.removeprefix("--save="))
        if word == "--save":
            return Path(following)
    return None


def _is_not_about_gpus(record: logging.LogRecord) -> bool:
    """The extension looks after GPUs by itself, and complains of a machine without."""
    return record.filename not in ("health_check.py", "memory.py")
