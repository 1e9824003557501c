"""Sound that was there before is found by its shape; other sound is not."""

import numpy as np

from megatron_speech.prepare_speech.duplicates import find_repeats, fingerprint


def babble(seconds: float, seed: int) -> np.ndarray:
    """Sound whose spectrum changes as that of speech does."""
    random = np.random.default_rng(seed)
    size = round(seconds * 16_000)
    noise = random.standard_normal(size)
    parts = []
    for block in np.array_split(noise, max(round(seconds * 8), 1)):
        kernel = random.standard_normal(random.integers(4, 60))
        parts.append(np.convolve(block, kernel / np.linalg.norm(kernel), "same"))
    return (0.1 * np.concatenate(parts)).astype(np.float32)


def repeats(*sounds: np.ndarray) -> dict[int, int]:
    marks = [fingerprint(sound) for sound in sounds]
    return find_repeats([mark for mark, _ in marks], [frame for _, frame in marks], 0.4)


def test_repeats_are_found_softer_shifted_and_cut_otherwise():
    one, two = babble(8, 1), babble(8, 2)
    hum = 0.001 * np.random.default_rng(9).standard_normal(len(one) + 777).astype(np.float32)
    shifted = np.pad(one, (777, 0)) * 0.5 + hum
    assert repeats(one, two, shifted) == {2: 0}
    assert repeats(one, two, one[16_000:90_000]) == {2: 0}
    both = np.concatenate([one[-50_000:], two[:50_000]])
    assert set(repeats(one, two, both)) == {2}


def test_other_sound_is_no_repeat():
    sounds = [babble(5, seed) for seed in range(8)]
    steady = [np.sin(2 * np.pi * 440 * np.arange(80_000) / 16_000).astype(np.float32)] * 2
    assert not [later for later in repeats(*sounds, *steady) if later < 8]
    longer = np.concatenate([babble(20, 50), sounds[0]])
    assert repeats(sounds[0], longer) == {}  # most of it is new
    assert repeats() == {}
    assert repeats(np.zeros(20_000, np.float32), np.zeros(20_000, np.float32)) in ({}, {1: 0})
