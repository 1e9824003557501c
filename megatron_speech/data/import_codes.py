"""Codes of other speech tokenizers to code shards. Imports no torch.

<output>/00000.parquet ...   code shards
<output>/import.json         what was made of what, and how the codes look
<output>/rejected.jsonl      what was set aside
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError
from ..io.files import find_in, fingerprint_of, fingerprint_of_files, read_json_object, write_json
from ..io.rejected import Rejected, describe_counts, write_rejected
from ..jobs.claims import exclusive
from ..jobs.folders import atomic_folder, require_own
from ..jobs.progress import Progress
from .code_shards import CodeRecord, CodeShardInfo, write_code_shard
from .foreign_codes import UnitLayout, audio_path, find_unit_files, read_unit_rows, record_of
from .list_files import Row, made_of_rows
from .manifest import ManifestRow, read_manifest

_OFF_SHARE, _OFF_S = 0.1, 0.2
"""A recording may be so much longer or shorter than its codes: rounding, and padding at the end."""


_MOST_CODES = 1 << 24
"""No codebook is as large; counts of all its codes are kept."""


@dataclass(frozen=True, kw_only=True)
class ImportCodesConfig:
    """Unit sequences and what is known of the tokenizer that made them."""

    input: tuple[Path, ...]
    """Files (.jsonl, also .gz and .zst; .parquet; .npy; .npz) or folders of them."""
    output: Path
    """Folder for code shards."""
    name: str
    """What made the units, such as mhubert-25hz-500; codes of another name never mix with these."""
    frame_rate_hz: float
    """Units per second of audio, before repetitions were dropped: 25 or 50 for HuBERT, 25 for
    CosyVoice's S3, 12.5 for Mimi."""
    num_codes: int
    """Codebook size K; units are 0..K-1."""
    tokenizer_files: tuple[Path, ...] = ()
    """Weights or k-means centres of that tokenizer: then two that differ are told apart even if
    they have one name."""
    texts: Path | None = None
    """Manifest with text, speaker and language of the recordings, where the units come without:
    looked up by id, else by file name and as many folders above it as it takes."""
    records_per_shard: int = 10_000
    """Utterances in one code shard."""
    layout: UnitLayout = field(default_factory=UnitLayout)

    def __post_init__(self) -> None:
        if not 0 < self.frame_rate_hz < float("inf"):
            raise ConfigError(f"--frame-rate-hz is {self.frame_rate_hz:g}; expected more than 0")
        if not 1 <= self.num_codes <= _MOST_CODES:
            raise ConfigError(f"--num-codes is {self.num_codes}; expected 1 to {_MOST_CODES:,}")
        if self.records_per_shard < 1:
            raise ConfigError(f"--records-per-shard is {self.records_per_shard}; give >= 1")
        if self.layout.codebook < 0:
            raise ConfigError(f"--codebook is {self.layout.codebook}; the first one is 0")
        if not self.input or not self.name:
            raise ConfigError("give --input and --name")

    def info(self) -> CodeShardInfo:
        """What the shards say of themselves."""
        collapsed = self.layout.repetitions == "collapse"
        known = (self.name, str(self.num_codes), str(float(self.frame_rate_hz)), str(collapsed))
        fingerprint = fingerprint_of(
            "imported codes",
            *known,
            str(self.layout.codebook),
            fingerprint_of_files(*self.tokenizer_files) if self.tokenizer_files else "",
        )
        return CodeShardInfo(
            frame_rate_hz=self.frame_rate_hz,
            num_codes=self.num_codes,
            tokenizer_fingerprint=fingerprint,
            collapsed=collapsed,
        )


def import_codes(config: ImportCodesConfig) -> dict[str, Any]:
    """Write the shards; returns the contents of import.json.

    Raises:
        DataError: files that are missing, damaged or hold no units, or not one usable record.
        ConfigError: the output folder holds something else.
        InUseError: another process writes the folder.
    """
    files, output = find_unit_files(config.input), config.output
    with exclusive(output):
        if output.is_dir() and find_in(output):
            _check_same_units(output, config, files)
        with atomic_folder(output) as folder:
            return _Import(config, folder).run(files)


