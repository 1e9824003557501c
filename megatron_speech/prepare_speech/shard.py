"""One shard of recordings: heard, cut, read, and judged."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import batched, groupby
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import SAMPLE_RATE_HZ, resample
from ..data.reading import stream_recording
from ..data.recording import Recording
from ..errors import AudioError
from ..io.audio_files import encoded
from ..io.files import atomic_path
from ..io.rejected import Rejected
from ..text.repetition import repetition
from .config import PrepareConfig
from .duplicates import fingerprint
from .filters import Candidate, disagreement, reject_reading, reject_sound
from .measures import Sound, measure_sound
from .readers import Reader, Reading
from .segments import LONGEST_S, Segment, find_segments, slices
from .transcripts import distribute
from .voice_activity import FRAME_SAMPLES, VoiceActivity

_CLIPS_AT_ONCE = 64
_HEARD_PER_REASON = 2
"""Segments of a shard that are set aside for a reason and kept to be heard in the report."""
KEPT = "kept"


@dataclass(frozen=True)
class Readers:
    """Who hears and reads."""

    voice: VoiceActivity
    first: Reader
    second: Reader


@dataclass
class Heard:
    """What a shard has come to."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """Segments, in order: columns of a part."""
    rejected: list[Rejected] = field(default_factory=list)
    """Recordings of which nothing was taken."""
    recordings: int = 0
    seconds: float = 0.0
    """Of all recordings that could be read."""
    speech_s: float = 0.0


@dataclass
class _Piece:
    """A segment on its way."""

    id: str
    recording: Recording
    segment: Segment
    path: Path
    sound: Sound | None = None
    marks: tuple[np.ndarray, np.ndarray] | None = None
    first: Reading | None = None
    second: Reading | None = None
    """Of a recording without transcript, which is its own second reading."""
    rejected: Rejected | None = None


def hear(
    recordings: Sequence[Recording], readers: Readers, config: PrepareConfig, audio: Path
) -> Heard:
    """Segments of a shard's recordings; their sound is written to the folder `audio`."""
    found, pieces = Heard(), list[_Piece]()
    audio.mkdir(parents=True, exist_ok=True)
    for batch in batched(_sounds(recordings, readers, config, audio, found), _CLIPS_AT_ONCE):
        pieces += [piece for piece, _ in batch]
        _read([each for each in batch if each[0].rejected is None], readers, config)
    for _, group in groupby(pieces, key=lambda piece: id(piece.recording)):
        own = list(group)
        recording = own[0].recording
        texts = [piece.first.text if piece.first else "" for piece in own]
        if recording.text.strip():
            texts = distribute(recording.text.strip(), texts) if len(own) > 1 else [recording.text]
        for piece, text in zip(own, texts, strict=True):
            found.rows.append(_judged(piece, text.strip(), config))
    _leave_kept(found.rows, audio.parent)
    return found


def _sounds(
    recordings: Sequence[Recording],
    readers: Readers,
    config: PrepareConfig,
    folder: Path,
    found: Heard,
) -> Iterator[tuple[_Piece, np.ndarray]]:
    number = 0
    for recording in recordings:
        try:
            refused = _terms(recording, config)
            segments = [] if refused else _segments(recording, readers, found)
            if refused or not segments:
                nobody = Rejected(recording.id, "no_speech", "nobody speaks in it")
                found.rejected.append(refused or nobody)
                continue
        except AudioError as error:
            found.rejected.append(Rejected(recording.id, error.reason, str(error)))
            continue
        parts = slices(stream_recording(recording), segments, SAMPLE_RATE_HZ)
        for at, (segment, audio) in enumerate(parts):
            name = f"{recording.id}/{at:04d}"
            piece = _Piece(name, recording, segment, folder / f"{number:06d}.flac")
            number += 1
            piece.sound = measure_sound(audio)
            piece.rejected = reject_sound(name, segment, piece.sound, config.keep)
            if piece.rejected is None:
                piece.marks = fingerprint(audio)
            _write_flac(piece.path, audio)
            yield piece, audio


