"""Recordings longer than a window are cut between words, and lose none of them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_speech.data.manifest import ManifestRow
from megatron_speech.io.parquet import write_parquet
from megatron_speech.speech_tokenizer.dataset import AsrDataset, SpeechDataConfig
from megatron_speech.speech_tokenizer.long_recordings import Piece, cut_long
from megatron_speech.speech_tokenizer.text import AsrText


def recording(words: int, duration_s: float, text: str | None = None) -> ManifestRow:
    text = text or " ".join(f"w{n}" for n in range(words))
    return ManifestRow(id="r", path=Path("r.wav"), text=text, duration_s=duration_s, speaker="ann")


def spaced(pauses: list[float], word_s: float = 0.4) -> np.ndarray:
    """Times of words of equal length, each after its pause."""
    stops = np.cumsum(np.array(pauses) + word_s)
    return np.stack([stops - word_s, stops], axis=1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 3), min_size=20, max_size=120), st.floats(0, 2))
def test_pieces_cover_the_recording_and_fit_the_window(pauses, tail_s):
    times = spaced(pauses)
    row = recording(len(pauses), float(times[-1, 1]) + tail_s)
    pieces = cut_long(row, times, 10.0)
    assert " ".join(piece.text for piece in pieces) == row.text
    if row.duration_s <= 10:
        assert pieces == [row]
        return
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert max(piece.duration_s for piece in pieces) <= 10 + 1e-9
    ends = [piece.start_s + piece.duration_s for piece in pieces]
    assert [0.0, *ends[:-1]] == pytest.approx([piece.start_s for piece in pieces])
    assert ends[-1] == pytest.approx(row.duration_s)
    for piece in pieces:  # no word is cut in two
        inside = (times[:, 0] >= piece.start_s - 1e-9) & (
            times[:, 1] <= piece.start_s + 1e-9 + (piece.duration_s)
        )
        assert inside.sum() == len(piece.text.split())
        assert piece.id == f"r:{piece.text.split()[0][1:]}"
        assert piece.speaker == "ann"


def test_the_longest_pause_is_chosen():
    pauses = [0.1] * 30
    pauses[18] = 1.0
    times = spaced(pauses)
    first, second = cut_long(recording(30, float(times[-1, 1])), times, 12.0)
    assert len(first.text.split()) == 18
    assert first.duration_s == pytest.approx(times[17, 1] + 0.5)
    assert second.text.startswith("w18 ")


@pytest.mark.parametrize(
    "times",
    [
        None,
        spaced([0.1] * 29),  # of other words
        spaced([0.1] * 30)[::-1],
        np.full((30, 2), np.nan),
        spaced([20.0] + [0.1] * 29),  # the first word comes after a whole window
    ],
)
def test_without_fitting_times_a_recording_stays_whole(times):
    row = recording(30, 40.0)
    assert cut_long(row, times, 12.0) == [row]


def test_a_long_recording_is_trained_on_in_pieces(tiny_config, text_folder, tmp_path):
    rate, seconds = 16_000, 36
    sound = 0.01 * np.ones(rate * seconds)
    sound[rate * 20 :] = 0.5  # loud from the twentieth second on
    soundfile.write(tmp_path / "long.wav", sound, rate)
    rows = [
        ManifestRow(id="long", path=tmp_path / "long.wav", text="the cat sat", duration_s=seconds),
        ManifestRow(id="untimed", path=tmp_path / "long.wav", text="a dog", duration_s=seconds),
    ]
    times = {"id": ["long"], "start_s": [[1.0, 21.0, 30.0]], "stop_s": [[19.0, 29.0, 35.0]]}
    write_parquet(tmp_path / "times.parquet", pa.table(times))
    data = SpeechDataConfig(alignments=tmp_path / "times.parquet")
    found = AsrDataset([rows], AsrText(text_folder), tiny_config, data)
    assert [row.text for row in found.rows] == ["the", "cat sat"]
    assert [(item.id, item.reason) for item in found.rejected] == [("untimed", "too_long")]
    assert found.durations_s == [20.0, 16.0]
    batch = found.batch([0, 1])
    assert batch.mel_lengths.tolist() == [2000, 1600]
    quiet, loud = batch.mel[0, :, 10:1990].mean(), batch.mel[1, :, 10:1590].mean()
    assert loud > quiet
    cached = SpeechDataConfig(alignments=tmp_path / "times.parquet", cache_features=True)
    again = AsrDataset([rows], AsrText(text_folder), tiny_config, cached)
    assert [row.text for row in again.rows] == ["the", "cat sat"]
