"""Whether a torch_dist checkpoint can be read, and belongs to the run that asks for it."""

from __future__ import annotations

import io
import json
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from ...io.files import fingerprint_of

IDENTITY_KEY = "identity"
SPEECH_TOKENIZER_KEY = "speech_tokenizer"
"""Part of the identity that may be None: a model that was trained on text alone."""
LORA_KEY = "lora"
"""Part of the identity: the settings of adapters, which are then all that is stored."""
BASE_KEY = "base"
"""Part of the identity of adapters: which checkpoint they belong to."""
CONTENT_KEY = "content_metadata"
"""Core's own key: how model and optimizer were cut into tensors."""
SHARDING_KEY = "distrib_optim_sharding_type"
"""Core's own key in it; there is none without the distributed optimizer."""
BUCKET_SETTINGS_KEY = "bucket_settings"

_READ_BYTES = 1 << 22
_MOST_CHARACTERS = 300


def read_common(directory: Path) -> dict[str, Any]:
    """What a checkpoint holds besides tensors; needs no process group.

    Raises:
        CheckpointError: the folder holds no whole checkpoint.
    """
    import pickle

    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.core import CheckpointingException
    from torch.distributed.checkpoint.api import CheckpointException

    if not (directory / "metadata.json").exists() or not (directory / ".metadata").exists():
        raise CheckpointError(
            f"{directory} is no whole torch_dist checkpoint: metadata.json or .metadata is missing"
        )
    try:
        return dist_checkpointing.load_common_state_dict(str(directory))
    except (CheckpointingException, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{directory / 'metadata.json'} is damaged: {error}") from None
    except (CheckpointException, pickle.UnpicklingError, EOFError, OSError) as error:
        check_files(directory)
        raise CheckpointError(f"{directory} cannot be read: {error}") from None


def read_tensors(state: dict[str, Any], directory: Path, each_once: bool = True) -> dict[str, Any]:
    """Core's load of what a sharded state dict asks for; needs a session.

    `each_once=False` skips the check that all ranks together ask for whole tensors.

    Raises:
        CheckpointError: the checkpoint does not hold it, or cannot be read.
    """
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.core import CheckpointingException
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        loaded: Any = dist_checkpointing.load(
            state, str(directory), validate_access_integrity=each_once
        )
        return loaded
    except CheckpointException as error:
        cause: BaseException = next(iter(error.failures.values()))[0]
    except (CheckpointingException, KeyError) as error:
        cause = error
    reason = " ".join(str(cause).split())[:_MOST_CHARACTERS]
    raise CheckpointError(f"{directory} does not hold what this model and optimizer need: {reason}")


def stored_keys(directory: Path) -> set[str]:
    """Keys of the tensors and objects of a checkpoint whose files are whole (`check_files`)."""
    from torch.distributed.checkpoint import FileSystemReader

    return set(FileSystemReader(directory).read_metadata().state_dict_metadata)


def base_identity(directory: Path) -> str:
    """Step and contents of a checkpoint, as adapters made for it remember them.

    Contents are told apart by the checksums they were written with; no tensor is read.

    Raises:
        CheckpointError: the folder is damaged.
    """
    from torch.distributed.checkpoint import FileSystemReader

    read_common(directory)
    stored = FileSystemReader(directory).read_metadata().storage_data
    found = []
    for index, info in stored.items():
        try:
            with open(directory / info.relative_path, "rb", buffering=0) as stream:
                part = io.BufferedReader(_Part(stream, info.offset, info.length))
                with zipfile.ZipFile(part) as archive:
                    sums = [entry.CRC for entry in archive.infolist()]
        except (OSError, zipfile.BadZipFile, ValueError):
            check_files(directory)
            raise
        found.append(f"{index.fqn} {tuple(index.offset or ())} {sums}")
    return f"{directory.name} {fingerprint_of(*sorted(found))}"


def check_files(directory: Path) -> None:
    """Compare every stored tensor with the checksum it was written with; collective in a session.

    PyTorch itself reads changed bytes without a word. Files are shared out over the ranks; each
    is read once, which also brings it into the page cache for the load that follows.

    Raises:
        CheckpointError: names the first file that is missing, cut short or changed.
    """
    from ..ranks import gather_objects, rank_and_size

    damage = next(filter(None, gather_objects(_first_damage(directory, *rank_and_size()))), None)
    if damage is not None:
        raise CheckpointError(
            f"{damage}; restore the folder from a copy, or write the number of an older iter_* "
            f"folder into {directory.parent / 'latest_checkpointed_iteration.txt'}"
        )


def _first_damage(directory: Path, rank: int, ranks: int) -> str | None:
    import pickle

    from torch.distributed.checkpoint import FileSystemReader

    try:
        stored = FileSystemReader(directory).read_metadata().storage_data
    except (OSError, EOFError, pickle.UnpicklingError, AttributeError, ValueError) as error:
        return f"{directory / '.metadata'} is damaged ({error})"
    items = defaultdict(list)
    for info in stored.values():
        items[info.relative_path].append(info)
    for name in sorted(items)[rank::ranks]:
        path = directory / name
        if not path.exists():
            return f"{path} is missing"
        end = max(info.offset + info.length for info in items[name])
        if path.stat().st_size < end:
            return f"{path} is cut short: {path.stat().st_size:,} bytes instead of {end:,}"
        with open(path, "rb", buffering=0) as stream:
            for info in items[name]:
                if not _checksums_hold(_Part(stream, info.offset, info.length)):
                    return f"{path} is damaged: its bytes differ from those that were written"
    return None


class _Part(io.RawIOBase):
    """A part of a file as a file of its own."""

    def __init__(self, stream: io.FileIO, offset: int, length: int):
        self._stream, self._offset, self._length, self._place = stream, offset, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._length}[whence]
        if start + place < 0:
            raise OSError("before the beginning")  # zipfile's search for an end that is not there
        self._place = start + place
        return self._place

    def readinto(self, buffer: Any) -> int:
        self._stream.seek(self._offset + self._place)
        wanted = max(min(len(buffer), self._length - self._place), 0)
        count = self._stream.readinto(memoryview(buffer)[:wanted]) or 0
        self._place += count
        return count


