from megatron_speech import progress


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
