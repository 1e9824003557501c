"""The rehearsal stands where core stands, and notices what must not happen."""

from types import SimpleNamespace

import numpy as np
import pytest

from megatron_speech.cluster import rehearsal
from megatron_speech.cluster.rehearsal import form_groups, positions, replicas_of
from megatron_speech.errors import ConfigError, DataError
from megatron_speech.training.batch_schedule import micro_batches
from megatron_speech.training.parallel_config import ParallelConfig
from tests.cluster.pretend import standing_at
from tools import rehearse

SMALL = ["--epoch-windows", "2000"]


@pytest.mark.parametrize(
    "parallel",
    [
        ParallelConfig(tensor_model_parallel_size=2),
        ParallelConfig(tensor_model_parallel_size=2, pipeline_model_parallel_size=4),
    ],
)
def test_processes_stand_where_core_puts_them(parallel):
    groups = form_groups(parallel, 64)
    for rank in (0, 1, 5, 30, 63):
        with standing_at(rank, 64, parallel) as layout:
            expected = (
                layout.tensor_parallel_rank,
                layout.data_parallel_rank,
                layout.pipeline_rank,
            )
        assert tuple(positions(groups[kind])[rank] for kind in ("tp", "dp", "pp")) == expected


def test_context_parallel_processes_read_the_same_windows():
    parallel = ParallelConfig(
        tensor_model_parallel_size=2, context_parallel_size=4, pipeline_model_parallel_size=2
    )
    replica = replicas_of(form_groups(parallel, 64))
    assert np.bincount(replica).tolist() == [16] * 4


def test_the_papers_run_on_1024_processes(capsys):
    rehearse.main(["lm-9b", "--gpus", "1024"])
    said = capsys.readouterr().out
    assert "each once in its groups of tp 2, cp 1, dp 512, pp 1\n" in said
    assert "79 steps, 40,448 windows, each read by one replica" in said  # 512 in a step
    assert "text 1.52, interleaved 2.02, " in said
    assert "every window once" in said
    assert "micro-batches of a replica in a step: 1\n" in said


def test_replicas_of_more_processes_read_more_micro_batches(capsys):
    rehearse.main(["lm-9b", "--gpus", "512", "--pipeline-model-parallel-size", "4", *SMALL])
    said = capsys.readouterr().out
    assert "dp 64, pp 4\n" in said
    assert said.endswith("in a step: 8\n")


def test_tensor_groups_that_cross_nodes_are_named(capsys):
    rehearse.main(["lm-9b", "--gpus", "16", "--gpus-per-node", "1", *SMALL])
    assert "CROSS NODES" in capsys.readouterr().out


def test_settings_that_pretrain_refuses_are_refused():
    with pytest.raises(ConfigError, match="is not a multiple of --micro-batch-size"):
        rehearse.main(["lm-9b", "--gpus", "2048", *SMALL])


def test_a_rule_that_repeats_windows_is_found_out(monkeypatch):
    def overlapping(first, size, rows, replicas, replica):
        return micro_batches(first, size, rows, replicas, min(replica, replicas - 2))

    monkeypatch.setattr(rehearsal, "micro_batches", overlapping)
    with pytest.raises(DataError, match="would be read 2 times"):
        rehearse.main(["lm-9b", "--gpus", "64", *SMALL])


def test_processes_of_a_replica_that_disagree_are_found_out():
    groups = form_groups(ParallelConfig(tensor_model_parallel_size=2), 16)
    groups["dp"][1] = groups["dp"][1][::-1]  # two tensor-parallel ranks with replicas the other way
    with pytest.raises(DataError, match="would not read together"):
        replicas_of(groups)


def test_epochs_that_repeat_windows_are_found_out(monkeypatch):
    def second_is_bad(*of):
        epochs.append(np.arange(5) if len(epochs) != 1 else np.array([0, 1, 2, 2, 4]))
        return SimpleNamespace(order=epochs[-1])

    epochs = []
    monkeypatch.setattr(rehearsal, "cut_epoch", second_is_bad)
    with pytest.raises(DataError, match="epoch 1 of text"):
        rehearse.main(["lm-9b", "--gpus", "64", *SMALL])


def test_micro_batches_share_a_global_batch_out():
    parts = [list(micro_batches(24, 12, 2, 3, replica)) for replica in range(3)]
    assert parts[1] == [range(26, 28), range(32, 34)]
    read = sorted(n for part in parts for numbers in part for n in numbers)
    assert read == list(range(24, 36))
