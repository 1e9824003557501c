"""Core's torch_dist checkpoints, written and read without a model and piece by piece.

Written: each tensor is asked for when its turn comes and is gone when it is on the disk. Read: one
set of tensors at a time, whatever the layout it was saved under. The format is
torch.distributed.checkpoint's; keys and sharding are those of core's `sharded_state_dict`, so any
layout loads the result.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)

from ..errors import CheckpointError
from ..jobs.progress import Progress
from ..training.checkpoint import unwritable
from ..training.megatron.checkpoint_check import read_tensors


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A box of a tensor that is stored as one."""

    key: str
    tensor_shape: tuple[int, ...]
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


def write_checkpoint(
    directory: Path, pieces: Sequence[Piece], objects: Sequence[str], common: dict[str, Any]
) -> None:
    """Write an empty folder full: tensors, empty `objects` by key, and what is common to all ranks.

    Needs a session.

    Raises:
        CheckpointError: the files could not be written.
    """
    from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.api import CheckpointException

    contents = {**dict.fromkeys(objects), "common_state/shard_0_1": common}
    megabytes = sum(prod(piece.shape) * piece.dtype.itemsize for piece in pieces) / 1e6
    # the copy ahead of a GPU's writer would sort by size, and resolve several at once
    writer = checkpoint.FileSystemWriter(directory, per_thread_copy_ahead=0)
    try:
        with Progress("writing checkpoint", megabytes, "MB") as progress:
            planner = _LazyPlanner(pieces, contents, progress)
            checkpoint.save({}, storage_writer=writer, planner=planner, no_dist=True)
        save_config(CheckpointingConfig("torch_dist"), str(directory))
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        if isinstance(cause, CheckpointError):
            raise cause from None
        raise unwritable(directory, cause) from None
    except OSError as error:
        raise unwritable(directory, error) from None


class _LazyPlanner(DefaultSavePlanner):
    """Plans pieces by their description and reads each when the writer asks for it."""

    def __init__(self, pieces: Sequence[Piece], objects: dict[str, Any], progress: Progress):
        super().__init__(flatten_state_dict=False, flatten_sharded_tensors=False)
        self._progress = progress
        self._pieces = {MetadataIndex(p.key, p.offsets): p for p in pieces}
        self._objects = objects

    def create_local_plan(self) -> SavePlan:
        items = [_write_item(index, piece) for index, piece in self._pieces.items()]
        items += [
            WriteItem(index=MetadataIndex(key), type=WriteItemType.BYTE_IO) for key in self._objects
        ]
        self.plan = SavePlan(items)
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Tensor | io.BytesIO:
        if write_item.type == WriteItemType.BYTE_IO:
            stream = io.BytesIO()
            torch.save([self._objects[write_item.index.fqn]], stream)
            return stream
        piece = self._pieces[write_item.index]
        tensor = piece.read()
        assert tensor.dtype == piece.dtype
        self._progress.advance(tensor.nbytes / 1e6)
        return tensor.reshape(piece.shape)


def _write_item(index: MetadataIndex, piece: Piece) -> WriteItem:
    return WriteItem(
        index=index,
        type=WriteItemType.SHARD,
        tensor_data=TensorWriteData(
            chunk=ChunkStorageMetadata(torch.Size(piece.offsets), torch.Size(piece.shape)),
            properties=TensorProperties(dtype=piece.dtype),
            size=torch.Size(piece.tensor_shape),
        ),
    )


def stored_dtype(directory: Path, key: str) -> torch.dtype:
    """The type a tensor is stored in; the folder's files are known to be whole.

    Raises:
        CheckpointError: there is no such tensor.
    """
    from torch.distributed.checkpoint import FileSystemReader

    metadata = FileSystemReader(directory).read_metadata().state_dict_metadata
    if key not in metadata:
        raise CheckpointError(f"{directory} holds no {key}; it is of another kind of model")
    return metadata[key].properties.dtype  # type: ignore[union-attr]


def read_layer(
    directory: Path, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, index: int, layers: int
) -> dict[str, Tensor]:
    """One layer's slice of tensors that are stacked over `layers`; needs a session.

    Raises:
        CheckpointError: a tensor is missing, damaged or of another shape.
    """
    from megatron.core.dist_checkpointing import ShardedTensor

    wanted = {
        key: ShardedTensor.from_rank_offsets(
            key, torch.empty((1, *shape), dtype=dtype), (0, index, layers)
        )
        for key, shape in shapes.items()
    }
    loaded = read_tensors(wanted, directory, each_once=False)
    return {key: loaded[key].reshape(shape) for key, shape in shapes.items()}


def read_whole(directory: Path, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor that is not stacked; needs a session.

    Raises:
        CheckpointError: it is missing, damaged or of another shape.
    """
    from megatron.core.dist_checkpointing import ShardedTensor

    wanted = {key: ShardedTensor.from_rank_offsets(key, torch.empty(shape, dtype=dtype))}
    return read_tensors(wanted, directory, each_once=False)[key]
