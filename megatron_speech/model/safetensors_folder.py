"""Folders of safetensors shards, read and written one tensor at a time."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from ..io.files import read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_BUFFERS = ("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class Entry:
    """One tensor of a folder."""

    file: Path
    shape: tuple[int, ...]
    dtype: str
    """safetensors' name of it, as BF16."""
    stored: str
    """Its name in the file."""
    first_row: int | None = None
    """Where it is some rows of what is stored: the first of them."""


class SafetensorsFolder:
    """The tensors of a model folder; `entries` says what there is without reading any of it."""

    index_metadata: dict[str, Any]
    """What the index says of all files; empty where there is one."""
    metadata: dict[Path, dict[str, str]]
    """What the header of each file says of it."""

    def __init__(self, folder: Path):
        """Read every file's header: of the single file if there is one, else of those in the index.

        Raises:
            CheckpointError: no safetensors, a missing or damaged shard, an index that names what
                is not there, or weights in pickle files alone.
        """
        self.folder = folder
        index = folder / INDEX
        weight_map, self.index_metadata = {}, {}
        if index.exists() and not (folder / SINGLE).exists():
            weight_map, self.index_metadata = _read_index(index)
        files = sorted(set(weight_map.values())) or [SINGLE]
        self._require_files(files, index if weight_map else None)
        self.entries: dict[str, Entry] = {}
        self.metadata = {}
        for path in (folder / name for name in files):
            with _opened(path) as shard:
                self.metadata[path] = shard.metadata() or {}
                for name in list(shard.keys()):
                    part = shard.get_slice(name)
                    self.entries[name] = Entry(
                        path, tuple(part.get_shape()), part.get_dtype(), name
                    )
        absent = [
            f"{name} in {file}"
            for name, file in weight_map.items()
            if name not in self.entries or self.entries[name].file.name != file
        ]
        if absent:
            raise CheckpointError(
                f"{index} promises {_some(absent)}, which that file does not hold; download the "
                "folder again"
            )

    def _require_files(self, files: list[str], index: Path | None) -> None:
        missing = [name for name in files if not (self.folder / name).is_file()]
        if not missing:
            return
        if index is not None:
            raise CheckpointError(
                f"{self.folder} lacks {len(missing)} of the {len(files)} shards that {index.name} "
                f"names: {_some(missing)}; download them again"
            )
        pickles = sorted(path.name for kind in _PICKLES for path in self.folder.glob(kind))
        if pickles:
            raise CheckpointError(
                f"{self.folder} holds its weights as pickle ({_some(pickles)}), which can run code "
                "when it is read and is refused; convert it to safetensors with transformers "
                "(save_pretrained) where you trust it"
            )
        raise CheckpointError(f"{self.folder} holds no weights: neither {SINGLE} nor {INDEX}")

    def dtype(self) -> torch.dtype:
        """The one type of all tensors.

        Raises:
            CheckpointError: integers, fp8 or several types.
        """
        kinds = {entry.dtype: name for name, entry in self.entries.items()}
        for kind, name in kinds.items():
            if kind not in DTYPES:
                raise CheckpointError(
                    f"{self.folder}: {name} is {kind}, expected one of {', '.join(DTYPES)}; "
                    "quantized weights cannot be trained on, take the unquantized model"
                )
        if len(kinds) > 1:
            listed = ", ".join(f"{name} is {kind}" for kind, name in kinds.items())
            raise CheckpointError(
                f"{self.folder} mixes types: {listed}; save it in one with transformers "
                "(from_pretrained(..., dtype=...), save_pretrained)"
            )
        return DTYPES[next(iter(kinds))]

    def require(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse a folder that lacks one of `shapes`, has it in another shape, or has more.

        Buffers that old checkpoints stored are forgotten.

        Raises:
            CheckpointError: says which tensors.
        """
        missing = [name for name in shapes if name not in self.entries]
        unknown = [
            name for name in self.entries if name not in shapes and not name.endswith(_BUFFERS)
        ]
        if missing or unknown:
            parts = [f"lacks {_some(missing)}"] if missing else []
            parts += [f"holds {_some(unknown)}, which have no place"] if unknown else []
            raise CheckpointError(
                f"{self.folder} is not the model its config.json describes: it "
                f"{' and '.join(parts)}; was config.json taken from another model?"
            )
        for name, shape in shapes.items():
            if (found := self.entries[name].shape) != shape:
                raise CheckpointError(
                    f"{self.folder}: {name} has shape {found}, but by its config.json it has "
                    f"{shape}; config.json and weights are of different models"
                )
        self.entries = {name: self.entries[name] for name in shapes}

    def read(self, name: str, rows: slice | None = None) -> Tensor:
        """A tensor, or some of its rows.

        The shard is mapped for this read alone, so its pages do not stay.

        Raises:
            CheckpointError: the shard cannot be read any more, or weights are NaN or infinite.
        """
        entry = self.entries[name]
        if entry.first_row is not None:
            first, past, _ = (rows or slice(None)).indices(entry.shape[0])
            rows = slice(entry.first_row + first, entry.first_row + past)
        with _opened(entry.file) as shard:
            if rows is None:
                tensor = shard.get_tensor(entry.stored)
            else:
                tensor = shard.get_slice(entry.stored)[rows]
            return _checked(entry.file, entry.stored, tensor.clone())

    def names_by_file(self) -> dict[str, list[str]]:
        """What each file holds, in the order of its bytes.

        Raises:
            CheckpointError: a shard cannot be read any more.
        """
        names = {}
        for path in self.metadata:
            with _opened(path) as shard:
                names[path.name] = list(shard.offset_keys())
        return names

    def read_all(self) -> dict[str, Tensor]:
        """All tensors, still mapped: processes that read the same folder share their memory.

        Raises:
            CheckpointError: as `read`.
        """
        tensors = {}
        for path in self.metadata:
            with _opened(path) as shard:
                for name in list(shard.keys()):
                    tensors[name] = _checked(path, name, shard.get_tensor(name))
        return tensors


def _checked(path: Path, name: str, tensor: Tensor) -> Tensor:
    # the extremes of a tensor with NaN are NaN: no second tensor is made to find one
    if tensor.numel() and not all(map(math.isfinite, tensor.aminmax())):
        raise CheckpointError(
            f"{path}: {name} holds NaN or infinite weights; take an older save of the model, "
            "or download the file again"
        )
    return tensor


def _read_index(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    try:
        index = read_json(path)
        weight_map, metadata = index["weight_map"], dict(index.get("metadata") or {})
        names = set(weight_map.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}; download it again") from None
    outside = [n for n in names if not isinstance(n, str) or Path(n).name != n]
    if outside or not names:
        raise CheckpointError(
            f"{path} names {_some([repr(n) for n in outside]) or 'no file'}; expected names of "
            "files beside it"
        )
    return weight_map, metadata


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as shard:
            yield shard
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is damaged or no whole safetensors file (pickle is not read): {error}; "
            "download it again"
        ) from None


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
