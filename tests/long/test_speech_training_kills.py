"""A speech tokenizer's training killed with -9 twenty times equals an undisturbed one, bit by bit.

Mixed sources read lazily, a broken recording, k-means, restarts at every other step and the best
model are all in it, for both quantizers.
"""

import random
import time

import pytest

from tests.tools.speech_training import (
    arguments,
    assert_same_runs,
    kill_when,
    rejected_ids,
    step_of,
    write_speech,
)

pytestmark = pytest.mark.long

KILLS, STEPS = 20, 480


@pytest.mark.parametrize("quantizer", ["vq", "fsq"])
def test_twenty_kills_change_no_bit(tmp_path, quantizer):
    first, second = write_speech(tmp_path / "a", 9), write_speech(tmp_path / "b", 30, 1, False)
    mixed = ["--manifest", str(first), str(second), "--manifest-weights", "1", "3"]
    often = ["--save-interval", "3", "--eval-interval", "7", "--quantize-restart-interval", "2"]
    long = ["--train-iters", str(STEPS), "--quantize-start-step", "20", "--export", "best"]
    rest = [*mixed, *often, *long, "--no-cache-features", "--keep-last", "2"]
    rest += ["--quantizer", quantizer, "--fsq-levels", "4", "4", "4"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert not kill_when(arguments(second, whole, *rest), lambda: False, timeout_s=600)

    chance, kills, steps = random.Random(0), 0, []
    while kills < KILLS:
        before, delay_s = step_of(killed), chance.uniform(0.0, 0.5)
        going: list[float] = []

        def due(before=before, delay_s=delay_s, going=going) -> bool:
            """Once it trains, at any moment of the next half second."""
            if not going and step_of(killed) > before:
                going.append(time.monotonic() + delay_s)
            return bool(going) and time.monotonic() >= going[0]

        if chance.random() < 0.25:  # or while it starts
            stop = time.monotonic() + chance.uniform(0.0, 1.5)
            due = lambda stop=stop: time.monotonic() >= stop  # noqa: E731
        assert kill_when(arguments(second, killed, *rest), due), f"finished after {kills} kills"
        kills += 1
        steps.append(step_of(killed))
    assert not kill_when(arguments(second, killed, *rest), lambda: False, timeout_s=600)
    print(f"killed {kills} times, checkpoints found: {steps}")
    assert_same_runs(whole, killed)
    assert rejected_ids(whole) == ["broken"]
