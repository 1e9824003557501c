"""A tiktoken `tokenizer.model` with the added tokens beside it, as released GLM-4 models have it.

The file holds one byte string a line, in base64, with its rank, which is its id. Tokens behind the
ranks are named in tokenizer_config.json (`added_tokens_decoder`) and added_tokens.json; how text is
split before is known of GLM-4 alone, for whose tokenizer the files do not say it. No torch.
"""

import base64
import binascii
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import VocabularyError
from ..io.files import read_bytes, read_json_object
from ..io.json_lines import is_unicode

_SPLIT = (  # GLM-4's, the same as of OpenAI's cl100k_base
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+")
_PREFIX = ("[gMASK]", "<sop>")
_CONFIG = "tokenizer_config.json"
_MOST_ADDED = 1 << 20
_KEPT = ("eos_token", "pad_token", "padding_side", "model_max_length", "chat_template")
_SETTINGS = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "eos_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "clean_up_tokenization_spaces": False,
    "model_input_names": ["input_ids", "attention_mask"],
}


def is_tiktoken(path: Path) -> bool:
    """Whether a `tokenizer.model` is tiktoken's and not SentencePiece's, by its first line."""
    with open(path, "rb") as stream:
        return _LINE.fullmatch(stream.readline(1000).strip()) is not None


def converted_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json of what `convert` makes, for transformers' own class.

    Raises:
        DataError: the folder's is damaged.
    """
    stored = read_json_object(folder / _CONFIG)
    return _SETTINGS | {name: stored[name] for name in _KEPT if name in stored}


def convert(folder: Path, probes: Sequence[str]) -> Any:
    """Build a `tokenizers.Tokenizer` from the files of a folder, checked on some texts.

    Ids without a name between the last rank and the last added token become `<|reserved_ID|>`.

    Raises:
        VocabularyError: the file or the list of added tokens is damaged, or the conversion gives
            other ids than tiktoken.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    path = folder / "tokenizer.model"
    ranks = _read_ranks(path)
    letters = _letters_of_bytes()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    vocab = {spelled[token]: rank for token, rank in ranks.items()}
    merges = [(spelled[left], spelled[right]) for left, right in _merges(ranks)]
    # a piece that is a token is that token, whether merges lead to it or not
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = _read_added(folder, len(ranks))
    names = [
        added.get(number, f"<|reserved_{number}|>")
        for number in range(len(ranks), max(added, default=-1) + 1)
    ]
    if not is_unicode(*names):
        raise _damaged(folder / _CONFIG, "an added token is no text")
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    for number, name in enumerate(names, len(ranks)):
        if tokenizer.token_to_id(name) != number:  # empty, or a token already
            raise _damaged(folder / _CONFIG, f"{name!r} cannot be an added token")
    _add_prefix(tokenizer)
    for text in probes:
        _require_same_ids(tokenizer, ranks, text, path)
    return tokenizer


def _read_ranks(path: Path) -> dict[bytes, int]:
    ranks = {}
    for number, line in enumerate(read_bytes(path).splitlines()):
        if not _LINE.fullmatch(line.strip()):
            raise _damaged(path, f"line {number + 1} is {line[:40]!r}, expected BASE64 RANK")
        encoded, rank = line.split()
        try:
            ranks[base64.b64decode(encoded, validate=True)] = int(rank)
        except binascii.Error as error:
            raise _damaged(path, f"line {number + 1}: {error}") from None
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise _damaged(path, "its ranks are not 0, 1, 2, ... once each")
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise _damaged(path, f"it has no token for byte {missing[0]}")
    return ranks


def _damaged(path: Path, what: str) -> VocabularyError:
    return VocabularyError(f"{path} is no whole part of a vocabulary: {what}; download it again")


def _read_added(folder: Path, first: int) -> dict[int, str]:
    """Names of the tokens behind the ranks, by id."""
    path = folder / _CONFIG
    if not path.is_file():
        raise VocabularyError(
            f"{folder} has a tokenizer.model but no {_CONFIG}, which names the tokens behind it; "
            "download the whole folder"
        )
    listed = read_json_object(path).get("added_tokens_decoder", {})
    try:
        added = {int(number): str(token["content"]) for number, token in listed.items()}
        if (other := folder / "added_tokens.json").is_file():
            added |= {int(number): name for name, number in read_json_object(other).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise VocabularyError(
            f"{path} or added_tokens.json beside it is damaged: {error!r} in the added tokens; "
            "download them again"
        ) from None
    if added and min(added) < first:
        raise VocabularyError(
            f"{path} gives {added[min(added)]!r} the id {min(added)}, which tokenizer.model has "
            f"(0 to {first - 1}); the files are of different models"
        )
    if len(set(added.values())) < len(added):
        raise VocabularyError(f"{path} gives one added token two ids; download it again")
    if added and max(added) >= first + _MOST_ADDED:
        raise VocabularyError(
            f"{path} gives {added[max(added)]!r} the id {max(added)}, far behind the {first} of "
            "tokenizer.model; download it again"
        )
    return added


def _letters_of_bytes() -> list[str]:
    """The letter by which byte-level BPE writes each byte: printable ones are themselves."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = itertools.count(256)
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Every way to put a token together from two others; tiktoken prefers low ranks."""
    found = []
    for token in sorted(ranks, key=ranks.__getitem__):
        cuts = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        found += [(left, right) for left, right in cuts if left in ranks and right in ranks]
    return found


def _add_prefix(tokenizer: Any) -> None:
    """What the released tokenizer writes before a text unless told not to."""
    from tokenizers import processors

    ids = {name: tokenizer.token_to_id(name) for name in _PREFIX}
    if None not in ids.values():
        tokenizer.post_processor = processors.TemplateProcessing(
            single=" ".join([*_PREFIX, "$A"]),
            pair=" ".join([*_PREFIX, "$A", "$B:1"]),
            special_tokens=list(ids.items()),
        )


def _require_same_ids(tokenizer: Any, ranks: dict[bytes, int], text: str, path: Path) -> None:
    spans = [span for _, span in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    pieces = [text[start:stop].encode() for start, stop in spans]
    expected = [rank for piece in pieces for rank in encode_by_ranks(piece, ranks)]
    found = tokenizer.encode(text, add_special_tokens=False).ids
    if found != expected:
        raise VocabularyError(
            f"{path} cannot be converted faithfully: {text!r} gives {expected} by its ranks but "
            f"{found} as tokenizer.json; please report it"
        )


def encode_by_ranks(piece: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Ids of one piece of text: itself if it is a token, else of what is left when the two
    neighbours of lowest rank, the leftmost first, have been joined as long as there are any."""
    if piece in ranks:
        return [ranks[piece]]
    parts = [piece[place : place + 1] for place in range(len(piece))]
    while True:
        pairs = [ranks.get(left + right) for left, right in itertools.pairwise(parts)]
        known = [rank for rank in pairs if rank is not None]
        if not known:
            return [ranks[part] for part in parts]
        place = pairs.index(min(known))
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
