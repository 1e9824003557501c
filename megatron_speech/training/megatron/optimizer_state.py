"""What core's distributed optimizer needs around AdamW when its state is saved or loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch


def allocate_state(optimizer: Any) -> None:
    """Give an optimizer that took no step yet the state it has before its first one.

    Core's distributed optimizer can neither save nor load without it. Done by a step of rate 0
    with zero gradients, which leaves weights alone and is not counted.
    """
    for one in _inner(optimizer):
        if getattr(one, "is_stub_optimizer", False) or one.optimizer.state:
            continue
        groups = one.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        # the precision-aware optimizer has gradients of another type than its parameters
        apart = getattr(one.optimizer, "use_decoupled_grad", False)
        name = "decoupled_grad" if apart else "grad"
        for group in groups:
            group["lr"] = 0.0
            for parameter in group["params"]:
                setattr(parameter, name, torch.zeros_like(parameter))
        one.optimizer.step()
        one.optimizer.zero_grad()
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        # torch counts steps by parameter, Transformer Engine and apex by group
        for counted in (*groups, *one.optimizer.state.values()):
            if "step" in counted:
                counted["step"] = counted["step"] * 0


def keep_step_zero(optimizer: Any, state: dict[str, Any]) -> None:
    """Add the step to a whole optimizer's sharded state: core leaves it out while it is 0, and
    then torch's AdamW cannot load the rest.
    """
    states = [one for each in _inner(optimizer) for one in each.optimizer.state.values()]
    steps = [one["step"] for one in states if "step" in one]
    inner = state.get("optimizer", state)
    if steps and "common_step" not in inner["state"]:
        inner["state"]["common_step"] = steps[0]


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
