"""Spoken versions of a list of texts: FLAC files and a manifest, by espeak-ng or Piper in parallel.

The unit of work is a block of consecutive texts, spoken by a process of its own: what a block
sounds like depends on its texts and the seed alone, never on the number of workers, their order or
how often they were stopped. A finished block is a folder that appeared whole:

    output/manifest.parquet       written last
    output/speech.json            what the audio is of; another list or seed is refused
    output/rejected.jsonl         texts that could not be spoken: id, reason, detail
    output/audio/00000/*.flac     16 kHz mono; block.json beside them lists them

Imports no torch.
"""

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

from ..data.manifest import ManifestRow, write_manifest
from ..errors import ConfigError, DataError
from ..io.audio_files import encoded
from ..io.files import fingerprint_of, is_abandoned, read_json, temporary_beside, write_json
from ..io.rejected import Rejected, write_rejected
from ..jobs.claims import exclusive
from ..jobs.folders import remove_folder, same_job
from ..jobs.progress import Progress
from ..jobs.tasks import run_tasks
from ..text.words import is_speakable
from .espeak import SAMPLE_RATE_HZ, Voice, choose_voice
from .piper import PiperSpeaker

Voices = Sequence[Voice | PiperSpeaker]

BLOCK_UTTERANCES = 128
_LONGEST_NAME = 120


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """One finished recording; `num_bytes` tells a file cut short from a whole one."""

    id: str
    file: str
    num_bytes: int
    duration_s: float
    voice: str


@dataclass(frozen=True, kw_only=True)
class Block:
    """Consecutive texts that one process speaks, and where."""

    folder: Path
    texts: tuple[tuple[str, str], ...]
    seed: int
    voices: Voices


@dataclass(frozen=True, kw_only=True)
class SpeechSummary:
    """What `speak_texts` made."""

    manifest: Path
    utterances: int
    duration_s: float
    reused: int
    """Recordings found finished from an earlier run."""
    rejected: dict[str, int]
    """Texts that could not be spoken, counted by reason."""


def file_name(utterance_id: str) -> str:
    """A file name for an id: readable, safe on any file system, distinct for distinct ids."""
    name = quote(utterance_id, safe="")
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME - 17]}-{fingerprint_of(utterance_id)}"
    return f"{name}.flac"


