"""Process groups and Megatron-Core's global state.

`session` sets everything up for the time of a `with` block and takes everything down again, so a
process can run one layout after another. No other file touches core's global state; the CPU
stand-in is switched on here.
"""

import logging
import os
import queue
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from .. import heartbeats
from ..installed import installed, own_gpu
from ..parallel_config import ParallelConfig
from .background_save import results_in
from .cpu_stand_in import cpu_stand_in

_CONNECTIONS = "CUDA_DEVICE_MAX_CONNECTIONS"
_ENGINE_ATTENTION = (
    "transformer_engine.pytorch.attention.dot_product_attention.dot_product_attention"
)


@dataclass(frozen=True, kw_only=True)
class ProcessLayout:
    """Where this process stands."""

    rank: int
    world_size: int
    data_parallel_rank: int
    data_parallel_size: int
    tensor_parallel_rank: int
    pipeline_rank: int
    is_last_stage: bool
    """True where the pipeline computes the loss."""
    device: torch.device

    @property
    def is_main_rank(self) -> bool:
        """True on the rank that prints and writes markers."""
        return self.rank == 0


def launched_world_size() -> int:
    """Processes torchrun started, 1 without it, the group's size where one exists."""
    if dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_launched_main_rank() -> bool:
    """Whether this process is the one to print, before or within a group."""
    if dist.is_initialized():
        return dist.get_rank() == 0
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def session(
    config: ParallelConfig, seed: int = 1234, cuda_graphs: bool = False
) -> Iterator[ProcessLayout]:
    """Start process groups and core's parallel state, and take down what was started here.

    Works under torchrun, inside a process group that exists already (which is then kept), and
    alone. Without CUDA, core runs on the stand-in inside the block. `cuda_graphs` keeps random
    states where recorded kernels can read them. Warnings that core gives
    about its own optional dependencies are silenced.

    Raises:
        ConfigError: the layout does not fit the processes, or, on CPU, core is of a version the
            stand-in was not tested with.
    """
    config.check_machine()
    config.data_parallel_size(launched_world_size())
    with ExitStack() as stack:
        stack.enter_context(quiet_core())
        stack.enter_context(results_in(queue.Queue()))
        stack.enter_context(_own_attention_backend())
        on_gpu = torch.cuda.is_available()
        stack.enter_context(nullcontext() if on_gpu else cpu_stand_in())
        device = torch.device("cpu")
        if on_gpu:
            device = own_gpu()
            torch.cuda.set_device(device)
            _check_kernel_order(config)
        if not dist.is_initialized():
            stack.callback(setattr, sys, "excepthook", sys.excepthook)  # torch wraps it
            heartbeats.connect()
            _start_process_group(on_gpu, config.distributed_timeout_minutes)
            stack.callback(dist.destroy_process_group)
        yield _start_model_parallel(config, seed, device, cuda_graphs, stack)


@contextmanager
def kernels_in_order(config: ParallelConfig) -> Iterator[None]:
    """Let the GPU run kernels in the order they were issued in; what the user set stays.

    Core overlaps tensor and context parallel communication by that order, and devices before
    Blackwell keep it with one connection only. CUDA reads the variable when it starts, so this
    comes before anything else that asks for a GPU.
    """
    if not _is_divided(config) or _CONNECTIONS in os.environ:
        yield
        return
    os.environ[_CONNECTIONS] = "1"
    try:
        yield
    finally:
        os.environ.pop(_CONNECTIONS, None)


def _check_kernel_order(config: ParallelConfig) -> None:
    found = os.environ.get(_CONNECTIONS)
    hopper_or_before = installed().compute_capability < (10, 0)
    if _is_divided(config) and hopper_or_before and found != "1" and is_launched_main_rank():
        print(
            f"{_CONNECTIONS} is {found or 'not set'}; with tensor or context parallelism this GPU "
            f"overlaps communication as planned only with {_CONNECTIONS}=1 in the environment",
            flush=True,
        )


def _is_divided(config: ParallelConfig) -> bool:
    return config.tensor_model_parallel_size * config.context_parallel_size > 1


