from tests.tools.speech_training import (
    arguments,
    assert_same_runs,
    kill_when,
    rejected_ids,
    step_of,
    write_speech,
)


def test_two_kills_change_no_bit(tmp_path):
    """Lazily read, mixed sources, a broken clip, k-means, restarts, best model: all at once."""
    first, second = (
        write_speech(tmp_path / "a", 4),
        write_speech(tmp_path / "b", 8, 1, broken=False),
    )
    mixed = ["--manifest", str(first), str(second), "--manifest-weights", "1", "3"]
    often = ["--save-interval", "2", "--eval-interval", "2", "--quantize-restart-interval", "2"]
    rest = [*mixed, *often, "--no-cache-features", "--train-iters", "12", "--export", "best"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert not kill_when(arguments(second, whole, *rest), lambda: False)
    for step in (2, 6):
        command = arguments(second, killed, *rest)
        assert kill_when(command, lambda step=step: step_of(killed) >= step)
        assert step <= step_of(killed) < 12
    assert not kill_when(arguments(second, killed, *rest), lambda: False)
    assert_same_runs(whole, killed)
    assert rejected_ids(whole) == ["broken"]