def speak_block(block: Block) -> tuple[list[Spoken], list[Rejected]]:
    """Speak a block into its folder, which appears whole. For a process that spoke nothing yet."""
    spoken: list[Spoken] = []
    rejected: list[Rejected] = []
    temporary = temporary_beside(block.folder)
    try:
        temporary.mkdir(parents=True)
        for identifier, text in block.texts:
            if not is_speakable(text):
                detail = "no letter or digit" if text.strip() else "empty text"
                rejected.append(Rejected(id=identifier, reason="nothing_to_speak", detail=detail))
                continue
            voice = choose_voice(identifier, block.seed, block.voices)
            try:
                waveform = voice.say(text, identifier, block.seed)
            except DataError as error:
                rejected.append(Rejected(id=identifier, reason="engine", detail=str(error)))
                continue
            path = temporary / file_name(identifier)
            content = encoded(waveform, SAMPLE_RATE_HZ)
            path.write_bytes(content)
            spoken.append(
                Spoken(
                    id=identifier,
                    file=path.name,
                    num_bytes=len(content),
                    duration_s=len(waveform) / SAMPLE_RATE_HZ,
                    voice=voice.name,
                )
            )
        record = {"spoken": list(map(asdict, spoken)), "rejected": list(map(asdict, rejected))}
        write_json(temporary / "block.json", record)
        remove_folder(block.folder)
        os.replace(temporary, block.folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return spoken, rejected


def finished_block(block: Block) -> tuple[list[Spoken], list[Rejected]] | None:
    """What a block's folder holds, or None if it is not there or a file is not as it was left."""
    try:
        record = read_json(block.folder / "block.json")
        spoken = [Spoken(**entry) for entry in record["spoken"]]
        rejected = [Rejected(**entry) for entry in record["rejected"]]
        whole = all((block.folder / s.file).stat().st_size == s.num_bytes for s in spoken)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (spoken, rejected) if whole else None


def speak_texts(
    texts: Sequence[tuple[str, str]],
    output_dir: Path,
    voices: Voices,
    seed: int = 1,
    workers: int | None = None,
    unusable: Sequence[Rejected] = (),
) -> SpeechSummary:
    """Speak (id, text) pairs into `output_dir`, re-using blocks that are finished.

    `unusable` are rows of the list that came to nothing before; they are reported with the rest.

    Raises:
        ConfigError: the folder holds speech of another list, seed or set of voices; bad workers.
        DataError: the list is empty, or not one text could be spoken.
        InUseError: another process speaks into the folder.
    """
    if not texts:
        raise DataError("the list of texts is empty; there is nothing to speak")
    workers = workers if workers is not None else os.cpu_count() or 1
    if workers < 1:
        raise ConfigError(f"workers is {workers}; it must be at least 1")
    with exclusive(output_dir, inside=True):
        return _speak_texts(texts, output_dir, voices, seed, workers, unusable)


def _speak_texts(
    texts: Sequence[tuple[str, str]],
    output_dir: Path,
    voices: Voices,
    seed: int,
    workers: int,
    unusable: Sequence[Rejected],
) -> SpeechSummary:
    request = {
        "texts": fingerprint_of(*(part for pair in texts for part in pair)),
        "num_texts": len(texts),
        "seed": seed,
        "voices": [asdict(voice) for voice in voices],
        "block_utterances": BLOCK_UTTERANCES,
    }
    same_job(output_dir / "speech.json", request)
    for stopped in filter(is_abandoned, (output_dir / "audio").glob(".*.part")):
        shutil.rmtree(stopped, ignore_errors=True)
    blocks = _blocks(texts, output_dir, voices, seed)
    done = {block.folder: found for block in blocks if (found := finished_block(block))}
    reused = sum(len(spoken) for spoken, _ in done.values())
    missing = [block for block in blocks if block.folder not in done]
    with Progress("speaking", len(texts), "utterances") as progress:
        progress.advance(sum(len(s) + len(r) for s, r in done.values()), "found finished")
        found = run_tasks(
            speak_block,
            missing,
            workers=workers,
            description="speaking",
            fresh=True,
            done=lambda block: progress.advance(len(block.texts)),
        )
        done |= {block.folder: result for block, result in zip(missing, found, strict=True)}
    results = [(block, *done[block.folder]) for block in blocks]
    rows = _rows(dict(texts), voices, results)
    rejected = [*unusable, *(entry for _, _, entries in results for entry in entries)]
    counts = write_rejected(output_dir / "rejected.jsonl", rejected)
    if not rows:
        raise DataError(f"none of the {len(texts)} texts could be spoken: {counts}")
    manifest = output_dir / "manifest.parquet"
    write_manifest(manifest, rows)
    return SpeechSummary(
        manifest=manifest,
        utterances=len(rows),
        duration_s=sum(row.duration_s for row in rows),
        reused=reused,
        rejected=counts,
    )


def _rows(
    texts: dict[str, str],
    voices: Voices,
    results: Sequence[tuple[Block, list[Spoken], list[Rejected]]],
) -> list[ManifestRow]:
    languages = {voice.name: voice.language for voice in voices}
    return [
        ManifestRow(
            id=entry.id,
            path=block.folder / entry.file,
            text=texts[entry.id],
            speaker=entry.voice,
            language=languages[entry.voice],
            duration_s=entry.duration_s,
        )
        for block, spoken, _ in results
        for entry in spoken
    ]


def _blocks(
    texts: Sequence[tuple[str, str]], output_dir: Path, voices: Voices, seed: int
) -> list[Block]:
    return [
        Block(
            folder=output_dir / "audio" / f"{start // BLOCK_UTTERANCES:05d}",
            texts=tuple(texts[start : start + BLOCK_UTTERANCES]),
            seed=seed,
            voices=voices,
        )
        for start in range(0, len(texts), BLOCK_UTTERANCES)
    ]
