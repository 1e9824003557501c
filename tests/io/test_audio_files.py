"""Files whose header says another length than they have: read if whole, set aside if cut."""

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from megatron_speech.audio import Excerpt, read_audio, resample, stream_audio
from megatron_speech.errors import AudioError
from megatron_speech.io import audio_files
from megatron_speech.io.audio_files import duration_s
from megatron_speech.io.containers import walk

SECONDS = 6.0
MP3_DELAY_S = 0.15  # encoders fill up at both ends; without their note it is heard


def sound(seconds: float = SECONDS, rate_hz: int = 16_000) -> np.ndarray:
    """A tone that swells, so that neither its bitrate nor its samples repeat."""
    time_s = np.arange(int(seconds * rate_hz)) / rate_hz
    noise = np.random.default_rng(0).standard_normal(time_s.size)
    return 0.2 * np.sin(2 * np.pi * 440 * time_s) * (time_s / seconds) + noise * (time_s > 2) * 0.05


def encoded(kind: str, samples: np.ndarray | None = None, rate_hz: int = 16_000) -> bytes:
    """A file of a kind: `WAV`, `OGG/OPUS` or `MP3`, whose bitrate varies."""
    container, _, subtype = kind.partition("/")
    options = {"bitrate_mode": "VARIABLE", "compression_level": 0.5} if kind == "MP3" else {}
    stream = io.BytesIO()
    samples = sound() if samples is None else samples
    soundfile.write(stream, samples, rate_hz, format=container, subtype=subtype or None, **options)
    return stream.getvalue()


def without_length(mp3: bytes) -> bytes:
    """An MP3 file without its first frame, which announces how many follow."""
    at = mp3.index(b"\xff", 1)
    while walk(io.BytesIO(mp3[at:]), len(mp3) - at).streams[0].pieces[0] == range(len(mp3) - at):
        at = mp3.index(b"\xff", at + 1)
    return mp3[at:]


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def wav_of_unknown_size(size: int, riff_size: int) -> bytes:
    data = patched(encoded("WAV"), 40, struct.pack("<I", size))
    return patched(data, 4, struct.pack("<I", riff_size))


def flac_of_unknown_length() -> bytes:
    data = encoded("FLAC")
    return patched(data, 21, bytes([data[21] & 0xF0, 0, 0, 0, 0]))


def problem(data: bytes, path: Path, reason: str = "unreadable") -> str:
    path.write_bytes(data)
    with pytest.raises(AudioError) as caught:
        read_audio(path)
    assert caught.value.reason == reason
    return str(caught.value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: encoded("MP3"),
        lambda: without_length(encoded("MP3")),
        lambda: b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10) + without_length(encoded("MP3")),
        lambda: without_length(encoded("MP3")) + b"TAG" + bytes(125),
        lambda: wav_of_unknown_size(0, 0),
        lambda: wav_of_unknown_size(0, 36),
        lambda: wav_of_unknown_size(0xFFFFFFFF, 0xFFFFFFFF),
        lambda: wav_of_unknown_size(0x7FFFF000, 0x7FFFF024),
        flac_of_unknown_length,
        lambda: patched(encoded("AU"), 8, b"\xff" * 4),
        lambda: encoded("W64") + b"junk" * 6 + struct.pack("<Q", 24 + 8) + b"no sound",
        lambda: encoded("FLAC") + b"TAG" + bytes(125),
        lambda: encoded("WAV") + b"LIST\x04\x00\x00\x00INFO" + b"end\n",
    ],
)
def test_whole_files_are_read_to_their_end_whatever_their_header_says(
    tmp_path: Path, make: Callable[[], bytes]
) -> None:
    path = tmp_path / "a"
    path.write_bytes(make())
    waveform = read_audio(path)
    assert 0 <= len(waveform) / 16_000 - SECONDS <= MP3_DELAY_S
    assert duration_s(path) == len(waveform) / 16_000
    for window in (slice(0, 16_000), slice(80_000, 96_000)):  # silence to loud: the right ends
        assert np.std(waveform[window]) == pytest.approx(np.std(sound()[window]), rel=0.1)
    with open(path, "rb") as stream:  # as a member of a tar is read
        inside = io.BytesIO(stream.read())
    np.testing.assert_array_equal(np.concatenate(list(stream_audio(inside, "a"))), waveform)


