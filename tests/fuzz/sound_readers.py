"""Folders of audio and WebDataset tars, with their sound."""

import hashlib
import io
import json
import os
import random
import tarfile
from itertools import chain
from pathlib import Path

import numpy as np

from megatron_speech.data.recording import Recording
from megatron_speech.data.recordings import find_recordings
from megatron_speech.errors import AudioError
from megatron_speech.speech_tokenizer.bulk.reading import read_windows
from tests.fuzz.audio_readers import write_sound
from tests.fuzz.mutations import damaged, damaged_json
from tests.fuzz.reader import Expected, Found, Reader

_NAMES = (
    "b.WAV",
    "c.txt",
    "d.flac.txt",
    "e.wav",
    "._a.wav",
    "x" * 250 + ".wav",
    "g\udcff.wav",
    "h.tar",
)


def _members() -> dict[str, bytes]:
    """Five recordings with their texts, in the ways there are."""
    from tempfile import TemporaryDirectory

    found = {}
    with TemporaryDirectory() as folder:
        for number, kind in enumerate(("wav", "flac", "ogg", "mp3", "opus")):
            path = Path(folder) / "sound"
            write_sound(path, kind, number)
            found[f"{kind}.{kind}"] = path.read_bytes()
            found[f"{kind}.txt"] = f"said in {kind}, günstig".encode()
    return found


def _sound_of(recording: Recording) -> str:
    windows = list(read_windows(recording, 1 << 16))
    return hashlib.sha256(np.concatenate(windows).tobytes()).hexdigest()


def _found(recordings: list[Recording], set_aside: list[str]) -> Found:
    items = []
    for recording in recordings:
        try:
            sound = _sound_of(recording)
        except AudioError:
            set_aside.append(recording.id)
        else:
            items.append((recording.id, (recording.text, recording.speaker, sound)))
    return Found(items, set_aside)


def _make_folder(folder: Path) -> None:
    for name, content in _members().items():
        (folder / name).write_bytes(content)


def _damage_folder(rng: random.Random, folder: Path) -> None:
    names = sorted(os.listdir(folder))
    for _ in range(rng.choice((1, 1, 2))):
        path = folder / rng.choice(names)
        action = rng.choice(("bytes",) * 6 + ("link", "folder", "new", "twice", "pipe"))
        if action == "new":
            new = folder / rng.choice(_NAMES)
            if not new.is_dir():
                new.write_bytes(damaged(rng, b"text" * 50, b"\0"))
            continue
        content = path.read_bytes() if path.is_file() else b""
        if action == "twice":
            (folder / path.name.upper()).write_bytes(content)
        elif action == "bytes" and path.is_file():
            path.write_bytes(damaged(rng, content, content[::-1]))
        elif path.is_file():
            path.unlink()
            if action == "link":
                path.symlink_to(rng.choice(("gone", ".", path.name, "/dev/zero", "/proc/self/mem")))
            elif action == "pipe":
                os.mkfifo(path)
            else:
                path.mkdir()


def _expect_folder(sample: Path, damaged: Path) -> Expected:
    """Recordings of which neither sound nor text was touched."""
    items = dict(_read_folder(sample).items)
    now = os.listdir(damaged)
    intact = {}
    for kind, value in items.items():
        files = (f"{kind}.{kind}", f"{kind}.txt")
        alone = sum(name.lower().startswith(f"{kind}.") for name in now) == 2
        if alone and all(_same(sample / name, damaged / name) for name in files):
            intact[kind] = value
    return Expected(intact=intact)


def _same(one: Path, two: Path) -> bool:
    return two.is_file() and not two.is_symlink() and one.read_bytes() == two.read_bytes()


def _read_folder(folder: Path) -> Found:
    found = find_recordings([folder])
    tars = [tar.read() for tar in found.archives]
    rejected = [item.id for item in chain(found.rejected, *(bad for _, bad in tars))]
    return _found([*found.listed, *chain(*(good for good, _ in tars))], rejected)


def _make_tar(folder: Path) -> None:
    facts = {"text": "as JSON", "speaker": "me", "language": "de", "n": 1}
    members = [
        ("ogg.json", json.dumps(facts).encode()) if name == "ogg.txt" else (name, content)
        for name, content in _members().items()
    ]
    (folder / "s.tar").write_bytes(_tar(members))


def _tar(members: list[tuple[str, bytes]], form: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form, errors="surrogateescape") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _members_of(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore


def _damage_tar(rng: random.Random, folder: Path) -> None:
    path = folder / "s.tar"
    content = path.read_bytes()
    action = rng.choice(("bytes", "header", "header", "member", "member", "name"))
    if action == "bytes":
        path.write_bytes(damaged(rng, content, content[1024:]))
        return
    members = _members_of(path)
    at = rng.randrange(len(members))
    name, held = members[at]
    if action == "header":
        path.write_bytes(_with_odd_header(rng, content))
        return
    if action == "member":
        if name.endswith(".json"):
            held = damaged_json(rng, json.loads(held)).encode("utf-8", "surrogatepass")
        else:
            held = damaged(rng, held, members[0][1])
    else:
        ending = name.partition(".")[2]
        name = rng.choice(
            (
                f"a/b/../{name}",
                f"./{name}",
                name.upper(),
                f"{'x' * 300}.{ending}",
                f"x.y.{ending}",
                f"\udcff.{ending}",
                f"/{name}",
                f"a\n.{ending}",
                f".{ending}",
                members[0][0],
                "dir/",
            )
        )
    members[at] = (name, held)
    path.write_bytes(_tar(members, rng.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))))


def _with_odd_header(rng: random.Random, content: bytes) -> bytes:
    """One header with a field of another kind, and a checksum that is right again."""
    starts = [at for at in range(0, len(content), 512) if content[at + 257 : at + 262] == b"ustar"]
    start = rng.choice(starts)
    header = bytearray(content[start : start + 512])
    at, size = rng.choice(
        ((0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (345, 155))
    )
    one = bytes([rng.randrange(256)])
    values = (
        *(rng.randbytes(size), b"7" * size, b"\xff" * size, b"\0" * size, b"-1".ljust(size, b" ")),
        b"\x80" + b"\0" * (size - 2) + b"\xff" if size > 1 else one,
        rng.choice((b"L", b"K", b"x", b"g", b"S", b"1", b"2", b"5", b"V")) * size,
    )
    header[at : at + size] = rng.choice(values)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return content[:start] + bytes(header) + content[start + 512 :]


def _expect_tar(sample: Path, damaged: Path) -> Expected:
    """Samples of which each member is as it was, where the tar still can be walked."""
    items = dict(_read_tar(sample).items)
    try:
        before, now = (_members_of(folder / "s.tar") for folder in (sample, damaged))
    except Exception:  # it is damaged: whatever is said of it
        return Expected()
    intact = {}
    for kind in {name.partition(".")[0] for name, _ in before}:
        was, is_now = (
            [(name, content) for name, content in members if _key(name) == kind]
            for members in (before, now)
        )
        if was == is_now and kind in " ".join(items):
            intact[f"s:{kind}"] = items[f"s:{kind}"]
    return Expected(intact=intact)


def _key(name: str) -> str:
    return name.removeprefix("./").partition(".")[0]


def _read_tar(folder: Path) -> Found:
    found = find_recordings([folder / "s.tar"])
    recordings, rejected = found.archives[0].read()
    return _found(recordings, [item.id for item in rejected])


SOUND = [
    Reader("folder of audio", _make_folder, _damage_folder, _read_folder, _expect_folder, True),
    Reader("tar", _make_tar, _damage_tar, _read_tar, _expect_tar, True),
]
