"""WebDataset tars: neighbouring members that share a key are one sample. Imports no torch."""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..json_lines import is_unicode
from ..rejected import Rejected
from .manifest import distinct
from .recording import AUDIO_SUFFIXES, Recording

_TEXTS = ("txt", "json")
_MOST_TEXT_BYTES = 1 << 20
_FIELDS = ("text", "language", "speaker")


@dataclass(frozen=True)
class TarFile:
    """A tar of samples `key.flac`, `key.txt` (the text) or `key.json` (text, language, speaker)."""

    path: Path
    name: str
    """A sample's id is `<name>:<key>`."""

    def read(self) -> tuple[list[Recording], list[Rejected]]:
        """The recordings in the tar, in its order, and what cannot be used; no audio is read."""
        rejected: list[Rejected] = []
        try:
            with tarfile.open(self.path, "r:") as tar:
                return list(distinct(self._samples(tar), rejected)), rejected
        except (tarfile.TarError, OSError) as error:
            detail = f"{self.path} cannot be read as an uncompressed tar: {error}"
            return [], [Rejected(self.name, "unreadable_tar", detail)]

    def _samples(self, tar: tarfile.TarFile) -> Iterator[Recording | Rejected]:
        key, members = "", {}
        try:
            for member in tar:
                name = member.name.removeprefix("./")
                folder, slash, file_name = name.rpartition("/")
                stem, _, ending = file_name.partition(".")
                own_note = stem.startswith("__") and stem.endswith("__")  # WebDataset's
                if not member.isreg() or not stem or own_note:
                    continue
                if folder + slash + stem != key:
                    if members:
                        yield self._sample(tar, key, members)
                    key, members = folder + slash + stem, {}
                members[ending] = member
            if members:
                yield self._sample(tar, key, members)
        except tarfile.TarError as error:  # what came before is whole
            if members:
                yield self._sample(tar, key, members)
            yield Rejected(self.name, "damaged_tar", f"{self.path} ends early: {error}")

    def _sample(
        self, tar: tarfile.TarFile, key: str, members: dict[str, tarfile.TarInfo]
    ) -> Recording | Rejected:
        name = f"{self.name}:{key}"
        if not is_unicode(name):
            return Rejected(ascii(name), "invalid_utf8", "its name in the tar is no UTF-8")
        audio = [
            ending for ending in members if f".{ending.split('.')[-1].lower()}" in AUDIO_SUFFIXES
        ]
        if len(audio) != 1:
            reason = "several_recordings" if audio else "no_audio"
            return Rejected(name, reason, f"the sample holds {', '.join(members)}")
        try:
            known: dict[str, Any] = dict(_texts(tar, members))
        except (ValueError, RecursionError, tarfile.TarError) as error:
            return Rejected(name, "bad_text", str(error)[:200])
        member = members[audio[0]]
        place = (member.offset_data, member.size)
        return Recording(id=name, path=str(self.path), tar_place=place, **known)


def _texts(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> dict[str, str]:
    """Text, language and speaker of a sample, as far as it says.

    Raises:
        ValueError: no UTF-8, no JSON object, or too long to be one utterance's.
    """
    known: dict[str, str] = {}
    for ending in _TEXTS:
        member = members.get(ending)
        if member is None:
            continue
        if member.size > _MOST_TEXT_BYTES:
            raise ValueError(f".{ending} of {member.size} bytes")
        stream = tar.extractfile(member)
        assert stream is not None
        content = stream.read().decode("utf-8")
        if ending == "txt":
            known["text"] = content.strip()
        else:
            values = json.loads(content)
            if not isinstance(values, dict):
                raise ValueError(f".json holds {type(values).__name__}, expected an object")
            given = {name: values[name] for name in _FIELDS if values.get(name) is not None}
            known = {name: str(value) for name, value in given.items()} | known
    if not is_unicode(*known.values()):
        raise ValueError("half a surrogate pair")
    return known
