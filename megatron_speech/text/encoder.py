"""Texts to flat arrays of token ids: byte-level BPE by gigatoken where it gives the same ids.

gigatoken is many times faster than the tokenizers library and aims to equal it. That is not taken
on trust: ids are compared on every character of Unicode's first plane before the work begins, on
the first documents of every share of the corpus, and on a sample throughout. One difference and
the tokenizer itself does all the work.

Some vocabularies (SmolLM2's) have no token for bytes that their training text had not. gigatoken
refuses those, so it is given tokens for them; the tokenizer drops such bytes, so it does the rare
texts that have one.
"""

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MegatronSpeechError
from .tokenizers import TextTokenizer

_FIRST_COMPARED = 16
_FIRST_CHARACTERS = 1 << 16  # long documents: 16 of them took half of the time of a share
_COMPARED_EVERY = 512
_MOST_CHARACTERS_COMPARED = 1 << 20  # the tokenizers library takes gigabytes for longer texts
_CHARACTERS_AT_A_TIME = 1024


class IdsDiffer(MegatronSpeechError):
    """gigatoken and the tokenizer disagree about a text."""


@dataclass(frozen=True)
class FastEngine:
    """gigatoken for one vocabulary. Ids from `first_stand_in` on are of bytes it has no token for;
    None where it has all."""

    gigatoken: Any
    first_stand_in: int | None

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids of texts, flat (n,), stand-ins among them, and their lengths (texts,)."""
        rows = self.gigatoken.encode_batch(list(texts), parallel=False).layout
        offsets = np.asarray(rows.offsets)
        return np.asarray(rows.content.data)[offsets[0] : offsets[-1]], np.diff(offsets)

    def incomplete(self, flat: np.ndarray, lengths: np.ndarray) -> list[int]:
        """Numbers of the texts with stand-ins among their ids."""
        if self.first_stand_in is None:
            return []
        places = np.flatnonzero(flat >= self.first_stand_in)
        return np.unique(np.searchsorted(np.cumsum(lengths), places, "right")).tolist()


class TextEncoder:
    """Encodes texts with the tokenizer, or with gigatoken checked against it.

    `engine` is what `fast_engine` returned, or None for the tokenizer itself.
    """

    def __init__(self, tokenizer: TextTokenizer, engine: FastEngine | None = None):
        self._tokenizer = tokenizer
        self._engine = engine
        self._seen, self._compared = 0, 0

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of several texts, flat (n,), and their lengths (texts,) int64.

        Raises:
            IdsDiffer: gigatoken gave other ids for one of the texts that are compared.
        """
        if self._engine is None:
            return _flat(self._tokenizer.encode_batch(texts))
        flat, lengths = _encode_fast(self._engine, self._tokenizer, texts)
        stops = np.cumsum(lengths)
        for number, text in enumerate(texts, start=self._seen):
            first = number < _FIRST_COMPARED and self._compared < _FIRST_CHARACTERS
            if not first and number % _COMPARED_EVERY:
                continue
            if len(text) <= _MOST_CHARACTERS_COMPARED:
                self._compared += len(text)
                stop = stops[number - self._seen]
                start = stop - lengths[number - self._seen]
                if flat[start:stop].tolist() != self._tokenizer.encode(text):
                    raise IdsDiffer(f"gigatoken gives other ids for {text[:80]!r}")
        self._seen += len(texts)
        return flat, lengths


def _flat(encoded: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
    ids = itertools.chain.from_iterable(encoded)
    return np.fromiter(ids, dtype=np.int32, count=int(lengths.sum())), lengths


def _encode_fast(
    engine: FastEngine, tokenizer: TextTokenizer, texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    flat, lengths = engine.encode(texts)
    incomplete = engine.incomplete(flat, lengths)
    if not incomplete:
        return flat, lengths
    parts = np.split(flat, np.cumsum(lengths)[:-1])
    for number in incomplete:
        parts[number] = np.array(tokenizer.encode(texts[number]), flat.dtype)
    return np.concatenate(parts), np.array([len(part) for part in parts])


def can_be_fast(tokenizer: TextTokenizer, folder: Path) -> bool:
    """Whether gigatoken reads this vocabulary folder and agrees with its tokenizer."""
    engine = fast_engine(folder)
    if engine is None:
        return False
    if agrees_on_characters(engine, tokenizer):
        return True
    print("gigatoken splits some characters otherwise: tokenising without it", file=sys.stderr)
    return False


def fast_engine(folder: Path) -> FastEngine | None:
    """A gigatoken tokenizer of a vocabulary folder, or None: not byte-level BPE, not installed.

    Special tokens are left out: written in a corpus they are text. So are truncation, padding,
    dropout and the post-processor: ids depend on nothing but the vocabulary.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    settings = json.loads(path.read_text(encoding="utf-8"))
    if settings["model"].get("type") != "BPE" or not _is_byte_level(settings["pre_tokenizer"]):
        return None
    try:
        import gigatoken
    except ImportError:
        print("gigatoken is not installed: tokenising without it, far slower", file=sys.stderr)
        return None
    settings["added_tokens"] = [t for t in settings["added_tokens"] if not t["special"]]
    settings |= {"truncation": None, "padding": None, "post_processor": None}
    settings["model"]["dropout"] = None
    first_stand_in = _stand_in_for_missing_bytes(settings)
    try:
        return FastEngine(gigatoken.Tokenizer.from_json(json.dumps(settings)), first_stand_in)
    except (RuntimeError, ValueError) as error:  # what it raises for parts it does not know
        reason = str(error).strip().partition("\n")[0]
        print(f"gigatoken cannot read {path} ({reason}): tokenising without it", file=sys.stderr)
        return None


def _stand_in_for_missing_bytes(settings: dict[str, Any]) -> int | None:
    """Give bytes without a token one behind all others; no merge has it, so it shows in the ids."""
    from tokenizers.pre_tokenizers import ByteLevel

    vocabulary = settings["model"]["vocab"]
    missing = sorted(set(ByteLevel.alphabet()) - vocabulary.keys())
    if not missing:
        return None
    added = [token["id"] for token in settings["added_tokens"]]
    first = 1 + max([*vocabulary.values(), *added])
    vocabulary |= {byte: first + number for number, byte in enumerate(missing)}
    return first


def _is_byte_level(pre_tokenizer: dict[str, Any] | None) -> bool:
    steps = (pre_tokenizer or {}).get("pretokenizers") or [pre_tokenizer or {}]
    return any(step.get("type") == "ByteLevel" for step in steps)


def agrees_on_characters(engine: FastEngine, tokenizer: TextTokenizer) -> bool:
    """Whether both split every character alike: after a letter, after a space, before a digit.

    Catches libraries with another version of Unicode, or with other ideas of what a word is.
    """
    characters = [chr(point) for point in range(0x10000) if not 0xD800 <= point < 0xE000]
    left = set(engine.incomplete(*engine.encode(characters)))  # the tokenizer does these anyway
    characters = [character for n, character in enumerate(characters) if n not in left]
    texts = [
        "".join([f"a{character} {character}1" for character in batch])
        for batch in itertools.batched(characters, _CHARACTERS_AT_A_TIME)
    ]
    flat, lengths = _encode_fast(engine, tokenizer, texts)
    expected, expected_lengths = _flat(tokenizer.encode_batch(texts))
    return np.array_equal(lengths, expected_lengths) and np.array_equal(flat, expected)
