"""Reading ahead: in order, within its bound, errors in their place."""

import io
import threading
import time

import numpy as np
import pytest
import soundfile

from megatron_speech.audio import Excerpt, stream_audio
from megatron_speech.data import reading
from megatron_speech.data.recording import Recording
from megatron_speech.errors import AudioError
from megatron_speech.speech_tokenizer.bulk.reading import ReadAhead, read_windows
from megatron_speech.speech_tokenizer.features import cut_windows


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("most", [1, 1000, 10**9])
def test_windows_come_in_order_and_within_the_bound(threads, most):
    random = np.random.default_rng(0)
    counts = random.integers(0, 6, 60).tolist()
    lock, held, highest = threading.Lock(), 0, 0

    def read(item: int):
        nonlocal held, highest
        for number in range(counts[item]):
            time.sleep(random.uniform(0, 2e-4))
            with lock:
                held += 100
                highest = max(highest, held)
            yield np.full(100, 1000 * item + number)
        if item % 7 == 0:
            raise AudioError("broken", reason="unreadable")

    found = []
    for item, window in ReadAhead(range(60), read, threads, most):
        if isinstance(window, np.ndarray):
            with lock:
                held -= len(window)
            found.append(int(window[0]))
        else:
            assert isinstance(window, AudioError) == (item % 7 == 0)
            found.append(-item)
    expected = [[1000 * i + n for n in range(c)] + [-i] for i, c in enumerate(counts)]
    assert found == [entry for entries in expected for entry in entries]
    assert highest <= most + 100 * (threads + 2)  # one in each thread's hands


def test_a_failure_that_is_not_the_recordings_reaches_the_caller():
    def read(item: int):
        if item == 3:
            raise ZeroDivisionError
        yield np.zeros(10)

    with pytest.raises(ZeroDivisionError):
        list(ReadAhead(range(10), read, 2, 15))

    def items():
        yield 1
        raise KeyError("list")

    with pytest.raises(KeyError):
        list(ReadAhead(items(), lambda item: (), 2, 15))


def test_closing_stops_the_threads():
    before = threading.active_count()
    ahead = ReadAhead(range(10**9), lambda item: [np.zeros(10)], 3, 100)
    assert next(iter(ahead))[0] == 0
    ahead.close()
    for _ in range(1500):
        if threading.active_count() <= before:  # those of earlier tests may end meanwhile
            return
        time.sleep(0.02)
    raise AssertionError("threads still run")


def test_windows_hold_every_sample():
    random = np.random.default_rng(0)
    audio = np.arange(10_007, dtype=np.float32)
    for size in (1, 7, 1000, 10_007, 20_000):
        cuts = np.sort(random.integers(0, len(audio), 30))
        windows = list(cut_windows(np.split(audio, cuts), size))
        assert [len(w) for w in windows[:-1]] == [size] * (len(windows) - 1)
        np.testing.assert_array_equal(np.concatenate(windows), audio)
    assert list(cut_windows([], 10)) == []


def test_a_recording_in_a_tar_is_read_from_its_place(tmp_path, make_noise, monkeypatch):
    stream = io.BytesIO()
    soundfile.write(stream, make_noise(50_000), 16_000, format="FLAC")
    path = tmp_path / "a.tar"
    path.write_bytes(b"before" * 100 + stream.getvalue() + b"behind" * 1000)
    soundfile.write(tmp_path / "a.flac", make_noise(50_000), 16_000)
    expected = list(stream_audio(tmp_path / "a.flac", "a", Excerpt()))
    place = (600, len(stream.getvalue()))
    for most in (1 << 26, 10):  # in memory, and as it goes
        monkeypatch.setattr(reading, "_MOST_BYTES_AT_ONCE", most)
        monkeypatch.setattr(reading, "_BUFFER_BYTES", 512)
        windows = list(read_windows(Recording(id="x", path=str(path), tar_place=place), 16_000))
        assert [len(w) for w in windows] == [16_000, 16_000, 16_000, 2_000]
        np.testing.assert_array_equal(np.concatenate(windows), np.concatenate(expected))
        cut = Recording(id="x", path=str(path), tar_place=(600, place[1] // 2))
        with pytest.raises(AudioError, match="recording x"):
            list(read_windows(cut, 16_000))
    with pytest.raises(AudioError, match="does not exist"):
        list(read_windows(Recording(id="x", path="gone.tar", tar_place=place), 16_000))
