"""Kaldi's folders: `wav.scp` and the tables beside it. Imports no torch."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..io.rejected import Rejected
from .list_files import keyed_table
from .manifest import seconds
from .recording import Recording

KALDI_TABLES = ("text", "segments", "utt2spk", "utt2lang", "utt2dur")
"""What is read besides `wav.scp`, as far as it is there."""


def kaldi_lists(folder: Path, folders: Sequence[str], files: Sequence[str]) -> list[str]:
    return ["wav.scp"] if "wav.scp" in files else []


def read_kaldi(folder: Path, name: str, root: Path | None) -> Iterator[Recording | Rejected]:
    """Utterances of `segments`, or else recordings of `wav.scp`, with what is known of them.

    Nothing is run: an entry that is a command is set aside. Relative paths start from `root`, else
    from the folder (Kaldi's own start from where a recipe runs).
    """
    bad: list[Rejected] = []
    sounds = keyed_table(folder / name, bad)
    texts, speakers, languages, lengths = (
        keyed_table(folder / known, bad) if (folder / known).is_file() else {}
        for known in ("text", "utt2spk", "utt2lang", "utt2dur")
    )
    yield from bad
    parts: dict[str, tuple[str, ...]] = {name: (name,) for name in sounds}
    if (folder / "segments").is_file():
        bad = []
        segments = keyed_table(folder / "segments", bad)
        parts = {name: tuple(place.split()) for name, place in segments.items()}
        yield from bad
    for name, place in parts.items():
        found = _place_of(name, place, sounds)
        if isinstance(found, Rejected):
            yield found
            continue
        yield Recording(
            id=name,
            path=str((root or folder) / sounds[place[0]]),
            text=texts.get(name, ""),
            speaker=speakers.get(name, ""),
            language=languages.get(name, ""),
            duration_s=found[1] or seconds(lengths.get(name, 0.0)) or 0.0,
            start_s=found[0],
            length_s=found[1],
        )
    for name in sorted(texts.keys() - parts.keys()):
        yield Rejected(name, "no_audio", f"{folder / 'text'} has it, no list of sound does")


def _place_of(
    name: str, place: tuple[str, ...], sounds: dict[str, str]
) -> tuple[float, float | None] | Rejected:
    """Where an utterance begins in its recording, and how long it is."""
    sound = sounds.get(place[0]) if place else None
    if sound is None:
        return Rejected(name, "no_audio", f"wav.scp has no {' '.join(place[:1])!r}")
    if sound.endswith("|") or sound.startswith("|"):
        detail = f"{sound[:150]!r} is a command, and none is run; write its sound to files first"
        return Rejected(name, "shell_pipe", detail)
    if re.search(r"\.ark:\d+$", sound):
        return Rejected(name, "kaldi_archive", f"{sound!r}; write its sound to files first")
    if len(place) == 1:
        return 0.0, None
    start_s, end_s = (seconds(value) for value in (*place[1:3], None)[:2])
    if start_s is not None and place[2:] == ("-1",):
        return start_s, None
    if start_s is None or end_s is None or len(place) != 3 or end_s <= start_s:
        return Rejected(name, "bad_duration", f"{' '.join(place)[:150]!r}, expected start and end")
    return start_s, end_s - start_s