def _terms(recording: Recording, config: PrepareConfig) -> Rejected | None:
    """Why a recording may not be used."""
    wanted = (("license", config.keep.licenses), ("consent", config.keep.consents))
    for name, allowed in wanted:
        said = getattr(recording, name)
        if allowed and said.casefold() not in {each.casefold() for each in allowed}:
            detail = f"{said!r}, expected {' or '.join(map(repr, allowed))}"
            return Rejected(recording.id, name, detail)
    return None


def _segments(recording: Recording, readers: Readers, found: Heard) -> list[Segment]:
    samples = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal samples
        for block in stream_recording(recording):
            samples += len(block)
            yield block

    probabilities = readers.voice.probabilities(counted())
    length_s = samples / SAMPLE_RATE_HZ
    segments = find_segments(probabilities, length_s)
    found.recordings += 1
    found.seconds += length_s
    found.speech_s += sum(segment.length_s for segment in segments)
    if segments and recording.text.strip() and length_s <= LONGEST_S:  # its text is all of its
        share = float((probabilities > 0.5).mean()) if len(probabilities) else 0.0
        share = min(share * len(probabilities) * FRAME_SAMPLES / max(samples, 1), 1.0)
        return [Segment(0.0, round(length_s, 3), share)]
    return segments


def _read(
    batch: Sequence[tuple[_Piece, np.ndarray]], readers: Readers, config: PrepareConfig
) -> None:
    if not batch:
        return
    clips = [audio for _, audio in batch]
    told = [piece.recording.language or config.language for piece, _ in batch]
    first = readers.first.read(clips, told, config.silence_s)
    for (piece, _), reading in zip(batch, first, strict=True):
        piece.first = reading
    unread = [n for n, (piece, _) in enumerate(batch) if not piece.recording.text.strip()]
    languages = [first[n].language for n in unread]
    again = [resample(clips[n], SAMPLE_RATE_HZ * config.second_speed) for n in unread]
    second = readers.second.read(again, languages, config.silence_s)
    for n, reading in zip(unread, second, strict=True):
        batch[n][0].second = reading


def _judged(piece: _Piece, text: str, config: PrepareConfig) -> dict[str, Any]:
    """A row of a part."""
    recording, segment, sound, first = piece.recording, piece.segment, piece.sound, piece.first
    assert sound is not None
    row: dict[str, Any] = {
        "id": piece.id,
        "path": str(piece.path.relative_to(config.output)),
        "recording": recording.id,
        "start_s": segment.start_s,
        "duration_s": round(segment.length_s, 3),
        "text": text,
        "speaker": recording.speaker,
        "language": recording.language or config.language,
        "license": recording.license,
        "consent": recording.consent,
        "speech_share": segment.speech_share,
        **asdict(sound),
    }
    rejected = piece.rejected
    if first is not None:
        candidate = Candidate(
            id=piece.id,
            segment=segment,
            sound=sound,
            text=text,
            first=first,
            second=piece.second.text if piece.second else text,
            has_transcript=bool(recording.text.strip()),
        )
        rejected = reject_reading(candidate, config.keep)
        row |= {
            "language": first.language,
            "reading": first.text,
            "second_reading": candidate.second,
            "log_probability": first.log_probability,
            "language_probability": first.language_probability,
            "no_speech": first.no_speech,
            "disagreement": disagreement(candidate),
            "repetition": repetition(first.text),
        }
    row["status"] = KEPT if rejected is None else rejected.reason
    row["detail"] = "" if rejected is None else rejected.detail
    if rejected is None and piece.marks is not None:
        row["marks"], row["frames"] = piece.marks
    return row


def _leave_kept(rows: Sequence[dict[str, Any]], output_audio: Path) -> None:
    """Remove the sound of what was set aside, but for some of each reason."""
    seen: Counter[str] = Counter()
    for row in rows:
        seen[row["status"]] += 1
        if row["status"] != KEPT and seen[row["status"]] > _HEARD_PER_REASON:
            (output_audio.parent / row["path"]).unlink(missing_ok=True)
            row["path"] = ""


def _write_flac(path: Path, audio: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded(audio, SAMPLE_RATE_HZ))
