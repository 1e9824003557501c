"""What core's distributed optimizer needs around torch's AdamW when its state is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch


def allocate_state(optimizer: Any) -> None:
    """Give a fresh torch AdamW its state: core's distributed optimizer cannot load without it.

    Done by a step with zero gradients; the weights it may decay are overwritten by the load.
    """
    for one in _inner(optimizer):
        if not getattr(one, "is_stub_optimizer", False) and not one.optimizer.state:
            for group in one.optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = torch.zeros_like(parameter)
            one.optimizer.step()
            one.optimizer.zero_grad()


@contextmanager
def padding_counted(optimizer: Any) -> Iterator[None]:
    """While core gathers the state of all processes, let it keep the padding of its buckets.

    Core (0.19) joins buckets without their padding, and then looks for parameters where they stand
    with it: behind the first padded bucket every parameter would get another one's state. Buckets
    are padded where their size is no multiple of 128 and of the number of processes.
    """
    buffers = [buffer for one in _inner(optimizer) for buffer in getattr(one, "buffers", [])]
    places = [place for buffer in buffers for place in (buffer, *buffer.buckets)]
    unpadded = [place.numel_unpadded for place in places]
    for buffer in buffers:
        buffer.numel_unpadded = buffer.numel
        for bucket in buffer.buckets:
            bucket.numel_unpadded = bucket.grad_data.numel()
    try:
        yield
    finally:
        for place, numel in zip(places, unpadded, strict=True):
            place.numel_unpadded = numel


@contextmanager
def steps_left_alone(optimizer: Any) -> Iterator[None]:
    """Core restores the step from the parameter groups, yet looks for it among the tensors of each
    parameter too, and may find there what it was before the load.
    """
    name = "_set_main_param_and_optimizer_states"
    changed = [one for one in _inner(optimizer) if hasattr(one, name)]

    def without_step(original: Any, model_parameter: Any, tensors: dict[str, Any]) -> None:
        original(model_parameter, {**tensors, "step": None})

    for one in changed:
        setattr(one, name, partial(without_step, getattr(one, name)))
    try:
        yield
    finally:
        for one in changed:
            delattr(one, name)  # of the instance: the class has its own


def separate_steps(optimizer: Any) -> None:
    """Give each parameter a step count of its own again.

    Core restores one tensor into all of them, and torch's AdamW adds to it in place: the count
    would grow by the number of parameters at every step.
    """
    for one in _inner(optimizer):
        for state in one.optimizer.state.values():
            if isinstance(state.get("step"), torch.Tensor):
                state["step"] = state["step"].clone()


def _inner(optimizer: Any) -> list[Any]:
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))
