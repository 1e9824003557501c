"""Gradients of the megatron backend: their norm by group, and the update that uses them."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..task import Metrics

_GROUPS = (
    "embedding text",
    "embedding speech",
    "attention",
    "mlp",
    "norm",
    "head text",
    "head speech",
)


class Gradients:
    """Norms of the gradients that core's optimizer is about to use, and the step itself.

    `prepare` must come first: it brings the reduced gradients to the optimizer's parameters.
    Embedding and output layer are divided into rows of speech (`code_offset` and the `num_codes`
    ids from there on) and the rest; tied ones count as embedding.
    """

    def __init__(self, chunks: Sequence[Any], optimizer: Any, code_offset: int, num_codes: int):
        self._optimizer = optimizer
        self._parts = list(getattr(optimizer, "chained_optimizers", [optimizer]))
        self._speech = (code_offset, code_offset + num_codes)
        self._members: list[tuple[str, nn.Parameter]] = []
        for chunk in chunks:
            self._members += [(_group(name), p) for name, p in _counted(chunk.module)]
        self._device = self._members[0][1].device if self._members else torch.device("cpu")

    def prepare(self) -> None:
        """Hand the gradients of the last backward pass to the optimizer."""
        self._optimizer.prepare_grads()

    def norm(self) -> float:
        """Norm of all gradients before clipping; equal on every process."""
        return float(self._optimizer.get_grad_norm())

    def norms_by_group(self) -> Metrics:
        """Norms of the parts of the model; their squares add up to the square of `norm`."""
        places, pieces = [], []
        for group, parameter in self._members:
            for name, piece in self._pieces(group, parameter):
                places.append(_GROUPS.index(name))
                pieces.append(piece)
        total = torch.zeros(len(_GROUPS), device=self._device)
        if pieces:  # one kernel for all, instead of some for each
            norms = torch.stack(torch._foreach_norm(pieces, dtype=torch.float32))
            total.index_add_(0, torch.tensor(places, device=norms.device), norms.square())
        dist.all_reduce(total, group=self._parts[0].get_grad_stats_parallel_group())
        found = total.sqrt().tolist()
        return {f"grad-norm {n}": v for n, v in zip(_GROUPS, found, strict=True) if v != 0}

    def update(self, norm: float) -> bool:
        """Clip to the optimizer's limit and step."""
        from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32

        for part in self._parts:
            if part.config.clip_grad > 0 and not getattr(part, "is_stub_optimizer", False):
                apart = part.config.use_precision_aware_optimizer_no_fp8_or_ds_fp8
                limit, parameters = part.config.clip_grad, part.get_parameters()
                clip_grad_by_total_norm_fp32(parameters, limit, norm, use_decoupled_grad=apart)
        return bool(self._optimizer.step_with_ready_grads())

    def _pieces(self, group: str, parameter: nn.Parameter) -> Iterator[tuple[str, Tensor]]:
        gradient, start = self._gradient(parameter)
        if gradient is None:
            return
        if group not in ("embedding", "head"):
            yield group, gradient
            return
        flat = gradient.view(-1)
        low, high = (max(bound - start, 0) for bound in self._speech_elements(parameter))
        for name, piece in (
            ("text", flat[:low]),
            ("speech", flat[low:high]),
            ("text", flat[high:]),
        ):
            if piece.numel():
                yield f"{group} {name}", piece

    def _gradient(self, parameter: nn.Parameter) -> tuple[Tensor | None, int]:
        """This process's part of the reduced gradient, and where in the parameter it begins."""
        for part in self._parts:
            places = getattr(part, "model_param_group_index_map", None)
            if places is not None and parameter in places:  # the distributed optimizer
                group, order = places[parameter]
                shard = part.optimizer.param_groups[group]["params"][order]
                apart = getattr(shard, "decoupled_grad", None)  # of another type than the shard
                return shard.grad if apart is None else apart, part._get_model_param_range_map(
                    parameter
                )["param"].start
            if places is not None:
                return None, 0
        return getattr(parameter, "main_param", parameter).grad, 0

    def _speech_elements(self, parameter: nn.Parameter) -> tuple[int, int]:
        """Elements of the speech rows within this process's rows of a vocabulary matrix."""
        from megatron.core import parallel_state

        rows, width = parameter.shape
        offset = rows * parallel_state.get_tensor_model_parallel_rank()
        offset = getattr(parameter, "first_row", offset)  # rows trained alone: each process has all
        low, high = (min(max(bound - offset, 0), rows) for bound in self._speech)
        return low * width, high * width


def _counted(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters whose gradient no other process counts."""
    from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate
    from megatron.core.transformer.module import param_is_not_shared

    for name, parameter in module.named_parameters():
        if param_is_not_shared(parameter) and param_is_not_tensor_parallel_duplicate(parameter):
            yield name, parameter


def _group(name: str) -> str:
    if "layernorm" in name or "layer_norm" in name:
        return "norm"
    if ".self_attention." in name:
        return "attention"
    if ".mlp." in name:
        return "mlp"
    return "embedding" if name.startswith("embedding") else "head"
