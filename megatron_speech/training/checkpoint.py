"""A run's folder: `iter_0000123/` checkpoints and the marker that says which one is whole."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import CheckpointError
from ..files import sync_folder, write_text

_MARKER = "latest_checkpointed_iteration.txt"


def iteration_directory(run: Path, iteration: int) -> Path:
    """Where the checkpoint after `iteration` steps lies."""
    return run / f"iter_{iteration:07d}"


def latest_iteration(run: Path) -> int | None:
    """Steps done in the newest whole checkpoint, None if there is none.

    Raises:
        CheckpointError: the marker is unreadable or points to a folder that is gone.
    """
    marker = run / _MARKER
    if not marker.exists():
        return None
    content = marker.read_text().strip()
    if not content.isdigit():
        raise CheckpointError(f"{marker} holds {content[:40]!r}, expected a step number")
    if not iteration_directory(run, int(content)).is_dir():
        raise CheckpointError(
            f"{marker} names step {content}, but {iteration_directory(run, int(content))} is "
            "missing; restore it or write the number of an existing checkpoint into the marker"
        )
    return int(content)


def unwritable(directory: Path, error: BaseException) -> CheckpointError:
    """What to tell a person whose checkpoint could not be written: most often, the disk is full."""
    free = shutil.disk_usage(directory).free
    return CheckpointError(
        f"checkpoint {directory} could not be written; {free / 2**20:,.0f} MiB are free on that "
        "disk. Make room and run the same command again: it continues from the last whole "
        f"checkpoint.\n{error}"
    )


@contextmanager
def reading(directory: Path) -> Iterator[None]:
    """Say in words that a torch_dist checkpoint is damaged, whatever torch and core raise at it.

    Raises:
        CheckpointError: names the folder and the first cause.
    """
    from megatron.core.dist_checkpointing.core import CheckpointingException
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointError:
        raise
    except CheckpointException as error:
        raise _damaged(directory, next(iter(error.failures.values()))[0]) from None
    except (CheckpointingException, KeyError, ValueError, RuntimeError, OSError) as error:
        raise _damaged(directory, error) from None


def _damaged(directory: Path, error: BaseException) -> CheckpointError:
    lines = str(error).strip().splitlines() or [""]
    return CheckpointError(
        f"checkpoint {directory} is damaged, incomplete or of another model; restore it, or write "
        f"the number of an older one into {_MARKER}. {type(error).__name__}: "
        f"{' '.join(line.strip() for line in lines)[:500]}"
    )


def begin(run: Path, iteration: int) -> Path:
    """An empty folder for the checkpoint of `iteration`; a half-written one is removed."""
    directory = iteration_directory(run, iteration)
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    return directory


def commit(run: Path, iteration: int, keep_last: int | None) -> None:
    """Declare the checkpoint whole, then remove all but the newest `keep_last` up to it.

    Its files are brought to the disk before the marker names them. Folders of later steps, left by
    a run that was killed or set back, do not count.
    """
    sync_folder(iteration_directory(run, iteration))
    write_text(run / _MARKER, f"{iteration}\n")
    if keep_last is None:
        return
    newest = iteration_directory(run, iteration).name
    whole = sorted(folder for folder in run.glob("iter_*") if folder.name <= newest)
    for old in whole[: max(len(whole) - keep_last, 0)]:
        shutil.rmtree(old)