@pytest.mark.parametrize(
    "kind", ["WAV", "RF64", "W64", "AIFF", "CAF", "AU", "NIST", "FLAC", "OGG", "OGG/OPUS", "MP3"]
)
@pytest.mark.parametrize("share", [0.5, 0.93])
def test_files_cut_short_are_set_aside_with_the_seconds_found(
    tmp_path: Path, kind: str, share: float
) -> None:
    data = encoded(kind)
    said = problem(data[: int(len(data) * share)], tmp_path / "a")
    assert "cut short" in said
    assert " s" in said
    if kind not in ("OGG", "OGG/OPUS"):  # which do not announce it
        assert "of 6.0" in said
    part = Excerpt(start_s=0.5, duration_s=1.0)  # which is there
    with pytest.raises(AudioError, match="cut short"):
        read_audio(tmp_path / "a", part)


def test_streams_that_announce_nothing_are_cut_where_a_frame_is_torn(tmp_path: Path) -> None:
    mp3, flac = without_length(encoded("MP3")), flac_of_unknown_length()
    assert "torn" in problem(mp3[:-50], tmp_path / "a")
    assert "within a FLAC frame" in problem(flac[:-50], tmp_path / "b")
    lengths = [len(page) for page in encoded("OGG").split(b"OggS")[1:]]
    last = lengths[-1] + 4
    assert "does not end the stream" in problem(encoded("OGG")[:-last], tmp_path / "c")


@pytest.mark.parametrize(
    "kind", ["WAV", "RF64", "W64", "AIFF", "CAF", "AU", "FLAC", "OGG", "OGG/OPUS", "MP3", "bare"]
)
def test_files_joined_end_to_end_are_read_to_the_end(tmp_path: Path, kind: str) -> None:
    data = without_length(encoded("MP3")) if kind == "bare" else encoded(kind)
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(data)
    two.write_bytes(data * 2)
    alone, both = read_audio(one), read_audio(two)
    assert abs(len(both) - 2 * len(alone)) <= 0.04 * 16_000
    if kind != "bare":
        np.testing.assert_array_equal(both, np.concatenate([alone, alone]))
        part = read_audio(two, Excerpt(start_s=5.0, duration_s=2.0))  # of both
        np.testing.assert_allclose(part, both[80_000:112_000], atol=0.02)
    assert duration_s(two) == len(both) / 16_000


