"""One process at a time works on an output, and the dead hold nothing."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_speech.errors import InUseError
from megatron_speech.io.files import has_ended
from megatron_speech.jobs import claims
from megatron_speech.jobs.claims import Claims, exclusive


def test_a_claim_is_one_processs(tmp_path):
    with Claims(tmp_path) as ours, Claims(tmp_path) as theirs:
        assert ours.take("a")
        assert not theirs.take("a")
        assert theirs.take("b")
        ours.release("a")
        assert theirs.take("a")
    assert list(tmp_path.iterdir()) == []


def test_claims_of_the_dead_and_the_silent_are_taken_over(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path;"
        "from megatron_speech.jobs.claims import Claims;"
        "claims = Claims(Path(sys.argv[1])).__enter__(); claims.take('a');"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert (tmp_path / "a").exists()
    # Of a container with our host's name: its process numbers say nothing here.
    elsewhere = {"host": platform.node(), "pid": 9_999_999, "began": "1", "token": "x"}
    elsewhere["process"] = "0123456789abcdef-9999999-1"
    (tmp_path / "b").write_text(json.dumps(elsewhere))
    (tmp_path / "c").write_text("")  # killed between two lines
    with Claims(tmp_path, stale_s=100) as claims:
        assert claims.take("a")
        assert not claims.take("b")
        assert not claims.take("c")
        for name in "bc":
            long_ago = time.time() - 101
            os.utime(tmp_path / name, (long_ago, long_ago))
            assert claims.take(name)


def test_claims_are_taken_where_others_have_removed_the_folder(tmp_path):
    with Claims(tmp_path / "claims") as claims:
        (tmp_path / "claims").rmdir()
        assert claims.take("a")


def test_claims_stay_fresh_and_lost_ones_are_left_alone(tmp_path):
    with Claims(tmp_path, stale_s=0.2) as claims:
        claims.take("a")
        claims.take("b")
        (tmp_path / "b").write_text('{"token": "of another"}')
        time.sleep(0.5)
        assert time.time() - (tmp_path / "a").stat().st_mtime < 0.15
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


OTHER_PLACE = {"host": "node7", "pid": 9, "since": "yesterday", "process": "0123456789abcdef-9-1"}


def claim_of(path, **facts):
    path.write_text(json.dumps({**OTHER_PLACE, "token": "x", **facts}))


def taken(output, **options) -> bool:
    with exclusive(output, **options):
        return True


@pytest.mark.parametrize("inside", [False, True])
def test_an_output_in_use_says_by_whom(tmp_path, inside):
    output = tmp_path / "out"
    with exclusive(output, inside=inside):
        with pytest.raises(InUseError) as raised:
            taken(output, inside=inside)
        for part in (str(output), f"process {os.getpid()}", platform.node(), "since 20"):
            assert part in str(raised.value)
        assert taken(tmp_path / "another", inside=inside)
    assert taken(output, inside=inside)
    assert not list(tmp_path.glob(".*.claim"))
    assert not (output / ".claim").exists()


def test_it_is_given_back_when_the_work_fails(tmp_path):
    with pytest.raises(KeyboardInterrupt), exclusive(tmp_path / "out"):
        raise KeyboardInterrupt
    assert taken(tmp_path / "out")


def test_another_machine_holds_it_until_it_is_silent(tmp_path):
    path = tmp_path / ".out.claim"
    claim_of(path)
    with pytest.raises(InUseError, match="process 9 on node7 since yesterday"):
        taken(tmp_path / "out")
    long_ago = time.time() - claims.STALE_S - 1
    os.utime(path, (long_ago, long_ago))
    assert taken(tmp_path / "out")


def test_clocks_that_differ_take_nothing_over(tmp_path, monkeypatch):
    """Our clock may be hours ahead of the file server's, which stamps the claims."""
    claim_of(tmp_path / ".out.claim")
    now = time.time() + 7200
    monkeypatch.setattr(time, "time", lambda: now)
    with pytest.raises(InUseError):
        taken(tmp_path / "out")


@pytest.mark.parametrize(
    ("job", "restarts", "gone"), [("7", "1", True), ("7", "0", False), ("8", "1", False)]
)
def test_a_requeued_job_takes_over_from_itself(tmp_path, monkeypatch, job, restarts, gone):
    claim_of(tmp_path / ".out.claim", slurm_job="7", slurm_restarts=0)
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    if gone:
        assert taken(tmp_path / "out")
    else:
        with pytest.raises(InUseError):
            taken(tmp_path / "out")


def test_a_process_that_nobody_has_waited_for_is_gone():
    code = "from megatron_speech.io.files import this_process; print(this_process())"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    name = child.stdout.readline().strip()
    child.stdout.close()
    while not has_ended(name):
        time.sleep(0.01)
    assert child.returncode is None  # a zombie until now
    child.wait()


def test_of_two_that_see_a_dead_claim_one_gets_it(tmp_path, monkeypatch):
    """The second renames what the first has just made, and puts it back."""
    path, read = tmp_path / "a", claims.read_claim
    claim_of(path)
    os.utime(path, (1, 1))
    with Claims(tmp_path) as first, Claims(tmp_path) as second:

        def the_first_is_quicker(asked):
            found = read(asked)
            monkeypatch.setattr(claims, "read_claim", read)
            assert first.take("a")
            os.utime(path, (1, 1))  # the second has looked before
            return found

        monkeypatch.setattr(claims, "read_claim", the_first_is_quicker)
        assert not second.take("a")
        assert read(path)["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("nested", ["", ", exclusive(Path(sys.argv[1] + '-too'))"])
def test_a_scheduler_that_ends_the_process_frees_its_output(tmp_path, nested):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from megatron_speech.jobs.claims import exclusive\n"
        f"with exclusive(Path(sys.argv[1])){nested}:\n    print(flush=True); time.sleep(100)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "out")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    assert (tmp_path / ".out.claim").exists()
    child.terminate()
    child.communicate()
    assert child.returncode == -signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_others_remove_meanwhile_is_made_again(tmp_path, monkeypatch):
    """Tasks of one job share a folder of claims; the one that made it removes it when it ends."""
    removed = []

    def new_name(path: Path, keep=claims.new_name_beside) -> Path:
        if len(removed) < 3:
            path.parent.rmdir()
            removed.append(path)
        return keep(path)

    monkeypatch.setattr(claims, "new_name_beside", new_name)
    with exclusive(tmp_path / "claims" / "task 1"):
        assert (tmp_path / "claims" / ".task 1.claim").exists()
    assert len(removed) == 3
