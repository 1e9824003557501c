"""A run of thousands of processes walked through by one: who belongs with whom and reads what.

Groups come from core's own generator of ranks, batches from the trainer's rule, epochs and blends
from `data`. Nothing is computed and nothing is sent; what must be so is checked.
"""

from dataclasses import dataclass, field
from inspect import signature

import numpy as np

from ..data.blend import draw
from ..data.epochs import cut_epoch
from ..errors import ConfigError, DataError
from ..recipes.lm_check import check_settings
from ..recipes.lm_recipes import LMConfig
from ..training.batch_schedule import micro_batches
from ..training.devices import GPUS
from ..training.megatron.parallel import quiet_core
from ..training.parallel_config import ParallelConfig
from .layouts import pretended

_KINDS = ("tp", "cp", "dp", "pp")
_SHARES = {"text": 0.3, "interleaved": 0.655, "speech": 0.031, "pairs": 0.014}
_MEAN_DOCUMENT_TOKENS = 1000
Groups = dict[str, np.ndarray]
"""Ranks by kind of group, and of all that hold one replica of the model: (groups, size) each."""


@dataclass(frozen=True, kw_only=True)
class RehearsalConfig:
    """A run as pretrain takes it, and the processes to pretend."""

    run: LMConfig = field(default_factory=LMConfig)
    gpus: int = 1024
    """Processes."""
    gpu: str = "H100"
    """Kind of GPU, for what the run asks of it (training/devices.py)."""
    gpus_per_node: int = 8
    """Processes that share a node."""
    padded_vocab_size: int = 168_960
    """Rows of the embedding."""
    epoch_windows: int = 20_000
    """Windows in one epoch of the pretended datasets together; the text is read one and a half
    times, the others twice."""


def rehearse(config: RehearsalConfig) -> str:
    """Walk through the run; returns what was found to be so, in words.

    Raises:
        ConfigError: pretrain would refuse these settings.
        DataError: a window would be read twice or left out, or processes of one replica disagree.
    """
    if config.gpu not in GPUS:
        raise ConfigError(f"--gpu {config.gpu} is unknown; choose of {', '.join(GPUS)}")
    run, here = config.run, pretended(config.gpu, GPUS[config.gpu])
    check_settings(run, config.padded_vocab_size, config.gpus, here)
    with quiet_core():
        groups = form_groups(run.parallel, config.gpus)
        replicas = replicas_of(groups)
        steps, windows, micro = read_steps(config, int(replicas.max()) + 1)
        passes = read_epochs(config, windows)
    node = groups["tp"] // config.gpus_per_node
    within = "" if (node == node[:, :1]).all() else "; TENSOR PARALLEL GROUPS CROSS NODES"
    sizes = ", ".join(f"{kind} {groups[kind].shape[1]}" for kind in _KINDS)
    return (
        f"{config.gpus:,} processes, each once in its groups of {sizes}{within}\n"
        f"{steps:,} steps, {windows:,} windows, each read by one replica; passes: "
        f"{', '.join(f'{name} {count:.2f}' for name, count in passes.items())}; in each, every "
        f"window once\nmicro-batches of a replica in a step: {micro}"
    )


def form_groups(parallel: ParallelConfig, processes: int) -> Groups:
    """Core's groups of processes.

    Raises:
        DataError: the groups of a kind do not hold each process once.
    """
    from megatron.core import parallel_state

    order = signature(parallel_state.initialize_model_parallel).parameters["order"].default
    generator = parallel_state.RankGenerator(
        tp=parallel.tensor_model_parallel_size,
        ep=1,
        dp=parallel.data_parallel_size(processes),
        pp=parallel.pipeline_model_parallel_size,
        cp=parallel.context_parallel_size,
        order=order,
    )
    groups = {kind: np.array(generator.get_ranks(kind)) for kind in (*_KINDS, "tp-cp-pp")}
    for kind, ranks in groups.items():
        if not np.array_equal(np.sort(ranks, axis=None), np.arange(processes)):
            raise DataError(f"the {kind} groups do not hold each of {processes} processes once")
    return groups


def positions(ranks: np.ndarray) -> np.ndarray:
    """Position of each process in its group, of groups (groups, size): (processes,)."""
    place = np.empty(ranks.size, np.int64)
    place[ranks] = np.arange(ranks.shape[1])
    return place


def replicas_of(groups: Groups) -> np.ndarray:
    """The replica that each process reads for: (processes,).

    Raises:
        DataError: processes that hold one replica would read for different ones, or two replicas
            for the same, or two processes stand at the same place.
    """
    replica = positions(groups["dp"])
    members = replica[groups["tp-cp-pp"]]
    if not (members == members[:, :1]).all() or len(set(members[:, 0].tolist())) != len(members):
        raise DataError("processes that hold one replica of the model would not read together")
    places = np.stack([positions(groups[kind]) for kind in _KINDS])
    if len(np.unique(places, axis=1).T) != places.shape[1]:
        raise DataError("two processes stand at the same place of the layout")
    return replica


def read_steps(config: RehearsalConfig, replicas: int) -> tuple[int, int, int]:
    """Let every replica read its part of every step of two epochs.

    Returns steps, windows, and micro-batches of a replica in the first step.

    Raises:
        DataError: a window was read twice or left out.
    """
    batch, steps = config.run.batch, 0
    schedule = batch.schedule(config.run.data.seq_length)
    while schedule.first(steps) < 2 * config.epoch_windows:
        steps += 1
    readers = np.zeros(schedule.first(steps), np.int64)
    for step in range(steps):
        first, size = schedule.first(step), schedule.size(step)
        for number in range(replicas):
            for part in micro_batches(first, size, batch.micro_batch_size, replicas, number):
                readers[part.start : part.stop] += 1
    if not (readers == 1).all():
        bad = int(np.flatnonzero(readers != 1)[0])
        raise DataError(f"window {bad} of the run would be read {int(readers[bad])} times")
    return steps, len(readers), schedule.size(0) // (batch.micro_batch_size * replicas)


def read_epochs(config: RehearsalConfig, windows: int) -> dict[str, float]:
    """Passes over each of four pretended datasets, of documents of random length.

    Raises:
        DataError: the blend or an epoch holds a window twice or leaves one out.
    """
    length, seed = config.run.data.seq_length, config.run.batch.seed
    chosen, number = map(np.asarray, draw(list(_SHARES.values()), windows))
    passes = {}
    for index, (name, share) in enumerate(_SHARES.items()):
        left = int((chosen == index).sum())
        if not np.array_equal(np.sort(number[chosen == index]), np.arange(left)):
            raise DataError(f"the blend skips or repeats windows of {name}")
        tokens = share * config.epoch_windows * length * (4 / 3 if name == "text" else 1)
        count = max(round(tokens / _MEAN_DOCUMENT_TOKENS), 1)
        random = np.random.default_rng([seed, index])
        lengths = random.geometric(1 / _MEAN_DOCUMENT_TOKENS, count).astype(np.int32)
        documents, passes[name] = np.arange(count, dtype=np.int32), 0.0
        for epoch in range(3):
            random = np.random.default_rng([seed, epoch])
            order = cut_epoch(lengths, length, documents, random).order
            if not np.array_equal(np.sort(order), np.arange(len(order))):
                raise DataError(f"epoch {epoch} of {name} holds a window twice or leaves one out")
            passes[name] += min(left / len(order), 1)
            left -= min(left, len(order))
    return passes
