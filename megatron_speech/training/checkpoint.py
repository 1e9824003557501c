"""A run's folder: `iter_0000123/` checkpoints and the marker that says which one is whole."""

import math
import shutil
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DataError
from ..io.checked_json import read_checked_json, write_checked_json
from ..io.files import is_abandoned, sync_folder, write_text
from ..jobs.folders import remove_folder
from .task import PendingSave, Trainer

MARKER = "latest_checkpointed_iteration.txt"
_NOTES = "loop.json"
_ADVICE = f"go on from an older checkpoint by writing its number into {MARKER}"


def iteration_directory(run: Path, iteration: int) -> Path:
    """Where the checkpoint after `iteration` steps lies."""
    return run / f"iter_{iteration:07d}"


def latest_iteration(run: Path) -> int | None:
    """Steps done in the newest whole checkpoint, None if there is none.

    Raises:
        CheckpointError: the marker is unreadable, points to a folder that is gone, or is itself
            gone from a run that had more than its first checkpoint.
    """
    marker = run / MARKER
    folders = sorted(folder.name for folder in run.glob("iter_*"))
    there = f"it holds {', '.join(folders) or 'no iter_* folder'}"
    advice = f"write the number of a whole checkpoint into {marker} ({there})"
    if not marker.exists():
        # A first checkpoint whose writing was cut off leaves one folder; more had a marker once.
        if len(folders) > 1:
            raise CheckpointError(f"{run} has checkpoints but no {MARKER}; {advice}")
        return None
    content = marker.read_text(errors="replace").strip()
    if not content.isdigit():
        raise CheckpointError(f"{marker} holds {content[:40]!r}, not a step number; {advice}")
    if not iteration_directory(run, int(content)).is_dir():
        raise CheckpointError(
            f"{marker} names step {content}, but {iteration_directory(run, int(content))} is "
            f"missing; restore it, or {advice}"
        )
    return int(content)


def find(*runs: Path | None) -> tuple[int, Path] | None:
    """Steps done and folder of the newest checkpoint, in the first of `runs` that has one."""
    for run in filter(None, runs):
        iteration = latest_iteration(run)
        if iteration is not None:
            return iteration, iteration_directory(run, iteration)
    return None


def unwritable(directory: Path, error: BaseException) -> CheckpointError:
    """What to tell a person whose checkpoint could not be written: most often, the disk is full."""
    free = shutil.disk_usage(directory).free
    return CheckpointError(
        f"checkpoint {directory} could not be written; {free / 2**20:,.0f} MiB are free on that "
        "disk. Make room and run the same command again: it continues from the last whole "
        f"checkpoint.\n{error}"
    )


def begin(run: Path, iteration: int) -> Path:
    """An empty folder for the checkpoint of `iteration`; a half-written one is removed.

    So are those of all other steps in a run without a marker: of none the writing was ended, and
    two of them would look like a run that lost its marker.
    """
    directory = iteration_directory(run, iteration)
    unfinished = [directory] if (run / MARKER).exists() else [directory, *run.glob("iter_*")]
    for folder in unfinished:
        remove_folder(folder)
    directory.mkdir(parents=True)
    return directory


def commit(run: Path, iteration: int, keep_last: int | None) -> None:
    """Declare the checkpoint whole, then remove all but the newest `keep_last` up to it.

    Its files are brought to the disk before the marker names them. Folders of later steps, left by
    a run that was killed or set back, do not count.
    """
    sync_folder(iteration_directory(run, iteration))
    write_text(run / MARKER, f"{iteration}\n")
    for leftover in filter(is_abandoned, run.glob(".iter_*.part")):
        shutil.rmtree(leftover, ignore_errors=True)  # a removal that was cut off
    if keep_last is None:
        return
    newest = iteration_directory(run, iteration).name
    whole = sorted(folder for folder in run.glob("iter_*") if folder.name <= newest)
    for old in whole[: max(len(whole) - keep_last, 0)]:
        remove_folder(old)


def read_notes(directory: Path) -> dict[str, Any]:
    """What the loop noted beside a checkpoint; nothing in one that was made without it.

    Raises:
        CheckpointError: it is damaged or was edited.
    """
    path = directory / _NOTES
    if not path.exists():
        return {}
    try:
        notes = read_checked_json(path).content
    except DataError as error:
        raise CheckpointError(f"{error}. It decides which batch comes next; {_ADVICE}") from None
    left_out, losses = notes.get("batches_left_out", 0), notes.get("losses", [])
    if type(left_out) is not int or left_out < 0 or not _are_numbers(losses):
        raise CheckpointError(
            f"{path} is damaged: batches_left_out is {str(left_out)[:40]} and losses are "
            f"{str(losses)[:40]}; expected a count and a list of numbers; {_ADVICE}"
        )
    return notes


def _are_numbers(losses: Any) -> bool:
    """Whether the losses of older notes, which have no checksum, can be losses."""
    return isinstance(losses, list) and all(
        type(loss) in (int, float) and math.isfinite(loss) for loss in losses
    )


class Checkpoints:
    """Saves a trainer into a run's folder, one checkpoint at a time; all methods are collective.

    A checkpoint counts once it is whole: until then the marker names the one before, and nothing
    older is removed. Without a folder nothing is saved.
    """

    def __init__(self, trainer: Trainer, run: Path | None, keep_last: int | None, first: int):
        self._trainer, self._run, self._keep_last = trainer, run, keep_last
        self._pending: PendingSave | None = None
        self._newest = first

    def save(self, iteration: int, notes: dict[str, Any]) -> None:
        """Save the state after `iteration` steps, if that is not the newest checkpoint already.

        `notes` is what the loop itself wants back (`read_notes`).
        """
        if self._run is None or iteration == self._newest:
            return
        self.finish()
        if self._trainer.is_main_rank:
            write_checked_json(begin(self._run, iteration) / _NOTES, notes)
        self._trainer.any_rank(False)  # a barrier: the folder exists before any rank writes
        self._newest = iteration
        self._pending = self._trainer.save(iteration_directory(self._run, iteration))
        if self._pending is None:
            self._commit()

    def poll(self) -> None:
        """Declare the checkpoint under way whole as soon as it is."""
        if self._pending is not None and self._pending.done(wait=False):
            self._commit()

    def finish(self) -> None:
        """Wait for the checkpoint under way."""
        if self._pending is not None:
            self._pending.done(wait=True)
            self._commit()

    def _commit(self) -> None:
        assert self._run is not None
        self._pending = None
        self._trainer.any_rank(False)  # every rank has written
        if self._trainer.is_main_rank:
            commit(self._run, self._newest, self._keep_last)
