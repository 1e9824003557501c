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


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Where every process stands: its position in its group of each kind, (processes,) each."""

    position: dict[str, np.ndarray]
    groups: dict[str, np.ndarray]
    """Ranks by kind, and of all that hold one replica of the model: (groups, size)."""


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What was found to be so."""

    processes: int
    group_sizes: dict[str, int]
    tensor_groups_within_nodes: bool
    steps: int
    windows_read: int
    epochs: dict[str, float]
    """Passes over each pretended dataset."""
    micro_batches: int


def rehearse(config: RehearsalConfig) -> Rehearsal:
    """Walk through the run.

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
        replica = replicas_agree(groups)
        read = read_epochs(config, replica)
    tensor = groups.groups["tp"]
    node = tensor // config.gpus_per_node
    return Rehearsal(
        processes=config.gpus,
        group_sizes={kind: groups.groups[kind].shape[1] for kind in _KINDS},
        tensor_groups_within_nodes=bool((node == node[:, :1]).all()),
        **read,
    )


def form_groups(parallel: ParallelConfig, processes: int) -> Groups:
    """Core's groups, and each process's position in its own."""
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
    positions, groups = {}, {}
    for kind in _KINDS:
        ranks = np.array(generator.get_ranks(kind))
        if not np.array_equal(np.sort(ranks, axis=None), np.arange(processes)):
            raise DataError(f"the {kind} groups do not hold each of {processes} processes once")
        place = np.empty(processes, np.int64)
        place[ranks] = np.arange(ranks.shape[1])
        positions[kind], groups[kind] = place, ranks
    groups["replica"] = np.array(generator.get_ranks("tp-cp-pp"))
    return Groups(position=positions, groups=groups)


def replicas_agree(groups: Groups) -> np.ndarray:
    """The replica that each process reads for: (processes,).

    Raises:
        DataError: processes that hold one replica would read for different ones, or two replicas
            for the same, or two processes stand at the same place.
    """
    replica = groups.position["dp"]
    members = replica[groups.groups["replica"]]
    if not (members == members[:, :1]).all() or len(set(members[:, 0].tolist())) != len(members):
        raise DataError("processes that hold one replica of the model would not read together")
    places = np.stack([groups.position[kind] for kind in _KINDS])
    if len(np.unique(places, axis=1).T) != places.shape[1]:
        raise DataError("two processes stand at the same place of the layout")
    return replica


def read_epochs(config: RehearsalConfig, replica: np.ndarray) -> dict:
    """Let every replica read its part of every step, and account for each window of each epoch.

    Raises:
        DataError: a window of an epoch was read twice or left out.
    """
    run, seed = config.run, config.run.batch.seed
    orders = _pretended_orders(config, seed)
    total = 2 * config.epoch_windows
    schedule = run.batch.schedule(run.data.seq_length)
    steps = 0
    while schedule.first(steps) < total:
        steps += 1
    last = schedule.first(steps)
    readers = np.zeros(last, np.int64)
    replicas = int(replica.max()) + 1
    for step in range(steps):
        first, size = schedule.first(step), schedule.size(step)
        for number in range(replicas):
            for part in micro_batches(first, size, run.batch.micro_batch_size, replicas, number):
                readers[part.start : part.stop] += 1
    if not (readers == 1).all():
        bad = int(np.flatnonzero(readers != 1)[0])
        raise DataError(f"window {bad} of the run would be read {int(readers[bad])} times")
    chosen, number = draw(list(_SHARES.values()), last)
    epochs = {}
    for index, name in enumerate(_SHARES):
        taken = np.sort(np.asarray(number)[np.asarray(chosen) == index])
        if not np.array_equal(taken, np.arange(len(taken))):
            raise DataError(f"the blend skips or repeats windows of {name}")
        epochs[name] = _passes(orders[name], len(taken), name)
    return {
        "steps": steps,
        "windows_read": last,
        "epochs": epochs,
        "micro_batches": schedule.size(0) // (run.batch.micro_batch_size * replicas),
    }


def _pretended_orders(config: RehearsalConfig, seed: int) -> dict[str, list[np.ndarray]]:
    """The order of windows in three epochs of each dataset, of documents of random length."""
    length = config.run.data.seq_length
    orders: dict[str, list[np.ndarray]] = {}
    for index, (name, share) in enumerate(_SHARES.items()):
        generator = np.random.default_rng([seed, index])
        tokens = share * config.epoch_windows * length * (4 / 3 if name == "text" else 1)
        count = max(round(tokens / _MEAN_DOCUMENT_TOKENS), 1)
        lengths = generator.geometric(1 / _MEAN_DOCUMENT_TOKENS, count).astype(np.int32)
        documents = np.arange(count, dtype=np.int32)
        orders[name] = [
            cut_epoch(lengths, length, documents, np.random.default_rng([seed, epoch])).order
            for epoch in range(3)
        ]
    return orders


def _passes(orders: list[np.ndarray], windows: int, name: str) -> float:
    """How many epochs the first `windows` windows of a dataset are; each window once in each."""
    left, passes = windows, 0.0
    for epoch, order in enumerate(orders):
        seen = np.bincount(order[:left], minlength=len(order))
        whole = left >= len(order)
        if seen.max() > 1 or (whole and seen.min() < 1):
            raise DataError(f"epoch {epoch} of {name} holds a window twice or leaves one out")
        passes += min(left / len(order), 1)
        left -= min(left, len(order))
    return passes
