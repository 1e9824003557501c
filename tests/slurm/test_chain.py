"""The stages of examples/ on a real Slurm: the chain, pre-emption, failure, the paper's sizes.

Trainings run on two nodes. One is sent back to the queue twice, by its time signal and by Slurm,
and another is cancelled.
"""

import re
import socket
import urllib.request
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from megatron_speech.io.files import read_json
from tests.slurm.commands import ROOT, Slurm, wait_until

pytestmark = pytest.mark.slurm

SCRIPTS = sorted((ROOT / "examples").glob("*.sbatch"))
PATIENCE_S = 7200
STEPS = 20
SMALL = ("--nodes=2", "--gpus-per-node=0", "--cpus-per-task=1", "--mem=4G", "--oversubscribe")
CANCELLED, INTERRUPTED = "13_pretrain_1.5b", "14_pretrain_9b_1t"


@dataclass(frozen=True)
class Chain:
    """A finished chain: its folder, and the job of each stage."""

    runs: Path
    jobs: dict[str, str]

    def log(self, stage: str) -> str:
        """What a stage, or the first task of an array, printed."""
        (path, *_) = sorted((self.runs / "logs").glob(f"*-{self.jobs[stage]}*.log"))
        return path.read_text()


def steps_in(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_text().count('"kind": "train"') if path.exists() else 0


def after_step(slurm: Slurm, job: str, run: Path, step: int) -> None:
    """Wait until a training is behind a step, or can never be."""
    ended = partial(slurm.has_ended, job)
    wait_until(lambda: steps_in(run) > step, PATIENCE_S, f"step {step} of {run.name}", over=ended)
    logs = (path for path in sorted((run.parent / "logs").iterdir()) if path.is_file())
    tails = "".join(f"\n--- {path.name}\n{path.read_text()[-1500:]}" for path in logs)
    assert steps_in(run) > step, f"job {job} ended before step {step} of {run.name}{tails}"


def interrupt(slurm: Slurm, job: str, run: Path, step: int, *command: str) -> int:
    """Send a job back to the queue behind a step; returns the steps done by then."""
    before = slurm.restarts(job)
    after_step(slurm, job, run, step)
    slurm.run(*command, job)
    wait_until(lambda: slurm.restarts(job) > before, 600, f"restart {before + 1} of job {job}")
    return steps_in(run)


@pytest.fixture(scope="module")
def chain(slurm, tmp_path_factory) -> Chain:
    runs = tmp_path_factory.mktemp("chain")
    jobs = slurm.submit_all(RUNS=str(runs), MODELS="1.5b 9b", NODES="2", VOICE="en")
    behind = "afterok:" + ":".join(jobs[name] for name in ("11_plan_mixture", "12_base_model"))
    options = (*SMALL, f"--dependency={behind}", f"--output={runs}/logs/alone-%j.log")
    settings = {"SIZE": "smoke", "RUNS": str(runs), "RUN": str(runs / "alone")}
    alone = slurm.run(
        "sbatch", "--parsable", *options, f"examples/{INTERRUPTED}.sbatch", **settings
    )
    after_step(slurm, jobs[CANCELLED], runs / "lm-1.5b", 2)
    slurm.run("scancel", jobs[CANCELLED])
    job, run = jobs[INTERRUPTED], runs / "lm-9b"
    first = interrupt(slurm, job, run, 2, "scancel", "--signal=USR1")
    second = interrupt(slurm, job, run, first + 2, "scontrol", "requeue")
    assert first < second < STEPS, "the training was done before it could be interrupted"
    done = Chain(runs, {**jobs, "alone": alone.strip()})
    for stage, number in done.jobs.items():
        states = set(slurm.wait(number, PATIENCE_S))
        if "1.5b" not in stage:
            assert states == {"COMPLETED"}, f"{stage}: {states}\n{done.log(stage)}"
    return done


def test_every_stage_leaves_what_the_next_one_reads(chain, slurm):
    for array in ("03_tokenize_speech:transcribed", "09_generate_codes"):
        assert len(slurm.states(chain.jobs[array])) == 2
    assert read_json(chain.runs / "lm-9b" / "hf" / "config.json")["model_type"] == "glm"
    for name in ("lm-9b", "voice", "chat"):
        assert (chain.runs / "evaluation" / f"{name}.json").exists()
    voice = (chain.runs / "voice" / "run_config.yaml").read_text()
    assert "voice: en\n" in voice
    assert "prefix_share: 0.5\n" in voice
    logs = "".join(path.read_text() for path in (chain.runs / "logs").iterdir())
    assert "Traceback" not in logs


def test_a_training_sent_back_to_the_queue_ends_as_one_that_was_not(chain, slurm):
    import torch  # here, since the other tests need not wait for it

    from megatron_speech.training.checkpoint import iteration_directory
    from megatron_speech.training.reporting import read_metrics
    from tests.tools.pretraining import LOGGED, stored

    assert slurm.restarts(chain.jobs[INTERRUPTED]) == 2
    log = chain.log(INTERRUPTED)
    assert re.search(r"stopped at step \d+: SIGUSR1 received", log), log
    assert log.count("resuming from step") == 2, log
    assert log.count("starting from the weights in") == 1, log
    runs = chain.runs / "alone", chain.runs / "lm-9b"
    for kind, number in (("train", STEPS), ("valid", 1)):
        logs = [
            [{name: record[name] for name in LOGGED if name in record} for record in records]
            for records in (read_metrics(run, kind) for run in runs)
        ]
        assert logs[0] == logs[1]
        assert len(logs[0]) == number
    states = [stored(iteration_directory(run, STEPS)) for run in runs]
    assert states[0].keys() == states[1].keys()
    assert any("exp_avg_sq" in name for name in states[0])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_a_training_that_was_cancelled_is_saved_and_stays_cancelled(chain, slurm):
    assert slurm.states(chain.jobs[CANCELLED]) == ["CANCELLED"]
    assert slurm.restarts(chain.jobs[CANCELLED]) == 0
    assert "stopped at step" in chain.log(CANCELLED)
    for stage in ("15_export:1.5b", "16_evaluate:1.5b"):
        assert slurm.states(chain.jobs[stage]) == ["CANCELLED"]
    assert not (chain.runs / "lm-1.5b" / "hf").exists()


def test_behind_a_stage_that_fails_nothing_runs(slurm, tmp_path):
    jobs = slurm.submit_all("11", RUNS=str(tmp_path), MODELS="9b", CHAT="")
    states = {stage: slurm.wait(job, 300) for stage, job in jobs.items()}
    assert states == {
        "11_plan_mixture": ["FAILED"],  # there is nothing to read for this one,
        "12_base_model": ["FAILED"],  # nor for this
        INTERRUPTED: ["CANCELLED"],
        "15_export:9b": ["CANCELLED"],
        "16_evaluate:9b": ["CANCELLED"],
    }
    assert not (tmp_path / "lm-9b").exists()
    log = Chain(tmp_path, jobs).log("11_plan_mixture")
    assert "error: " in log
    assert "Traceback" not in log


def test_the_chat_is_served_until_its_job_ends(chain, slurm, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ("--nodes=1", *SMALL[1:], f"--output={tmp_path}/log")
    settings = {"SIZE": "smoke", "RUNS": str(chain.runs), "PORT": str(port)}
    job = slurm.run("sbatch", "--parsable", *options, "examples/26_chat.sbatch", **settings).strip()
    page = f"http://127.0.0.1:{port}/"
    wait_until(lambda: answers(page), 120, page, over=partial(slurm.has_ended, job))
    log = (tmp_path / "log").read_text()
    assert answers(page), log
    assert f"ssh -L {port}:localhost:{port} -J LOGIN-NODE here1" in log
    slurm.run("scancel", job)
    assert slurm.wait(job, 60) == ["CANCELLED"]
    assert not answers(page)


def answers(page: str) -> bool:
    try:
        with urllib.request.urlopen(page, timeout=10) as reply:
            return b"<html" in reply.read()
    except OSError:
        return False


def test_a_plan_made_by_an_array_of_datatrove_s_is_the_chain_s(chain, slurm, tmp_path):
    printed = slurm.run(
        *(slurm.environment["PYTHON"], "tools/build_dataset.py", "plan", "--vocab"),
        *(f"{chain.runs}/vocab", "--input", f"{chain.runs}/world/corpus/valid.parquet"),
        *("--output", f"{tmp_path}/plan", "--tasks", "2", "--requests-per-shard", "20"),
        *("--executor", "slurm", "--partition", "here", "--logs", f"{tmp_path}/logs"),
        *("--mem-per-cpu-gb", "2", "--workers", "2", "--time", "0:30:00"),
    )
    job = re.search(r"the last Slurm job is (\d+)", printed)
    assert job, printed
    assert slurm.wait(job[1], 600) == ["COMPLETED"]
    made, expected = tmp_path / "plan", chain.runs / "interleaved" / "plan"
    files = {path.relative_to(expected) for path in expected.rglob("*") if path.is_file()}
    assert files == {path.relative_to(made) for path in made.rglob("*") if path.is_file()}
    assert all((made / path).read_bytes() == (expected / path).read_bytes() for path in files)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_cluster_takes_every_stage_in_the_paper_s_size(slurm, script):
    partition = "gpu" if "#SBATCH --gpus" in script.read_text() else "cpu"
    said = slurm.try_only(script, f"--partition={partition}")
    assert re.search(rf"to start at .* on nodes {partition}.* in partition {partition}", said), said
    too_much = slurm.try_only(script, f"--partition={partition}", "--cpus-per-task=1000")
    assert "node configuration is not available" in too_much
