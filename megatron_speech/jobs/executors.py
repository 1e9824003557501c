"""Where the tasks of a job run: here, or on Slurm or Ray by datatrove (the extra `cluster`).

On this machine datatrove's executor would not do: it waits forever for a worker that was killed,
and counts a task as done by a marker in its log folder, whatever has become of the task's files.
Nor would its readers: they drop records they cannot parse with no more than a line in the log, and
give each task whole files, so that the order of documents depends on the number of tasks.
"""

import functools
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError
from .claims import exclusive
from .tasks import Argument, Result, run_tasks


class Submitted(Exception):
    """The work was handed to Slurm; nothing is there yet. `job_id` is that of the last step."""

    def __init__(self, description: str, job_id: str):
        super().__init__(f"{description}: submitted; the last Slurm job is {job_id}")
        self.job_id = job_id


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where the tasks of a job run."""

    executor: Literal["local", "slurm", "ray"] = "local"
    """local: processes of this machine. slurm: an array job, and a last job that joins the parts.
    ray: the cluster `ray.init` finds; this process waits and joins."""
    partition: str | None = None
    """Slurm partition."""
    time: str = "24:00:00"
    """Slurm time limit of a task."""
    qos: str = ""
    """Slurm quality of service; none if empty."""
    cpus_per_task: int = 1
    """Processors of a task."""
    mem_per_cpu_gb: int = 4
    """Memory of a processor, in GB."""
    gpus_per_task: int = 0
    """GPUs of a task (generate)."""
    sbatch_args: tuple[str, ...] = ()
    """More of sbatch's options, as account=speech."""
    after: str | None = None
    """Slurm job that must have ended well before this one begins."""
    logs: Path | None = None
    """Folder for logs, on a disk that all machines share; beside the output if not given."""

    def __post_init__(self) -> None:
        if (self.executor == "slurm") != (self.partition is not None):
            raise ConfigError("--executor slurm needs --partition, and nothing else takes it")
        if self.executor != "slurm" and self.after is not None:
            raise ConfigError("--after is a Slurm job: it needs --executor slurm")
        if any("=" not in option for option in self.sbatch_args):
            raise ConfigError(f"--sbatch-args are name=value, got {' '.join(self.sbatch_args)}")


@contextmanager
def sole_job(output: Path, cluster: ClusterConfig, *, inside: bool = False) -> Iterator[None]:
    """Let one job at a time make `output` (see `claims.exclusive`).

    Who submits to Slurm only makes sure that nobody does: the tasks are claimed one by one, and
    the output by the last job, which joins them.

    Raises:
        InUseError: another process makes it.
    """
    with exclusive(output, inside=inside):
        if cluster.executor != "slurm":
            yield
            return
    yield


@dataclass(frozen=True)
class Place:
    """Where to run tasks: `finish` is the job itself, to be called again where the tasks ran."""

    cluster: ClusterConfig
    logs: Path
    claims: Path
    """Folder beside the job's output: one process at a time does a task."""
    finish: Callable[[], Any] = field(repr=False)

    @classmethod
    def of(cls, job: Callable[[Any], Any], config: Any, logs: Path) -> "Place":
        """The place `config.cluster` names for a job that is called with `config`.

        `logs` lies beside the job's output, or in it.
        """
        here = replace(config, cluster=ClusterConfig())
        finish = functools.partial(job, here)
        return cls(config.cluster, config.cluster.logs or logs, logs / "claims", finish)

    def run(
        self,
        function: Callable[[Argument], Result],
        arguments: Sequence[Argument],
        *,
        workers: int,
        description: str,
        threads_per_worker: int = 1,
    ) -> list[Result]:
        """Call `function` on every argument; a task that is done must find that out by itself.

        Raises:
            Submitted: Slurm has the tasks, and `finish` to call behind them.
            ConfigError: datatrove (or ray) is not installed, or sbatch refuses.
            As `tasks.run_tasks`.
        """
        if self.cluster.executor == "local":
            return run_tasks(
                function,
                arguments,
                workers=workers,
                description=description,
                threads_per_worker=threads_per_worker,
            )
        step = _Step(function, list(arguments), self.claims / description)
        if self.cluster.executor == "ray":
            _run_on_ray(self, step, workers, description)
            return [function(argument) for argument in arguments]  # done: each finds that out
        raise Submitted(description, _submit(self, step, workers, description))


@dataclass
class _Step:
    """What datatrove calls in every task: one argument of many.

    Raises:
        InUseError: the job was submitted twice, and another process does this task.
    """

    function: Callable[[Any], Any]
    arguments: list[Any]
    claims: Path

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        with exclusive(self.claims / f"task {rank}"):
            self.function(self.arguments[rank])


@dataclass
class _Finish:
    """The step behind all tasks."""

    finish: Callable[[], Any]

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        self.finish()


def _submit(place: Place, step: _Step, workers: int, description: str) -> str:
    executor = _datatrove("slurm").SlurmPipelineExecutor
    cluster = place.cluster
    activate = Path(sys.prefix) / "bin" / "activate"
    common = {
        "time": cluster.time,
        "partition": cluster.partition,
        "qos": cluster.qos,
        "cpus_per_task": cluster.cpus_per_task,
        "mem_per_cpu_gb": cluster.mem_per_cpu_gb,
        "gpus_per_task": cluster.gpus_per_task,
        "venv_path": str(activate) if activate.exists() else None,
        "sbatch_args": dict(option.split("=", 1) for option in cluster.sbatch_args),
        "skip_completed": False,  # a task looks at its own files
    }
    tasks = executor(
        pipeline=[step],
        tasks=len(step.arguments),
        workers=workers,
        job_name=description,
        logging_dir=str(place.logs / "tasks"),
        depends_job_id=cluster.after,
        **common,
    )
    last = executor(
        pipeline=[_Finish(place.finish)],
        tasks=1,
        job_name=f"{description}-join",
        logging_dir=str(place.logs / "join"),
        depends=tasks,
        **common,
    )
    try:
        last.run()
    except FileNotFoundError:
        raise ConfigError("sbatch is not on the PATH; submit from a login node of Slurm") from None
    except subprocess.CalledProcessError as error:
        raise ConfigError(f"sbatch refused the job (it said why above): {error}") from None
    return str(last.job_id)


def _run_on_ray(place: Place, step: _Step, workers: int, description: str) -> None:
    executor = _datatrove("ray").RayPipelineExecutor
    try:
        executor(
            pipeline=[step],
            tasks=len(step.arguments),
            workers=workers,
            logging_dir=str(place.logs / description),
            cpus_per_task=place.cluster.cpus_per_task,
            mem_per_cpu_gb=place.cluster.mem_per_cpu_gb,
            gpus_per_task=place.cluster.gpus_per_task,
            skip_completed=False,
        ).run()
    except ImportError as error:
        raise ConfigError(
            f"--executor ray needs ray: pip install -c constraints.txt -e '.[ray]' ({error})"
        ) from None


def _datatrove(name: str) -> Any:
    try:
        return importlib.import_module(f"datatrove.executor.{name}")
    except ImportError as error:
        raise ConfigError(
            f"--executor {name} needs datatrove: pip install -c constraints.txt -e '.[cluster]' "
            f"({error})"
        ) from None