def _check_same_units(output: Path, config: ImportCodesConfig, files: Sequence[Path]) -> None:
    """Refuse to replace anything but an earlier import of the same files and tokenizer."""
    if not (output / "import.json").exists():
        raise ConfigError(f"{output} holds something else than imported codes; choose another")
    require_own(output, ("*.parquet", "import.json", "rejected.jsonl"))
    found = read_json_object(output / "import.json")
    if found.get("tokenizer_fingerprint") != config.info().tokenizer_fingerprint:
        raise ConfigError(
            f"{output} holds codes of {found.get('name')!r} ({found.get('num_codes')} codes, "
            f"{found.get('frame_rate_hz')} Hz), or of other --codebook, --repetitions or "
            "--tokenizer-files than now; remove the folder or choose another one"
        )
    if found.get("inputs", mark := _fingerprint(files)) != mark:
        raise ConfigError(
            f"{output} holds the codes of other files; give all in one import, or remove the "
            "folder or choose another one"
        )


def _fingerprint(files: Sequence[Path]) -> str:
    return fingerprint_of(*(f"{path.name} {path.stat().st_size}" for path in files))


class _Import:
    def __init__(self, config: ImportCodesConfig, folder: Path):
        self.config, self.folder, self.info = config, folder, config.info()
        self.rejected: list[Rejected] = []
        self.seen: set[str] = set()
        self.counts = np.zeros(config.num_codes, np.int64)
        self.repeats, self.seconds, self.with_text, self.shards = 0, 0.0, 0, 0
        self.recordings = _Recordings(config.texts) if config.texts else None

    def run(self, files: list[Path]) -> dict[str, Any]:
        config, waiting, records = self.config, [], 0
        with Progress("import", len(files), "files") as progress:
            for path in files:
                for record in self._records(path):
                    waiting.append(record)
                    records += 1
                    if len(waiting) == config.records_per_shard:
                        self._write(waiting)
                progress.advance(1)
        if waiting:
            self._write(waiting)
        reasons = write_rejected(self.folder / "rejected.jsonl", self.rejected)
        if not records:
            first = self.rejected[0].detail if self.rejected else "the files are empty"
            raise DataError(
                f"{', '.join(map(str, config.input))}: not one usable record; set aside "
                f"{describe_counts(reasons)}, the first: {first}"
            )
        texts = self.config.texts and fingerprint_of_files(self.config.texts)
        report = self._report(records, reasons)
        report |= {"inputs": _fingerprint(files), "texts": texts}
        write_json(self.folder / "import.json", report)
        return report

    def _records(self, path: Path) -> Iterator[CodeRecord]:
        made = made_of_rows(
            read_unit_rows(path, self.config.layout), self._record, "unreadable_units"
        )
        for record in made:
            wrong = record if isinstance(record, Rejected) else self._wrong(record)
            if wrong is not None:
                self.rejected.append(wrong)
                continue
            assert isinstance(record, CodeRecord)
            self.seen.add(record.id)
            yield record

    def _record(self, row: Row) -> CodeRecord | Rejected:
        record = record_of(row, self.config.layout, self.config.frame_rate_hz)
        if isinstance(record, Rejected) or self.recordings is None:
            return record
        return self.recordings.completed(record, row)

    def _wrong(self, record: CodeRecord) -> Rejected | None:
        codes, rate = record.codes, self.config.frame_rate_hz
        if record.id in self.seen:
            return Rejected(record.id, "duplicate_id", "this id came before")
        if not len(codes):
            return Rejected(record.id, "no_units", "no units")
        if codes.min() < 0 or codes.max() >= self.config.num_codes:
            found = f"{codes.min()}..{codes.max()}"
            return Rejected(
                record.id, "out_of_range", f"units {found}, expected 0..{self.config.num_codes - 1}"
            )
        off = abs(len(codes) / rate - record.duration_s)
        if not self.info.collapsed and off > _OFF_SHARE * record.duration_s + _OFF_S:
            found = len(codes) / record.duration_s if record.duration_s else float("inf")
            return Rejected(
                record.id,
                "other_length",
                f"{len(codes)} units for {record.duration_s:.2f} s are {found:.1f} a second, not "
                f"{rate:g}: another --frame-rate-hz, or repetitions were dropped (--repetitions)",
            )
        return None

    def _write(self, records: list[CodeRecord]) -> None:
        write_code_shard(self.folder / f"{self.shards:05d}.parquet", records, self.info)
        self.shards += 1
        for record in records:
            self.counts += np.bincount(record.codes, minlength=len(self.counts))
            self.repeats += int((np.diff(record.codes) == 0).sum())
            self.seconds += record.duration_s
            self.with_text += bool((record.text or "").strip())
        records.clear()

    def _report(self, records: int, reasons: dict[str, int]) -> dict[str, Any]:
        codes = int(self.counts.sum())
        return {
            "name": self.config.name,
            **asdict(self.info),
            "records": records,
            "records_with_text": self.with_text,
            "shards": self.shards,
            "hours": self.seconds / 3600,
            "codes": codes,
            "codes_per_second": codes / self.seconds if self.seconds else 0.0,
            "codes_used": int((self.counts > 0).sum()),
            "repeated": self.repeats / codes,
            "set_aside": reasons,
        }