@contextmanager
def _own_attention_backend() -> Iterator[None]:
    """Forget afterwards which attention kernels a model asked for.

    Core asks through the environment, refuses to build a model with another wish while that
    stands, and Transformer Engine remembers its choice.
    """
    names = [f"NVTE_{kind}_ATTN" for kind in ("FLASH", "FUSED", "UNFUSED")]
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        engine: Any = sys.modules.get(_ENGINE_ATTENTION)
        if engine is not None:
            engine._attention_backends["backend_selection_requires_update"] = True


def _start_process_group(on_gpu: bool, timeout_minutes: int) -> None:
    backend = "nccl" if on_gpu else "gloo"
    timeout = timedelta(minutes=timeout_minutes)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
    else:  # alone: a store in memory needs no port
        dist.init_process_group(
            backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout
        )


def _start_model_parallel(
    config: ParallelConfig, seed: int, device: torch.device, cuda_graphs: bool, stack: ExitStack
) -> ProcessLayout:
    from megatron.core import parallel_state, tensor_parallel

    virtual = config.num_virtual_stages_per_pipeline_rank
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=config.tensor_model_parallel_size,
        pipeline_model_parallel_size=config.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=virtual if virtual > 1 else None,
        context_parallel_size=config.context_parallel_size,
        distributed_timeout_minutes=config.distributed_timeout_minutes,
    )
    stack.callback(parallel_state.destroy_model_parallel)
    random_state = torch.get_rng_state()
    stack.callback(torch.set_rng_state, random_state)
    stage = parallel_state.get_pipeline_model_parallel_rank()
    torch.manual_seed(seed + 100 * stage)
    tensor_parallel.model_parallel_cuda_manual_seed(
        seed + 100 * stage, use_cudagraphable_rng=cuda_graphs, force_reset_rng=True
    )
    return ProcessLayout(
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        data_parallel_rank=parallel_state.get_data_parallel_rank(),
        data_parallel_size=parallel_state.get_data_parallel_world_size(),
        tensor_parallel_rank=parallel_state.get_tensor_model_parallel_rank(),
        pipeline_rank=stage,
        is_last_stage=parallel_state.is_pipeline_last_stage(),
        device=device,
    )


@contextmanager
def userbuffers(
    config: ParallelConfig, shape: tuple[int, int], formats: tuple[str, ...]
) -> Iterator[None]:
    """With --tp-comm-overlap, Transformer Engine's communicators for the time of the block.

    `shape` is that of a layer's whole input, (tokens of a micro-batch, width); `formats` are those
    of its products (`PrecisionConfig.product_formats`). Inside a session.
    """
    if not config.tp_comm_overlap:
        yield
        return
    from transformer_engine.pytorch import (  # pyright: ignore[reportMissingImports]
        module as engine,
    )

    modes = engine.base.UserBufferQuantizationMode
    engine.base.initialize_ub(
        shape=list(shape),
        tp_size=config.tensor_model_parallel_size,
        quantization_modes=[modes.FP8 if name == "fp8" else modes.NONE for name in formats],
        ub_cfgs={},
        bootstrap_backend="nccl",
    )
    try:
        yield
    finally:
        engine.base.destroy_ub()


def random_state() -> dict[str, Any]:
    """State of all random generators of this process, as tensors."""
    from megatron.core import tensor_parallel
    from megatron.core.tensor_parallel.random import convert_cuda_rng_state

    tracker: Any = tensor_parallel.get_cuda_rng_tracker()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(),
        "tracker": {
            name: convert_cuda_rng_state(state) for name, state in tracker.get_states().items()
        },
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Go back to what `random_state` gave."""
    from megatron.core import tensor_parallel
    from megatron.core.tensor_parallel.random import convert_cuda_rng_state

    tracker: Any = tensor_parallel.get_cuda_rng_tracker()
    tracker.set_states(
        {
            name: convert_cuda_rng_state(kept, to_graphable=tracker.use_cudagraphable_rng)
            for name, kept in state["tracker"].items()
        }
    )
    torch.cuda.set_rng_state(state["cuda"])
    torch.set_rng_state(state["torch"])


@contextmanager
def quiet_core() -> Iterator[None]:
    """Silence what core and torch say about optional parts that are absent."""
    loggers = [logging.getLogger(name) for name in ("megatron", "torch.utils.cpp_extension")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import megatron.core.optimizer  # noqa: F401  (warns once about absent extras)
        with warnings.catch_warnings():
            for module in ("megatron", r"torch\.distributed", r"torch\.autograd"):
                warnings.filterwarnings("ignore", module=module)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
