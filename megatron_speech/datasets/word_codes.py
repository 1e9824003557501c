"""The codes of some words of a recording, where their times are known (data/alignments.py)."""

from dataclasses import dataclass

import numpy as np

from ..data.alignments import Alignments
from ..data.code_shards import CodeRecord
from ..text.words import word_bounds


@dataclass(frozen=True)
class SpokenText:
    """A record's text with single spaces, its codes (n,), and where its words are.

    `words` (w, 2) are characters; `word_codes` (w, 2) the codes of each word, None where times are
    unknown or are those of another number of words.
    """

    record: CodeRecord
    text: str
    words: np.ndarray
    word_codes: np.ndarray | None

    def codes(self, start: int, stop: int) -> np.ndarray | None:
        """Codes of characters start..stop, which are borders of words; None if times are missing.

        The whole text has all codes, with the silence around it.
        """
        whole = self.record.codes
        if start <= 0 and stop >= len(self.text):
            return whole
        if self.word_codes is None:
            return None
        first = np.searchsorted(self.words[:, 0], start)
        last = np.searchsorted(self.words[:, 1], stop)
        begin = 0 if start <= 0 else self.word_codes[first, 0]
        end = len(whole) if stop >= len(self.text) else self.word_codes[last, 1]
        return whole[begin:end]


def spoken_text(
    record: CodeRecord, alignments: Alignments | None, frame_rate_hz: float
) -> SpokenText:
    """A record with its words' codes: from the frame a word begins in to the one it ends in."""
    text = " ".join((record.text or "").split())
    words = word_bounds(text)
    times = None if alignments is None else alignments.times(record.id)
    if times is None or len(times) != len(words):
        return SpokenText(record, text, words, None)
    frames = np.stack([np.floor(times[:, 0] * frame_rate_hz), np.ceil(times[:, 1] * frame_rate_hz)])
    frames = np.clip(np.nan_to_num(frames.T), 0, len(record.codes)).astype(np.int64)
    return SpokenText(record, text, words, frames)


def cut_windows(
    spoken: SpokenText, starts: np.ndarray, stops: np.ndarray, frame_rate_hz: float
) -> list[CodeRecord]:
    """Records of words starts..stops (n,) of a record with word times.

    Ids are `<record>:<first word>`. Times that are wrong may leave one without codes.
    """
    record, found = spoken.record, []
    for first, last in zip(starts, stops, strict=True):
        start, stop = int(spoken.words[first, 0]), int(spoken.words[last - 1, 1])
        codes = spoken.codes(start, stop)
        if codes is None:
            continue
        found.append(
            CodeRecord(
                id=f"{record.id}:{first}",
                codes=codes,
                text=spoken.text[start:stop],
                language=record.language,
                duration_s=len(codes) / frame_rate_hz,
                speaker=record.speaker,
            )
        )
    return found
