"""The stand-in that lets Megatron-Core train where CUDA is absent.

Core names "cuda" in its schedules, optimizers and random state. For the time of a `with` block
those names lead to the CPU. Entered by `parallel.session` only, and only without CUDA.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ...errors import ConfigError

CORE_VERSION = "0.19.2"


class _CudaMeansCpu(TorchFunctionMode):
    """Redirects the "cuda" literals in core's schedules and optimizers to the CPU."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            return func(*args).replace("torch.", "torch.cuda.")  # what core asserts on
        if _is_cuda(kwargs.get("device")):
            kwargs = {**kwargs, "device": "cpu"}
        if func is torch.Tensor.to and len(args) > 1 and _is_cuda(args[1]):
            args = (args[0], "cpu", *args[2:])
        return func(*args, **kwargs)


def _is_cuda(device: Any) -> bool:
    return (isinstance(device, str) and device.startswith("cuda")) or (
        isinstance(device, torch.device) and device.type == "cuda"
    )


class _NoStream:
    """Stands for streams and events: work on the CPU is already in order."""

    def __init__(self, *_: object, **__: object) -> None: ...
    def wait_stream(self, _: object) -> None: ...
    def wait_event(self, _: object) -> None: ...
    def record_event(self, _: object = None) -> "_NoStream":
        return self

    def record(self, _: object = None) -> None: ...
    def wait(self, _: object = None) -> None: ...
    def synchronize(self) -> None: ...
    def query(self) -> bool:
        return True


@contextmanager
def cpu_stand_in() -> Iterator[None]:
    """Let Megatron-Core run where CUDA is absent; everything is put back on exit.

    Raises:
        ConfigError: another core version than the one this was tested with is installed.
    """
    import megatron.core
    from megatron.core.tensor_parallel import random as core_random

    # core appends the commit of any git checkout it happens to be installed in, as +0123abc
    if megatron.core.__version__.partition("+")[0] != CORE_VERSION:
        raise ConfigError(
            f"training on CPU is tested with megatron-core {CORE_VERSION}, but "
            f"{megatron.core.__version__} is installed; install {CORE_VERSION} "
            "(pip install -c constraints.txt) or run on a GPU"
        )

    def get_state(*_: object, **__: object) -> torch.Tensor:
        return torch.get_rng_state()

    def set_state(new_state: torch.Tensor, *_: object, **__: object) -> None:
        torch.set_rng_state(new_state)

    def nothing(*_: object, **__: object) -> None: ...

    cpu = torch.device("cpu")
    replacements: list[tuple[Any, str, Any]] = [
        (torch.cuda, "current_device", lambda: cpu),
        (torch.cuda, "synchronize", nothing),
        (torch.cuda, "empty_cache", nothing),
        (torch.cuda, "Stream", _NoStream),
        (torch.cuda, "Event", _NoStream),
        (torch.cuda, "current_stream", _NoStream),
        (torch.cuda, "default_stream", _NoStream),
        (torch.cuda, "stream", lambda *_: nullcontext()),
        (torch.cuda, "is_current_stream_capturing", lambda: False),
        (torch.cuda, "manual_seed", torch.manual_seed),
        (torch.cuda, "get_rng_state", get_state),
        (torch.cuda, "set_rng_state", set_state),
        (torch.cuda.random, "get_rng_state", get_state),
        (torch.cuda.random, "set_rng_state", set_state),
        (core_random, "_get_cuda_rng_state", get_state),
        (core_random, "_set_cuda_rng_state", set_state),
    ]
    with ExitStack() as stack:
        for owner, name, value in replacements:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        stack.enter_context(_CudaMeansCpu())
        yield
