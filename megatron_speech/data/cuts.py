"""lhotse cut sets (`*.jsonl`, `.gz`, `.zst`), read from their JSON. No lhotse, no torch.

A cut is a stretch of a recording on some of its channels. Cuts that would have to be mixed, padded
or transformed first are set aside: export them with lhotse's `save_audios` and give the result.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ..io.rejected import Rejected
from .list_files import Row, as_text, made_of_rows, read_jsonl_rows
from .manifest import seconds
from .recording import Recording

_PLAIN = ("MonoCut", "MultiCut")


def is_list_of_cuts(path: Path) -> bool:
    """Whether of cuts and rows of manifests, a cut is the first among JSON lines."""
    for row in read_jsonl_rows(path, None):
        if isinstance(row, Row):
            if str(row.values.get("type", "")).endswith("Cut") or "recording" in row.values:
                return True
            if "path" in row.values:
                return False
    return False


def read_cuts(path: Path, folder: Path) -> Iterator[Recording | Rejected]:
    """Recordings that cuts name; relative paths start from `folder`.

    Text is that of the cut's supervisions in order of time; language and speaker are kept where
    all supervisions agree.

    Raises:
        DataError: the file cannot be read.
    """
    make = partial(_recording, folder=folder)
    return made_of_rows(read_jsonl_rows(path, None), make, "invalid_cut")


def _recording(row: Row, folder: Path) -> Recording | Rejected:
    cut = row.values
    name = as_text(cut["id"])
    kind = cut.get("type", "MonoCut")
    if kind not in _PLAIN:
        return Rejected(name, "unsupported_cut", f"{kind}; expected {' or '.join(_PLAIN)}")
    recording = cut.get("recording")
    if recording is None:
        return Rejected(name, "no_audio", "the cut names no recording")
    if recording.get("transforms"):
        return Rejected(name, "unsupported_cut", "its recording is to be transformed")
    start_s, length_s = seconds(cut.get("start", 0.0)), seconds(cut["duration"])
    if start_s is None or not length_s:
        return Rejected(name, "bad_duration", f"{cut.get('start')!r}, {cut['duration']!r}")
    wanted = _as_list(cut.get("channel", 0))
    source = _source_of(recording["sources"], wanted)
    if source is None or source["type"] != "file":
        kinds = ", ".join(str(each.get("type")) for each in recording["sources"])
        return Rejected(name, "unsupported_source", f"channels {wanted} are in no file: {kinds}")
    place = [source["channels"].index(channel) for channel in wanted]
    whole = place == list(range(len(source["channels"])))
    known = _supervised(cut.get("supervisions") or [])
    return Recording(
        id=name,
        path=str(folder / as_text(source["source"])),
        duration_s=length_s,
        start_s=start_s,
        length_s=length_s,
        channels=None if whole else tuple(place),
        **known,
    )


def _as_list(value: Any) -> list[int]:
    return list(value) if isinstance(value, list) else [int(value)]


def _source_of(sources: list[dict[str, Any]], channels: list[int]) -> dict[str, Any] | None:
    """The one source that holds all the channels."""
    return next((each for each in sources if set(channels) <= set(each["channels"])), None)


def _supervised(supervisions: list[dict[str, Any]]) -> dict[str, Any]:
    ordered = sorted(supervisions, key=lambda each: each.get("start", 0.0))
    known: dict[str, Any] = {
        "text": " ".join(as_text(each["text"]).strip() for each in ordered if each.get("text"))
    }
    for name in ("speaker", "language"):
        values = {as_text(each.get(name)) for each in ordered}
        known[name] = values.pop() if len(values) == 1 else ""
    return known
