"""Whether streamed audio shows where its blocks meet: energy and jumps at the joints."""

from collections.abc import Sequence

import numpy as np

_WINDOW_S = 0.01
_QUIET_DB = -60.0


def seam_figures(
    streamed: np.ndarray, offline: np.ndarray, joints: Sequence[int], rate_hz: int
) -> dict[str, float]:
    """Compare streamed with offline audio (n,) at sample numbers `joints` and elsewhere.

    Keys: `largest_difference` of samples; `joint_energy_error_db` and `other_energy_error_db`, mean
    absolute level differences of 10 ms windows that hold a joint, and of all others;
    `largest_jump_ratio`, the steepest step between neighbouring samples at a joint (2 ms around it)
    over the steepest elsewhere: a click is far above 1.
    """
    size = min(len(streamed), len(offline))
    streamed, offline = streamed[:size], offline[:size]
    window = round(_WINDOW_S * rate_hz)
    levels = [_levels_db(audio, window) for audio in (streamed, offline)]
    error = np.abs(levels[0] - levels[1])
    loud = np.maximum(*levels) > _QUIET_DB
    inside = [joint for joint in joints if 0 < joint < size]
    at_joint = np.zeros(len(error), bool)
    at_joint[[min(joint // window, len(error) - 1) for joint in inside]] = True
    steps = np.abs(np.diff(streamed))
    near = np.zeros(len(steps), bool)
    reach = round(0.002 * rate_hz)
    for joint in inside:
        near[max(joint - reach, 0) : joint + reach] = True
    return {
        "largest_difference": float(np.abs(streamed - offline).max(initial=0.0)),
        "joint_energy_error_db": _mean(error[at_joint & loud]),
        "other_energy_error_db": _mean(error[~at_joint & loud]),
        "largest_jump_ratio": float(
            steps[near].max(initial=0.0) / max(steps[~near].max(initial=0.0), 1e-9)
        ),
    }


def _levels_db(audio: np.ndarray, window: int) -> np.ndarray:
    count = max(len(audio) // window, 1)
    padded = np.pad(audio, (0, max(count * window - len(audio), 0)))[: count * window]
    power = np.square(padded.reshape(count, window)).mean(axis=1)
    return 10 * np.log10(power + 1e-12)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0