class _Recordings:
    """What a manifest says of recordings, found by id, else by the file that holds their sound.

    Files may lie in other folders than when the units were made: of those of one name it is the
    one whose folders agree furthest.
    """

    def __init__(self, manifest: Path):
        self._ids: dict[str, ManifestRow] = {}
        self._files: dict[str, list[ManifestRow]] = {}
        self._given: dict[str, str] = {}
        for row in read_manifest(manifest):
            self._ids[row.id] = row
            stem = row.path.stem
            for name in (stem, _in_folder(row.path, stem)):
                self._files.setdefault(name, []).append(row)

    def completed(self, record: CodeRecord, row: Row) -> CodeRecord | Rejected:
        """A record with what the manifest knows; what it says itself stays."""
        path = audio_path(row)
        place = path.with_suffix("") if path and path.name else PurePosixPath(record.id)
        by_id = self._ids.get(record.id)
        found = self._of_file(place) if by_id is None else [by_id]
        if not found:
            detail = f"--texts has neither the id {record.id!r} nor a recording {place}"
            return Rejected(record.id, "not_in_texts", detail)
        if len(found) > 1:
            which = " and ".join(repr(str(one.path)) for one in found[:2])
            return Rejected(record.id, "ambiguous", f"{place} may be {which} of --texts")
        known = found[0]
        other = self._given.setdefault(known.id, record.id)
        if other != record.id:
            detail = f"{known.id!r} of --texts was taken for {other!r}, before {place}"
            return Rejected(record.id, "ambiguous", detail)
        return CodeRecord(
            id=record.id,
            codes=record.codes,
            duration_s=known.duration_s or record.duration_s,
            text=record.text or known.text,
            language=record.language or known.language or None,
            speaker=record.speaker or known.speaker or None,
        )

    def _of_file(self, place: PurePosixPath) -> list[ManifestRow]:
        """Rows of that file name, those of them whose folders agree furthest with `place`."""
        name = place.name
        found = self._files.get(_in_folder(place, name)) or self._files.get(name, [])
        if len(found) < 2:
            return found
        shared = [_shared_folders(row.path, place) for row in found]
        furthest = max(shared)
        return [row for row, folders in zip(found, shared, strict=True) if folders == furthest]


def _in_folder(path: PurePath, name: str) -> str:
    return f"{path.parent.name or '.'}/{name}"


def _shared_folders(one: PurePath, other: PurePath) -> int:
    pairs = zip(reversed(one.parent.parts), reversed(other.parent.parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
