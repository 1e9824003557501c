"""A stop of a program with workers: all end at once, one says so, and nothing half-done is left."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from megatron_speech.jobs import processes

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
from megatron_speech.jobs.starting import starting
with starting(__name__):
    from megatron_speech.jobs.program import run
    import multiprocessing, sys, time
    from concurrent.futures import ProcessPoolExecutor
    from pathlib import Path
    from megatron_speech.jobs import processes
    from megatron_speech.jobs.tasks import run_tasks
    from megatron_speech.io.files import atomic_path

folder, kind = Path(sys.argv[1]), sys.argv[2]

def work(number):
    with atomic_path(folder / f"{number}.txt") as temporary:
        temporary.touch()
        time.sleep(60)

def main():
    (folder / "begun").touch()
    if kind == "spawn":
        run_tasks(work, range(4), workers=2, description="working")
        return
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__"])
    pool = ProcessPoolExecutor(2, context, processes.begin_worker, max_tasks_per_child=1)
    with processes.stopping_together(pool, "working"):
        with processes.ctrl_c_waits():
            found = [pool.submit(processes.task, work, number) for number in range(4)]
        found[0].result()

if __name__ == "__main__":
    run(main)
"""


def wait_until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def alive(session):
    """Processes of a session that have not ended, though nobody may have heard of it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, of = path.read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state != "Z":
                found.append(path.parent.name)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_waits_for_processes_that_are_starting_whichever_thread_takes_it(number):
    """Half-started ones were known to nobody, and complained when their program was gone."""
    started, done, before = [], threading.Event(), signal.getsignal(number)
    threading.Thread(target=done.wait, daemon=True).start()
    signal.signal(number, signal.default_int_handler)

    def start():
        with processes.ctrl_c_waits():
            os.kill(os.getpid(), number)
            for _ in range(100):
                time.sleep(0.001)
            started.append("all")

    try:
        with pytest.raises(KeyboardInterrupt):
            start()
        assert started
        assert signal.getsignal(number) is signal.default_int_handler
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        done.set()
        signal.signal(number, before)


@pytest.mark.parametrize("kind", ["spawn", "forkserver"])
@pytest.mark.parametrize("when", ["starting", "working"])
@pytest.mark.parametrize(
    ("send", "number", "status", "said"),
    [
        (os.killpg, signal.SIGINT, 130, "interrupted"),
        (os.kill, signal.SIGINT, 130, "interrupted"),
        (os.kill, signal.SIGTERM, 143, "terminated"),
    ],
    ids=["Ctrl-C", "SIGINT", "SIGTERM"],
)
def test_a_stop_is_said_once(tmp_path, kind, when, send, number, status, said):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    output = tmp_path / "output"
    output.mkdir()
    process = subprocess.Popen(
        [sys.executable, script, output, kind],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    wait_until((output / "begun").exists)
    if when == "working":
        wait_until(lambda: len(list(output.glob(".*.part"))) == 2)
    stopped = time.monotonic()
    send(process.pid, number)
    printed, _ = process.communicate(timeout=60)
    lines = [line for line in printed.splitlines() if "tasks" not in line]  # of progress
    assert lines == [f"{said}; run the same command again to continue"]
    assert process.returncode == status
    assert time.monotonic() - stopped < 30
    assert [path.name for path in output.iterdir()] == ["begun"]
    wait_until(lambda: not alive(process.pid))


STOPPED_BETWEEN = """
import signal, sys
from megatron_speech.jobs import processes

set_handler, left = signal.signal, int(sys.argv[1])

def stopped_at(*arguments):
    global left
    left -= 1
    if left == 0:
        raise KeyboardInterrupt
    return set_handler(*arguments)

signal.signal = stopped_at
processes.task(print, "the task")
"""


@pytest.mark.parametrize("place", [1, 2, 3, 4])
def test_a_stop_while_handlers_change_ends_the_worker(place):
    """Before and behind the task: else the pool goes on with the next one."""
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_BETWEEN, str(place)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "")
