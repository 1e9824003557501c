"""A run that is continued: what changed since it was saved, said or refused before it starts."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ..errors import ConfigError
from ..jobs.claims import exclusive
from ..model.card import RUN_CONFIG
from ..training.checkpoint import find, latest_iteration, read_notes
from ..training.health import Health

if TYPE_CHECKING:
    from ..data.dataset import Continuation
    from .lm_recipes import LMConfig

_SEEDS = ("batch.seed", "data.seed")
_OF_THIS_CALL = (
    "loop.save",
    "loop.load",
    "loop.exit_duration_in_mins",
    "base.pretrained_checkpoint",
    "base.speech_tokenizer",
    "data.vocab",  # a path; the checkpoint's identity knows what it holds
)


@contextmanager
def sole_trainer(save: Path) -> Iterator[None]:
    """Let no other run train into `save`; the first rank holds it for all.

    Raises:
        InUseError: on the first rank, before any rank waits for another. What started the ranks
            ends the others.
    """
    first = int(os.environ.get("RANK", "0")) == 0
    with exclusive(save, inside=True) if first else nullcontext():
        yield


def check_resume(save: Path, config: dict[str, Any]) -> str | None:
    """Compare `config`, as plain dictionaries, with the one kept in the folder of a run.

    Returns one line that names every changed setting, None if there is nothing to say: no
    checkpoint to continue, no config beside it, or no change. A changed blend is allowed, it is
    how a schedule of blends is made.

    Raises:
        ConfigError: the seed changed. It decides the order of the data: steps done and steps to
            come would no longer be parts of one order, and windows would repeat or be missed.
    """
    path = save / RUN_CONFIG
    if not path.exists() or latest_iteration(save) is None:
        return None
    try:
        saved = flat(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is damaged, so what the run was begun with is not known ({error}); restore "
            "it, or remove it to continue without this check"
        ) from None
    now = flat(config)
    changed = {
        name: (saved[name], value)
        for name, value in now.items()
        if name in saved and saved[name] != value and name not in _OF_THIS_CALL
    }
    for was, given in (changed[name] for name in _SEEDS if name in changed):
        raise ConfigError(
            f"--seed is {given}, but the run in {save} was begun with {was}; continue it with "
            f"--seed {was}, or give a new --save (with --load {save} to start from its weights)"
        )
    if not changed:
        return None
    listed = "; ".join(f"{name} {_short(was)} -> {_short(v)}" for name, (was, v) in changed.items())
    return f"continuing {save} with changed settings: {listed}"


def continuation(config: "LMConfig") -> "Continuation":
    """What the checkpoint that `config` goes on from says about its data; needs a session.

    Raises:
        CheckpointError: the checkpoint cannot be read.
    """
    from ..data.dataset import Continuation
    from ..training.megatron.checkpoint import DATA_KEY, read_common

    found = find(config.loop.save, config.loop.load)
    length = config.data.seq_length
    schedule = config.batch.schedule(length)
    batches = f"{schedule.schedule or schedule.global_batch_size} x {length}"
    if found is None:
        return Continuation(batches=batches)
    iteration, directory = found
    batch = iteration + Health.batches_left_out_of(read_notes(directory))
    stored = read_common(directory).get(DATA_KEY)
    return Continuation(stored=stored, batches=batches, next_sample=schedule.first(batch))


def plain(value: Any) -> Any:
    """A config as dictionaries, lists and scalars."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: plain(item) for name, item in vars(value).items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """What `plain` makes of a config with names as `model.sampling.guidance` in one dictionary."""
    found = {}
    for name, value in config.items():
        parts = flat(value) if isinstance(value, dict) else None
        found |= {name: value} if parts is None else {f"{name}.{n}": v for n, v in parts.items()}
    return found


def _short(value: Any) -> str:
    return " ".join(map(str, value)) or "(none)" if isinstance(value, list) else str(value)
