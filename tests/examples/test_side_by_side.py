"""Stages that do not need each other run at once, each in a process of its own."""

import io
import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest

from examples.quickstart.chain import chain
from examples.quickstart.machine import cores
from examples.quickstart.runner import Demo, Stage, run_stages
from examples.quickstart.side_by_side import AT_ONCE, NamedLines
from examples.quickstart.sizes import SIZES
from examples.voice.stages import CHAIN
from megatron_speech.errors import DataError
from megatron_speech.io.files import read_json

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def demo(tmp_path):
    return Demo(size=SIZES["smoke"], output=tmp_path, machine={"precision": "fp32"})


def until(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, f"waited for {path} in vain"
        time.sleep(0.01)


def meet(demo, done, *, me, other):
    """Ends only if the other one runs at the same time."""
    import torch

    demo.path(me).touch()
    until(demo.path(other))
    print(f"{me} met {other}")
    return {"threads": torch.get_num_threads(), "seen": sorted(done), "process": os.getpid()}


def alone(demo, done):
    return {"seen": sorted(done), "process": os.getpid()}


def fail(demo, done, *, after):
    until(demo.path(after))
    raise DataError("the speech is missing")


def sleep(demo, done, *, me):
    """Notes that it began and that it was asked to end."""
    demo.path(f"{me}.pid").write_text(str(os.getpid()))
    try:
        demo.path(me).touch()
        time.sleep(300)
    finally:
        demo.path(f"{me}-ended").touch()
    return {}


def stage(name, run, after=None):
    return Stage(name, name, run, after=after)


def two_beside(left, right):
    return [
        stage("first", alone),
        stage("left", left, after=("first",)),
        stage("right", right, after=("first",)),
        stage("last", alone, after=("left", "right")),
    ]


MEETING = two_beside(partial(meet, me="l", other="r"), partial(meet, me="r", other="l"))


def test_independent_stages_run_at_once_and_the_others_wait(demo, capfd):
    done, times = run_stages(MEETING, demo)
    assert [done[name]["seen"] for name in ("first", "left", "right", "last")] == [
        [], ["first"], ["first"], ["first", "left", "right"],
    ]  # fmt: skip
    processes = {figures["process"] for figures in done.values()}
    assert len(processes) == 3
    assert done["first"]["process"] == done["last"]["process"] == os.getpid()
    assert done["left"]["threads"] == done["right"]["threads"] == max(1, cores() // AT_ONCE)
    assert list(times["seconds"]) == ["first", "left", "right", "last"]
    seconds = times["seconds"].values()
    assert max(seconds) <= times["seconds_in_all"] < sum(seconds)
    lines = capfd.readouterr().out.splitlines()
    assert "left │ l met r" in lines
    assert "right │ r met l" in lines


def test_they_are_done_once(demo):
    first = run_stages(MEETING, demo)
    assert run_stages(MEETING, demo) == first


def test_a_stage_starts_afresh_for_what_it_needs_only(demo):
    def process_ids(stages):
        done, _ = run_stages(stages, demo)
        return {name: figures["process"] for name, figures in done.items()}

    before = process_ids(MEETING)
    changed = [*MEETING[:2], stage("other", MEETING[2].run, after=("first",)), MEETING[3]]
    changed[3] = stage("last", alone, after=("left", "other"))
    after = process_ids(changed)
    assert after["left"] == before["left"]
    assert after["last"] == before["last"] == os.getpid()
    assert read_json(demo.path("stages", "last.json"))["figures"]["seen"][-1] == "other"


def test_a_failure_stops_the_others_and_the_demo(demo, capfd):
    stages = two_beside(partial(sleep, me="asleep"), partial(fail, after="asleep"))
    started = time.monotonic()
    with pytest.raises(SystemExit) as error:
        run_stages(stages, demo)
    assert error.value.code == 2
    assert time.monotonic() - started < 120
    printed = capfd.readouterr().err
    assert "right │ error: the speech is missing" in printed
    assert "right failed" in printed
    assert not alive(demo.path("asleep.pid"))
    assert "done" not in read_json(demo.path("stages", "left.json"))


SCRIPT = """
    import sys
    from functools import partial
    from pathlib import Path
    from examples.quickstart.runner import Demo, run_stages
    from examples.quickstart.sizes import SIZES
    from megatron_speech import cli
    from tests.examples.test_side_by_side import sleep, two_beside

    def main():
        output = Path(sys.argv[1])
        demo = Demo(size=SIZES["smoke"], output=output, machine={"precision": "fp32"})
        run_stages(two_beside(partial(sleep, me="one"), partial(sleep, me="two")), demo)

    if __name__ == "__main__":
        cli.run(main)
"""


def alive(file: Path) -> bool:
    """Whether the process of that number does anything still."""
    try:
        status = Path(f"/proc/{file.read_text()}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"


@pytest.mark.parametrize(
    ("number", "group", "code"),
    [
        (signal.SIGINT, False, 130),
        (signal.SIGINT, True, 130),
        (signal.SIGTERM, False, 130),
        (signal.SIGKILL, False, -9),
    ],
    ids=["SIGINT", "Ctrl-C", "SIGTERM", "SIGKILL"],
)
def test_whatever_stops_the_demo_stops_its_stages(tmp_path, number, group, code):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    process = subprocess.Popen(
        [sys.executable, script, tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for name in ("one", "two"):
        until(tmp_path / name)
    (os.killpg if group else os.kill)(process.pid, number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == code
    assert ("\ninterrupted; run the same command again" in printed) == (code == 130)
    assert "Traceback" not in printed
    end = time.monotonic() + 10
    while any(alive(tmp_path / f"{name}.pid") for name in ("one", "two")):
        assert time.monotonic() < end, "a stage outlived the demo"
        time.sleep(0.01)
    marker = read_json(tmp_path / "stages" / "left.json")
    assert bool(marker["spans"]) == (tmp_path / "one-ended").exists() == (code == 130)


def test_lines_carry_their_name():
    printed = io.StringIO()
    lines = NamedLines("left", printed)
    print("one", end="", file=lines)
    print(" line\n\nand another", file=lines)
    print("a piece", end="", file=lines)
    lines.flush()
    assert printed.getvalue() == "left │ one line\nleft │ and another\nleft │ a piece\n"


@pytest.mark.parametrize("stages", [CHAIN, chain(SIZES["demo"]), chain(SIZES["full"])])
def test_chains_name_earlier_stages_and_every_figure_is_in_the_end(stages):
    names = [stage.name for stage in stages]
    needed = set()
    for number, found in enumerate(stages):
        before = names[max(0, number - 1) : number] if found.after is None else found.after
        assert set(before) <= set(names[:number])
        needed |= set(before)
    assert needed == set(names[:-1])  # the last one needs all others, if through others
