"""Recordings of people as manifests: telephone prompts in five languages, clips of LibriVox."""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import soundfile

from megatron_speech.data.manifest import ManifestRow, write_manifest
from megatron_speech.errors import DataError

_NO_SPEECH = re.compile(
    r"silence/.*|beep(err)?|(a|de)scending-2tone|tt-monkeys|confbridge-(join|leave)"
)
_AT_ONCE = 64  # files that one ffmpeg reads
_LINE = re.compile(r"<s>\s*(?P<text>.*?)\s*</s>\s*\((?P<name>[^()]+)\)")


def make_prompts(members: Mapping[str, bytes], folder: Path, *, language: str) -> None:
    """Decode prompts (G.722, raw) to FLAC of 16 kHz; `text` is empty, for it is not in the package.

    Raises:
        DataError: no ffmpeg on PATH, or it cannot decode them.
    """
    if shutil.which("ffmpeg") is None:
        raise DataError("ffmpeg, which decodes G.722, is not on PATH: apt-get install ffmpeg")
    named = {_prompt(path): content for path, content in members.items()}
    named = {name: content for name, content in named.items() if not _NO_SPEECH.fullmatch(name)}
    names = sorted(named)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for start in range(0, len(names), _AT_ONCE):
            batch = names[start : start + _AT_ONCE]
            raw = [Path(scratch) / f"{start + n}.g722" for n in range(len(batch))]
            for file, name in zip(raw, batch, strict=True):
                file.write_bytes(named[name])
            _decode(raw, [_audio(folder, name) for name in batch])
    rows = [_row(folder, f"prompts-{language}", name, "", language) for name in names]
    write_manifest(folder / "manifest.parquet", rows)


def make_librivox(members: Mapping[str, bytes], folder: Path) -> None:
    """Recordings of 16 kHz beside the words that are said in them, in lower case.

    Raises:
        DataError: a recording has no transcript.
    """
    (listed,) = (text for path, text in members.items() if path.endswith("transcription"))
    found = (_LINE.fullmatch(line.strip()) for line in listed.decode("utf-8").splitlines())
    texts = {match["name"]: match["text"] for match in found if match}
    rows = []
    for path, content in members.items():
        if not path.endswith(".wav"):
            continue
        name = Path(path).stem
        if name not in texts:
            raise DataError(f"{path} has no transcript")
        _audio(folder, name, ".wav").write_bytes(content)
        rows.append(_row(folder, "librivox", name, texts[name], "en", ".wav"))
    write_manifest(folder / "manifest.parquet", rows)


def _prompt(path: str) -> str:
    """The name of a prompt: its path below the voice's folder, as `digits/1`."""
    return path.split("/sounds/")[1].split("/", 1)[1].removesuffix(".g722")


def _audio(folder: Path, name: str, suffix: str = ".flac") -> Path:
    path = folder / "audio" / f"{name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _row(
    folder: Path, source: str, name: str, text: str, language: str, suffix: str = ".flac"
) -> ManifestRow:
    path = _audio(folder, name, suffix)
    length = soundfile.info(path).duration
    return ManifestRow(id=f"{source}-{name.replace('/', '-')}", path=path, text=text,
                       speaker=source, language=language, duration_s=length)  # fmt: skip


def _decode(raw: Sequence[Path], flac: Sequence[Path]) -> None:
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-y"]
    for file in raw:
        command += ["-f", "g722", "-i", str(file)]
    for n, file in enumerate(flac):
        command += ["-map", f"{n}:a", "-ar", "16000", "-ac", "1", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise DataError(f"ffmpeg could not decode the prompts: {said[-1]}")
