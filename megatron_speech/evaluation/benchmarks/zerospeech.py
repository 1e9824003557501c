"""sWUGGY and sBLIMP in the layout of ZeroSpeech 2021 (arXiv 2011.11588, the sLM21-dataset).

`lexical/<split>/` and `syntactic/<split>/` hold a .wav for each word or sentence and gold.csv. Its
columns are filename, id, voice, then frequency, word, phones, length (lexical) or type, subtype,
transcription (syntactic), and correct, 1 or 0. A right and a wrong one share id and voice; papers
report the split dev.

Rule (github.com/zerospeech/benchmarks, tasks/lm): of each pair the right one has the higher
pseudo-probability, equal ones count half; voices of a pair are averaged, then pairs. sWUGGY is also
given for words in the vocabulary of LibriSpeech alone (frequency of at least 1). slamkit and GSLM
take the mean log-likelihood of a token as the pseudo-probability.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

from ...errors import DataError
from .items import Pair, Utterance, wrong_layout
from .table_files import read_table

SPLIT = "dev"


def layout_of(kind: str) -> str:
    """What is expected of a folder."""
    return f"{kind}/{SPLIT}/gold.csv with a .wav file for each row beside it (ZeroSpeech's sLM21)"


def read_swuggy(path: Path, split: str | None) -> list[Pair]:
    """Words against non-words; parts `all` and `in vocabulary`.

    Raises:
        DataError: another layout, or a row without its partner.
    """
    return _pairs(path, "lexical", split or SPLIT, ("id",), "word")


def read_sblimp(path: Path, split: str | None) -> list[Pair]:
    """Sentences against ungrammatical ones; parts `all` and each type. Raises as `read_swuggy`."""
    return _pairs(path, "syntactic", split or SPLIT, ("type", "subtype", "id"), "transcription")


def _pairs(
    path: Path, kind: str, split: str, names: tuple[str, ...], text_column: str
) -> list[Pair]:
    places = [p for p in (path / kind / split, path / split, path) if (p / "gold.csv").is_file()]
    if not places:
        raise wrong_layout(path, layout_of(kind))
    folder = places[0]
    rows = read_table(folder / "gold.csv")
    needed = ("filename", "voice", *names, "correct", text_column)
    lacking = [name for name in needed if not rows or name not in rows[0]]
    if lacking:
        raise DataError(
            f"{folder / 'gold.csv'} lacks {', '.join(lacking)}; the gold.csv of {kind} has "
            f"{', '.join(needed)}"
        )
    found: dict[tuple[str, ...], dict[str, list[dict[str, Any]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in rows:
        found[tuple(row[name] for name in (*names, "voice"))][row["correct"]].append(row)
    pairs = []
    for place, sides in found.items():
        right, wrong = sides.get("1", []), sides.get("0", [])
        if not right or len(right) != len(wrong):
            raise DataError(
                f"{folder / 'gold.csv'}: {'/'.join(place)} has {len(right)} right and {len(wrong)} "
                "wrong rows; expected as many of each"
            )
        for one, other in zip(right, wrong, strict=True):
            said = [_utterance(path, folder, row, text_column) for row in (one, other)]
            pairs.append(
                Pair(
                    id=said[0].key,
                    parts=_parts(kind, one),
                    tally="/".join(place[:-1]),
                    right=said[0],
                    wrong=said[1],
                )
            )
    return pairs


def _parts(kind: str, row: dict[str, Any]) -> tuple[str, ...]:
    if kind == "syntactic":
        return ("all", row["type"])
    frequency = (row.get("frequency") or "0").strip()
    known = frequency.replace(".", "", 1).isdigit() and float(frequency) >= 1
    return ("all", "in vocabulary") if known else ("all",)


def _utterance(path: Path, folder: Path, row: dict[str, Any], text_column: str) -> Utterance:
    name = row["filename"].removesuffix(".wav")
    audio = folder / f"{name}.wav"
    key = str((folder / name).relative_to(path))
    return Utterance(
        key=key, text=row[text_column] or None, audio=audio if audio.is_file() else None
    )
