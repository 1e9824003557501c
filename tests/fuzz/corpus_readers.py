"""Published corpora: their lists damaged line by line, Parquet with sound in its rows."""

import json
import random
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from megatron_speech.data.reading import stream_recording
from megatron_speech.data.recordings import find_recordings
from megatron_speech.errors import AudioError
from tests.data.test_corpus_layouts import as_flac, sound
from tests.fuzz.list_readers import damage_parquet
from tests.fuzz.mutations import damaged, damaged_lines
from tests.fuzz.reader import Found, Reader

NAMES = [f"clip-{n}" for n in range(6)]
_COMMON_VOICE = "client_id\tpath\tsentence\tlocale"


def _make_kaldi(folder: Path) -> None:
    lists = {
        "wav.scp": [f"{name} /audio/{name}.wav" for name in NAMES],
        "text": [f"{name}-a sagt wörter {name}" for name in NAMES],
        "segments": [f"{name}-a {name} 0.5 {n + 1}" for n, name in enumerate(NAMES)],
        "utt2spk": [f"{name}-a who" for name in NAMES],
    }
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _make_ljspeech(folder: Path) -> None:
    (folder / "wavs").mkdir()
    (folder / "wavs/none.txt").write_text("x")
    lines = [f"{name}|In 14.|In fourteen, {name}." for name in NAMES]
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def _make_common_voice(folder: Path) -> None:
    (folder / "clips").mkdir()
    (folder / "clips/none.txt").write_text("x")
    lines = [_COMMON_VOICE, *(f"w\t{name}.mp3\tça va, {name}\tfr" for name in NAMES)]
    (folder / "train.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _make_nemo(folder: Path) -> None:
    rows = [
        {"audio_filepath": f"a/{n}.wav", "duration": 1.5, "text": "x", "offset": 0.1} for n in NAMES
    ]
    (folder / "m.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _make_librispeech(folder: Path) -> None:
    for name in NAMES:
        (folder / f"{name}.flac").write_bytes(b"x")
    lines = [f"{name} SAYS {name.upper()}" for name in NAMES]
    (folder / "1-2.trans.txt").write_text("\n".join(lines) + "\n")


def _make_mls(folder: Path) -> None:
    (folder / "audio").mkdir()
    (folder / "audio/none.txt").write_text("x")
    ids = [f"7_{n}_{n:06}" for n in range(6)]
    texts = [f"{name}\tsagt wörter, {n}\n" for n, name in enumerate(ids)]
    places = [f"{name}\thttp://a/b.mp3\t{n}.5\t{n + 2}\n" for n, name in enumerate(ids)]
    (folder / "transcripts.txt").write_text("".join(texts), encoding="utf-8")
    (folder / "segments.txt").write_text("".join(places))


def _damage_lists(rng: random.Random, folder: Path) -> None:
    path = rng.choice(sorted(path for path in folder.iterdir() if path.is_file()))
    content = path.read_bytes()
    change = rng.choice((damaged, damaged_lines)) if path.suffix == ".json" else damaged
    path.write_bytes(change(rng, content, content[::-1]))


def _read(folder: Path) -> Found:
    found = find_recordings([folder])
    items = [(item.id, (item.text, item.start_s, item.length_s)) for item in found.listed]
    return Found(items, [item.id for item in found.rejected])


def _make_parquet(folder: Path) -> None:
    rows = [
        {"bytes": as_flac(sound(0.3, n)), "path": f"{name}.flac"} for n, name in enumerate(NAMES)
    ]
    columns = {"id": NAMES, "text": [f"says {name}" for name in NAMES], "audio": rows}
    pq.write_table(pa.table(columns), folder / "p.parquet", row_group_size=4)


def _read_parquet(folder: Path) -> Found:
    found = find_recordings([folder / "p.parquet"])
    if not found.archives:  # damaged so that it is a manifest, or nothing
        return Found([(item.id, item) for item in found.listed], [r.id for r in found.rejected])
    recordings, rejected = found.archives[0].read()
    items, bad = [], [item.id for item in rejected]
    for recording in recordings:
        try:
            audio = np.concatenate(list(stream_recording(recording)))
            items.append((recording.id, (recording.text, audio.tobytes())))
        except AudioError:
            bad.append(recording.id)
    return Found(items, bad)


CORPORA = [
    *(
        Reader(name, make, _damage_lists, _read)
        for name, make in (
            ("Kaldi", _make_kaldi),
            ("LJSpeech", _make_ljspeech),
            ("Common Voice", _make_common_voice),
            ("NeMo", _make_nemo),
            ("LibriSpeech", _make_librispeech),
            ("MLS", _make_mls),
        )
    ),
    Reader(
        "Parquet with sound", _make_parquet, partial(damage_parquet, "p.parquet"), _read_parquet
    ),
]
