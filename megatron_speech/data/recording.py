"""One recording of a bulk job. Imports no torch."""

from dataclasses import dataclass

AUDIO_SUFFIXES = frozenset(
    ".wav .flac .ogg .oga .opus .mp3 .aif .aiff .aifc .au .caf .w64 .rf64 .sph "
    ".m4a .mp4 .aac .wma .webm .amr".split()
)
"""Names of audio files. Those of the last row cannot be read: they are set aside with a reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Where some audio is, and what is known of it."""

    id: str
    """Unique; sentence n of a longer recording is called `<document>/<nnn>`."""
    path: str
    """The file that holds it."""
    text: str = ""
    speaker: str = ""
    language: str = ""
    duration_s: float = 0.0
    """Length as the list gives it; 0 if it does not say. Nothing relies on it."""
    start_s: float = 0.0
    """Where it begins in the file."""
    length_s: float | None = None
    """How much of the file it is; None goes on to the end."""
    channels: tuple[int, ...] | None = None
    """Channels that are averaged; None takes all."""
    tar_place: tuple[int, int] | None = None
    """Offset and size in bytes within `path`, where that is a tar."""
    parquet_place: tuple[int, int] | None = None
    """Row group and row within it, where `path` is Parquet (or its URL) with sound in its rows."""
    license: str = ""
    """Under which licence it may be used, in its list's words."""
    consent: str = ""
    """Whether who speaks agreed, in its list's words."""
