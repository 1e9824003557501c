"""WebDataset tars: neighbouring members that share a key are one sample. Imports no torch."""

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..io.json_lines import parse_object
from ..io.rejected import Rejected
from .list_files import as_text
from .manifest import distinct
from .recording import AUDIO_SUFFIXES, Recording
from .texts import MOST_TEXT_BYTES, decoded_text

_TEXTS = (".txt", ".json")
_FIELDS = ("text", "language", "speaker")
# What headers that no program wrote on purpose make tarfile raise.
_BAD_HEADER = (tarfile.TarError, EOFError, ValueError, ArithmeticError, RecursionError)


@dataclass
class _Sample:
    """Members `key.ending` that stand together; the ending begins behind the first dot."""

    key: str
    members: list[tuple[str, tarfile.TarInfo]] = field(default_factory=list)

    def ending_in(self, suffixes: Any) -> list[tuple[str, tarfile.TarInfo]]:
        """Members with one of some suffixes, in capitals or not, by what stands before it."""
        found = []
        for ending, member in self.members:
            stem, suffix = os.path.splitext(f"x.{ending}")
            if suffix.lower() in suffixes:
                found.append((stem[2:], member))
        return found


@dataclass(frozen=True)
class TarFile:
    """A tar of samples `key.flac`, `key.txt` (the text) or `key.json` (text, language, speaker).

    Keys end at the first dot of a name; where recordings of one key differ behind it, each is a
    sample with the texts that are called like it.
    """

    path: Path
    name: str
    """A sample's id is `<name>:<key>`."""

    def read(self) -> tuple[list[Recording], list[Rejected]]:
        """The recordings in the tar, in its order, and what cannot be used; no audio is read."""
        rejected: list[Rejected] = []
        try:
            with tarfile.open(self.path, "r:") as tar:
                return list(distinct(self._recordings(tar), rejected)), rejected
        except (*_BAD_HEADER, OSError) as error:
            detail = f"{self.path} cannot be read as an uncompressed tar: {error}"
            return [], [Rejected(self.name, "unreadable_tar", detail)]

    def _recordings(self, tar: tarfile.TarFile) -> Iterator[Recording | Rejected]:
        for sample in self._samples(tar):
            if isinstance(sample, Rejected):
                yield sample
            else:
                yield from self._usable(tar, sample)

    def _samples(self, tar: tarfile.TarFile) -> Iterator[_Sample | Rejected]:
        sample = _Sample("")
        try:
            for member in _members(tar):
                name = member.name.removeprefix("./")
                folder, slash, file_name = name.rpartition("/")
                stem, _, ending = file_name.partition(".")
                own_note = stem.startswith("__") and stem.endswith("__")  # WebDataset's
                if member.isdir() or not stem or own_note:
                    continue
                key = folder + slash + stem
                if key != sample.key:
                    if sample.members:
                        yield sample
                    sample = _Sample(key)
                sample.members.append((ending, member))
        except _BAD_HEADER as error:  # what came before is whole
            if sample.members:
                yield sample
            yield Rejected(self.name, "damaged_tar", f"{self.path} ends early: {error}")
        else:
            if sample.members:
                yield sample

    def _usable(self, tar: tarfile.TarFile, sample: _Sample) -> Iterator[Recording | Rejected]:
        name = f"{self.name}:{sample.key}"
        audio, texts = sample.ending_in(AUDIO_SUFFIXES), sample.ending_in(_TEXTS)
        held = f"the sample holds {', '.join(ending for ending, _ in sample.members)}"
        stems = {stem for stem, _ in audio}
        shared = [member for stem, member in texts if stem not in stems]
        if len(stems) < len(audio) or (len(audio) > 1 and shared):
            yield Rejected(name, "several_recordings", held)
            return
        if not audio:
            yield Rejected(name, "no_audio", held)
        for stem, member in audio:
            own = [text for found, text in texts if found == stem]
            if not own:
                own = [text for found, text in texts if not found]
            full_name = f"{name}.{stem}" if stem else name
            if texts and not own:
                yield Rejected(full_name, "bad_text", f"whose is the text? {held}")
            else:
                yield self._recording(tar, full_name, member, own)

    def _recording(
        self,
        tar: tarfile.TarFile,
        name: str,
        member: tarfile.TarInfo,
        texts: list[tarfile.TarInfo],
    ) -> Recording | Rejected:
        try:
            as_text(name)
        except UnicodeError:
            return Rejected(name, "invalid_utf8", "its name in the tar is no UTF-8")
        if not member.isreg() or member.issparse():
            return Rejected(name, "not_a_file", f"{member.name} is a link, or has holes")
        try:
            known: dict[str, Any] = dict(_known(tar, texts))
        except (*_BAD_HEADER, KeyError) as error:
            return Rejected(name, "bad_text", str(error)[:200])
        place = (member.offset_data, member.size)
        return Recording(id=name, path=str(self.path), tar_place=place, **known)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Members in their order.

    Raises:
        TarError: a size below zero, by which tarfile would go back and never end.
    """
    for member in tar:
        if member.size < 0 or member.offset_data < member.offset:
            raise tarfile.TarError(f"{member.name!r} of {member.size} bytes")
        yield member


def _known(tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> dict[str, str]:
    """Text, language and speaker of a sample, as far as it says; what a .txt says goes first.

    Raises:
        ValueError: no UTF-8, no JSON object, too long to be one utterance's, or two of a kind.
        KeyError: a link to what the tar does not hold.
    """
    known: dict[str, str] = {}
    kinds = [os.path.splitext(member.name)[1].lower() for member in members]
    if len(set(kinds)) < len(kinds):
        raise ValueError(f"two texts: {', '.join(member.name for member in members)}")
    for kind, member in sorted(zip(kinds, members, strict=True), key=lambda each: each[0]):
        if member.size > MOST_TEXT_BYTES:
            raise ValueError(f"{member.name} of {member.size} bytes")
        stream = tar.extractfile(member)
        if stream is None:
            raise ValueError(f"{member.name} is no file")
        content = stream.read(MOST_TEXT_BYTES)
        if kind == ".txt":
            known["text"] = decoded_text(content)
            continue
        values = parse_object(member.name, content)
        if isinstance(values, Rejected):
            raise ValueError(values.detail)
        said = {name: as_text(values[name]) for name in _FIELDS if values.get(name) is not None}
        known |= said
    return known
