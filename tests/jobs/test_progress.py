import io
import sys

import pytest

from megatron_speech.jobs import progress


def test_lines_off_a_terminal_tell_share_rate_and_eta(monkeypatch, capsys):
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    assert list(progress.track(range(4), "speaking", unit="clips")) == [0, 1, 2, 3]
    error = capsys.readouterr().err
    assert "speaking:" in error
    assert "of 4 (" in error
    assert "clips/s" in error
    assert "ETA" in error


def test_short_work_stays_quiet(capsys):
    assert sum(progress.track(iter([1, 2]), "adding")) == 3
    assert capsys.readouterr().err == ""


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bars_on_a_terminal_leave_standard_output_alone(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.Progress("training", 40, "steps", first=20) as outer:
        outer.advance(10)
        assert list(progress.track([1, 2], "validation")) == [1, 2]
        print("a line of the log")
        outer.advance(10)
    drawn = sys.stderr.getvalue()
    assert "training" in drawn
    assert "100%" in drawn
    assert "validation" in drawn
    assert capsys.readouterr().out == "a line of the log\n"
    assert progress.Progress._display is None


def test_what_was_done_before_counts_for_no_rate(monkeypatch, capsys):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with progress.Progress("training", 100, "steps", first=90) as bar:
        bar.advance(5)
    first = capsys.readouterr().err.splitlines()[0]
    assert "95 of 100 (95%) steps" in first
    assert float(first.split("steps, ")[1].split(" steps/s")[0]) < 1


@pytest.mark.parametrize("terminal", [True, False])
def test_processes_beside_the_main_one_show_nothing(terminal, monkeypatch, capsys):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: terminal)
    assert list(progress.track([1, 2], "k-means", shown=False)) == [1, 2]
    assert capsys.readouterr().err == ""


def test_work_with_lines_of_its_own_prints_none(monkeypatch, capsys):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with progress.Progress("training", 3, "steps", lines=False) as bar:
        bar.advance(3)
    assert capsys.readouterr().err == ""


def test_more_than_was_wanted_is_no_negative_time(monkeypatch, capsys):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: float(next(clock)))
    with progress.Progress("vectors", 10, "vectors") as bar:
        bar.advance(12)
    assert "ETA 0 s" in capsys.readouterr().err
