"""Micro-batches for language models, and how documents are kept apart in attention."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

_COLUMNS = ("tokens", "labels", "loss_mask", "position_ids", "documents")
_OF_PAIRS = ("pairs", "reference")


class Windows(Protocol):
    """A dataset of windows; items are as `data.dataset.SpeechTextDataset` gives them."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Mapping[str, Tensor]: ...


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch on the device."""

    tokens: Int64[Tensor, "b s"]
    labels: Int64[Tensor, "b s"]
    loss_mask: Float[Tensor, "b s"]
    position_ids: Int64[Tensor, "b s"]
    pairs: Int64[Tensor, "b s"] | None = None
    """Pairs of answers, as `data.preferences.Preferences` has them, but numbered through the batch;
    None where there are none."""
    reference: Float[Tensor, "b s"] | None = None
    """What the reference model thinks of them."""
    attention_mask: Bool[Tensor, "b 1 s s"] | None = None
    """True where attention is forbidden; None means plain causal attention."""
    packed: Any = None
    """Core's PackedSeqParams, the same information for Transformer Engine; then b is 1."""


@dataclass(frozen=True, kw_only=True)
class HostBatch:
    """One micro-batch in the memory of the CPU, with all that has to be known of its documents.

    Nothing about it is asked of the device again: to read a number back would wait for all that
    the device has been given to do.
    """

    columns: dict[str, Tensor]
    """Tokens, labels, loss_mask and position_ids, and of pairs two more, each (b, s)."""
    documents: Tensor | None = None
    """Number of the document of each position (b, s), where some window holds several."""
    boundaries: Tensor | None = None
    """Where documents begin in the joined row, and its end, for packed sequences."""
    longest: int = 0
    """Positions of the longest document of a packed row."""

    def pinned(self) -> "HostBatch":
        """The same in memory that a GPU reads by itself, while the CPU goes on."""
        columns = {name: value.pin_memory() for name, value in self.columns.items()}
        documents, boundaries = (
            None if value is None else value.pin_memory()
            for value in (self.documents, self.boundaries)
        )
        return replace(self, columns=columns, documents=documents, boundaries=boundaries)

    def to(self, device: torch.device) -> Batch:
        """On its way to the device; does not wait for pinned memory to be read."""
        columns = {name: v.to(device, non_blocking=True) for name, v in self.columns.items()}
        if self.boundaries is not None:
            boundaries = self.boundaries.to(device, non_blocking=True)
            return Batch(**columns, packed=_packed_sequences(boundaries, self.longest))
        if self.documents is None:
            return Batch(**columns)
        documents = self.documents.to(device, non_blocking=True)
        return Batch(**columns, attention_mask=separating_mask(documents))


def read_windows(windows: Windows, indices: Sequence[int], packed: bool) -> HostBatch:
    """Read and stack windows.

    Those that hold several documents get an attention mask, or with `packed` are joined to one
    long row with sequence boundaries. The latter is done for all batches of a blend that asks for
    it, so that the kernels stay the same.
    """
    items = [windows[index] for index in indices]
    columns = {
        name: torch.stack([item[name] for item in items])
        for name in (*_COLUMNS, *(name for name in _OF_PAIRS if name in items[0]))
    }
    if "pairs" in columns:
        rows, length = columns["pairs"].shape
        columns["pairs"] += columns["pairs"].sign() * length * torch.arange(rows)[:, None]
    documents = columns.pop("documents")
    if packed:
        rows = {name: value.reshape(1, -1) for name, value in columns.items()}
        boundaries = _boundaries(documents)
        longest = int((boundaries[1:] - boundaries[:-1]).max())
        return HostBatch(columns=rows, boundaries=boundaries, longest=longest)
    several = bool((documents != documents[:, :1]).any())
    return HostBatch(columns=columns, documents=documents if several else None)


def read_batch(
    windows: Windows, indices: Sequence[int], device: torch.device, packed: bool
) -> Batch:
    """Windows as a batch on the device; see `read_windows`."""
    return read_windows(windows, indices, packed).to(device)


class Reader:
    """Micro-batches one after another; with `ahead` a thread reads the next one meanwhile."""

    def __init__(self, packed: bool, device: torch.device, ahead: bool):
        self._packed, self._device = packed, device
        self._thread = ThreadPoolExecutor(1, "windows") if ahead else None
        self._next: tuple[Windows, Sequence[int], Future[HostBatch]] | None = None

    def get(self, windows: Windows, indices: range, then: range | None = None) -> Batch:
        """The batch of `indices`, on its way to the device; `then` will be asked for next."""
        if self._thread is None:
            return self._read(windows, indices).to(self._device)
        waiting, self._next = self._next, None
        if waiting is None or waiting[0] is not windows or waiting[1] != indices:
            self._wait_for(waiting)
            waiting = (windows, indices, self._thread.submit(self._read, windows, indices))
        batch = waiting[2].result()
        if then is not None:
            self._next = (windows, then, self._thread.submit(self._read, windows, then))
        return batch.to(self._device)

    def rest(self) -> None:
        """Wait until nothing is read: a process that forks must not do so in the midst of it."""
        self._wait_for(self._next)

    def _read(self, windows: Windows, indices: Sequence[int]) -> HostBatch:
        batch = read_windows(windows, indices, self._packed)
        return batch.pinned() if self._device.type == "cuda" else batch

    @staticmethod
    def _wait_for(waiting: tuple[Windows, Sequence[int], "Future[HostBatch]"] | None) -> None:
        if waiting is not None:
            waiting[2].exception()  # whoever asks for these windows is told


def separating_mask(documents: Int64[Tensor, "b s"]) -> Bool[Tensor, "b 1 s s"]:
    """True where a position must not look: ahead, or into another document."""
    length = documents.size(1)
    ahead = torch.ones(length, length, dtype=torch.bool, device=documents.device).triu(1)
    elsewhere = documents[:, :, None] != documents[:, None, :]
    return (ahead | elsewhere)[:, None]


def _boundaries(documents: Int64[Tensor, "b s"]) -> Tensor:
    """Where documents of all windows begin, joined row after row, and the end; int32."""
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    end = torch.tensor([documents.numel()])
    return torch.cat([starts.flatten().nonzero().flatten(), end]).to(torch.int32)


def _packed_sequences(boundaries: Tensor, longest: int) -> Any:
    from megatron.core.packed_seq_params import PackedSeqParams

    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=boundaries,
        cu_seqlens_kv=boundaries,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
    )


def slice_for_context_parallel(batch: Batch) -> Batch:
    """This process's part of each sequence, in core's load-balanced order."""
    from megatron.core import parallel_state
    from megatron.core.utils import get_batch_on_this_cp_rank

    group: Any = parallel_state.get_context_parallel_group()  # core would take all processes
    names = ("tokens", "labels", "loss_mask", "position_ids")
    columns = {name: getattr(batch, name) for name in names}
    return replace(batch, **get_batch_on_this_cp_rank(columns, False, cp_group=group))