def test_what_is_joined_and_cut_or_of_another_rate_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for kind in ("WAV", "FLAC", "OGG", "MP3"):
        data = encoded(kind)
        assert "cut short" in problem(data + data[: len(data) // 2], path)
    assert "cut short" in problem(encoded("OGG")[:-2000] + encoded("OGG"), path)
    other = encoded("FLAC", sound(rate_hz=8_000), 8_000)
    assert "changes from 16000 Hz" in problem(encoded("FLAC") + other, path)


def test_headers_that_announce_too_little_are_not_believed(tmp_path: Path) -> None:
    path, wav = tmp_path / "a", encoded("WAV")
    second = patched(wav, 40, struct.pack("<I", 32_000))
    assert "1.000 s by its header, but 5.000 s follow" in problem(second, path)
    flac = encoded("FLAC")
    second = patched(flac, 22, struct.pack(">I", 16_000))
    assert "6.000 s of sound, but its header announces 1.000 s" in problem(second, path)
    mp3 = encoded("MP3")
    at = mp3.index(b"Xing") + 8 if b"Xing" in mp3 else mp3.index(b"Info") + 8
    path.write_bytes(patched(mp3, at, struct.pack(">I", 30)))
    assert len(read_audio(path)) / 16_000 == pytest.approx(SECONDS, abs=MP3_DELAY_S)


def test_damage_within_is_seen(tmp_path: Path) -> None:
    for kind in ("OGG", "OGG/OPUS", "MP3", "FLAC"):
        data = encoded(kind)
        hole = data[: len(data) // 2] + data[len(data) // 2 + 700 :]
        assert "a " in problem(hole, tmp_path / "a")


def test_rates_that_sound_does_not_have_are_refused_before_they_are_resampled(
    tmp_path: Path,
) -> None:
    for rate_hz in (1, 3_999, 768_001, 2_000_000_000):
        data = patched(encoded("WAV"), 24, struct.pack("<I", rate_hz))
        assert "expected 4,000 to 768,000" in problem(data, tmp_path / "a", "sample_rate")
    for rate_hz in (4_000, 768_000):
        (tmp_path / "a").write_bytes(patched(encoded("WAV"), 24, struct.pack("<I", rate_hz)))
        assert len(read_audio(tmp_path / "a")) == 96_000 * 16_000 // rate_hz
    with pytest.raises(AudioError, match="1 Hz"):
        resample(np.zeros(10, np.float32), 1)


def test_what_is_no_file_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.wav").mkdir()
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    (tmp_path / "a.wav").write_bytes(encoded("WAV"))
    for name, reason in (
        ("folder.wav", "not_a_file"),
        ("pipe.wav", "not_a_file"),
        ("/dev/zero", "not_a_file"),
        ("loop.wav", "unreadable"),
        ("gone.wav", "missing"),
        ("a.wav/b.wav", "missing"),
        ("x" * 300 + ".wav", "unreadable"),
        ("a\0.wav", "missing"),
        ("a\ud800.wav", "missing"),
    ):
        with pytest.raises(AudioError) as caught:
            read_audio(str(tmp_path / name))
        assert caught.value.reason == reason, name

    def refuse(error: int) -> None:
        def opened(*_: object, **__: object) -> None:
            raise OSError(error, os.strerror(error))

        monkeypatch.setattr(audio_files, "_walked", opened)

    refuse(13)
    with pytest.raises(AudioError, match="Permission denied"):
        read_audio(tmp_path / "a.wav")
    refuse(24)  # too many open files: no fault of this one
    with pytest.raises(OSError, match="Too many"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("kind", ["AU", "NIST"])
def test_a_header_that_ends_before_it_begins_is_walked_once(tmp_path: Path, kind: str) -> None:
    """Its sound would start where the header does, and so would the next stream, for ever."""
    data = encoded(kind)
    if kind == "AU":
        data = data[:4] + bytes(8) + data[12:]
    else:
        data = data[:8] + b"      0" + data[15:]
        count = data.index(b"sample_count -i ") + 16
        data = data[:count] + b"0" * 4 + data[count + 4 :]
    path = tmp_path / "a"
    path.write_bytes(data)
    assert reason_of(path) in ("unreadable", "empty", "read")


def test_excerpts_of_mp3_may_be_a_frame_longer_than_what_is_decoded(tmp_path: Path) -> None:
    for kind, most in (("MP3", 1_500), ("FLAC", 300)):
        path = tmp_path / kind
        path.write_bytes(encoded(kind))
        whole = read_audio(path)
        longer = Excerpt(duration_s=(len(whole) + most) / 16_000)
        np.testing.assert_array_equal(read_audio(path, longer), whole)
        with pytest.raises(AudioError, match="outside"):
            read_audio(path, Excerpt(duration_s=(len(whole) + most + 200) / 16_000))


def reason_of(path: Path) -> str:
    try:
        return "read" if len(read_audio(path)) else "nothing"
    except AudioError as error:
        return error.reason


def test_no_bytes_at_all_end_the_reading_of_others(tmp_path: Path) -> None:
    """Bytes changed, lost or put in, at random: sound or a reason, never another error."""
    random, path = np.random.default_rng(0), tmp_path / "a"
    kinds = ["WAV", "RF64", "W64", "AIFF", "CAF", "AU", "FLAC", "OGG", "OGG/OPUS", "MP3"]
    reasons: list[str] = []
    for kind in kinds:
        data = encoded(kind, sound(1.0))
        for number in range(12):
            changed = bytearray(data)
            reach = 120 if number % 2 else len(data)
            for place in random.integers(0, reach, 4):
                changed[place] = random.integers(0, 256)
            if number % 3 == 0:
                at = int(random.integers(0, reach))
                changed[at : at + int(random.integers(0, 30))] = random.bytes(number)
            path.write_bytes(changed)
            reasons.append(reason_of(path))
    known = {"unreadable", "sample_rate", "not_finite", "out_of_range", "silent", "empty"}
    assert set(reasons) <= known | {"read"}
    assert reasons.count("read") > 10
