"""The rehearsal stands where core stands, and notices what must not happen."""

import numpy as np
import pytest

from megatron_speech.cluster import rehearsal
from megatron_speech.cluster.rehearsal import form_groups, replicas_agree
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
        assert tuple(groups.position[kind][rank] for kind in ("tp", "dp", "pp")) == expected


def test_context_parallel_processes_read_the_same_windows():
    parallel = ParallelConfig(
        tensor_model_parallel_size=2, context_parallel_size=4, pipeline_model_parallel_size=2
    )
    replica = replicas_agree(form_groups(parallel, 64))
    assert np.bincount(replica).tolist() == [16] * 4


def test_the_papers_run_on_1024_processes(capsys):
    found = rehearse.main(["lm-9b", "--gpus", "1024"])
    assert found.group_sizes == {"tp": 2, "cp": 1, "dp": 512, "pp": 1}
    assert found.tensor_groups_within_nodes
    assert found.windows_read == 40_448 == found.steps * 512
    assert found.epochs["text"] == pytest.approx(1.5, rel=0.05)
    assert found.epochs["interleaved"] == pytest.approx(2, rel=0.05)
    assert found.micro_batches == 1
    assert "every window once" in capsys.readouterr().out


def test_replicas_of_more_processes_read_more_micro_batches():
    found = rehearse.main(["lm-9b", "--gpus", "512", "--pipeline-model-parallel-size", "4", *SMALL])
    assert (found.micro_batches, found.group_sizes["dp"], found.group_sizes["pp"]) == (8, 64, 4)


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
    groups.position["dp"][3] += 1
    with pytest.raises(DataError, match="would not read together"):
        replicas_agree(groups)


def test_epochs_that_repeat_windows_are_found_out():
    good, bad = np.arange(5), np.array([0, 1, 2, 2, 4])
    assert rehearsal._passes([good, good], 7, "x") == pytest.approx(1.4)
    with pytest.raises(DataError, match="epoch 1 of x"):
        rehearsal._passes([good, bad], 9, "x")
    with pytest.raises(DataError, match="epoch 0 of x"):
        rehearsal._passes([bad], 5, "x")


def test_micro_batches_share_a_global_batch_out():
    parts = [list(micro_batches(24, 12, 2, 3, replica)) for replica in range(3)]
    assert parts[1] == [range(26, 28), range(32, 34)]
    read = sorted(n for part in parts for numbers in part for n in numbers)
    assert read == list(range(24, 36))
