"""Micro-batches for language models, and how documents are kept apart in attention."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor


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
    attention_mask: Bool[Tensor, "b 1 s s"] | None = None
    """True where attention is forbidden; None means plain causal attention."""
    packed: Any = None
    """Core's PackedSeqParams, the same information for Transformer Engine; then b is 1."""


def read_batch(
    windows: Windows, indices: Sequence[int], device: torch.device, packed: bool
) -> Batch:
    """Read and stack windows.

    Windows that hold several documents get an attention mask, or with `packed` are joined to one
    long row with sequence boundaries. The latter is done for all batches of a blend that asks for
    it, so that the kernels stay the same.
    """
    items = [windows[index] for index in indices]
    columns = {
        name: torch.stack([item[name] for item in items]).to(device, non_blocking=True)
        for name in ("tokens", "labels", "loss_mask", "position_ids", "documents")
    }
    documents = columns.pop("documents")
    batch = Batch(**columns)
    if packed:
        rows = {name: value.reshape(1, -1) for name, value in columns.items()}
        return replace(batch, packed=_packed_sequences(documents), **rows)
    if bool((documents != documents[:, :1]).any()):
        return replace(batch, attention_mask=separating_mask(documents))
    return batch


def separating_mask(documents: Int64[Tensor, "b s"]) -> Bool[Tensor, "b 1 s s"]:
    """True where a position must not look: ahead, or into another document."""
    length = documents.size(1)
    ahead = torch.ones(length, length, dtype=torch.bool, device=documents.device).triu(1)
    elsewhere = documents[:, :, None] != documents[:, None, :]
    return (ahead | elsewhere)[:, None]


def _packed_sequences(documents: Int64[Tensor, "b s"]) -> Any:
    """Boundaries of all documents of all windows, joined row after row."""
    from megatron.core.packed_seq_params import PackedSeqParams

    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    end = torch.tensor([documents.numel()], device=documents.device)
    boundaries = torch.cat([starts.flatten().nonzero().flatten(), end]).to(torch.int32)
    longest = int((boundaries[1:] - boundaries[:-1]).max())
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