def _checksums_hold(stream: io.RawIOBase) -> bool:
    """Whether a file of `torch.save` (a zip archive) has the contents its checksums say."""
    try:
        with zipfile.ZipFile(io.BufferedReader(stream, _READ_BYTES)) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as content:
                    while content.read(_READ_BYTES):
                        pass
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, ValueError):
        return False
    return True


def check_identity(stored: dict[str, Any], wanted: dict[str, Any], directory: Path) -> None:
    """Compare what a checkpoint says it is with the model, vocabulary and codes of the run.

    Raises:
        CheckpointError: names every field that differs, with both values.
    """
    differing = [
        f"{name} is {stored.get(name)} there and {value} here"
        for name, value in wanted.items()
        if stored.get(name) != value
        and not (name == SPEECH_TOKENIZER_KEY and None in (stored.get(name), value))
    ]
    if differing:
        raise CheckpointError(
            f"{directory} is of another model, vocabulary or speech tokenizer: "
            f"{'; '.join(differing)}; use the settings and data it was trained with, or another "
            "--save folder"
        )


def check_optimizer(
    common: dict[str, Any],
    use_distributed_optimizer: bool,
    bucket_settings: dict[str, Any],
    path: Path,
) -> None:
    """Refuse optimizer state that this run's optimizer cannot take, or none at all.

    Raises:
        CheckpointError: says which kind was saved, or which settings must stay as they were.
    """
    if "optimizer" not in common:
        raise CheckpointError(
            f"{path} holds weights alone, as an imported base model does; give its folder as "
            "--pretrained-checkpoint, and the run a --save of its own"
        )
    sharding = common.get(CONTENT_KEY, {}).get(SHARDING_KEY)
    if (sharding is not None) != use_distributed_optimizer:
        raise CheckpointError(
            f"{path} was saved {'with' if sharding else 'without'} --use-distributed-optimizer; "
            "continue it that way, or take its weights alone with --no-load-optim"
        )
    if sharding == "dp_reshardable":
        _check_bucket_settings(common.get(BUCKET_SETTINGS_KEY, {}), bucket_settings, path)


def _check_bucket_settings(stored: dict[str, Any], now: dict[str, Any], path: Path) -> None:
    differing = {n: v for n, v in stored.items() if v != now[n] and None not in (v, now[n])}
    if not differing:
        return
    flags = ", ".join(
        f"--{'' if value else 'no-'}{name}" if isinstance(value, bool) else f"--{name} {value}"
        for name, value in differing.items()
    )
    raise CheckpointError(
        f"{path} was saved with --no-dist-ckpt-optim-fully-reshardable and goes on with {flags} "
        "only; give that, or write one checkpoint with --dist-ckpt-optim-fully-reshardable in the "
        "layout it has, which any layout may then read"
    )
