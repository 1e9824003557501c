"""Text tokenizers behind one small interface: Hugging Face's and SentencePiece's. No torch."""

import json
import shutil
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import VocabularyError
from ..io.files import (
    atomic_path,
    fingerprint_of,
    read_bytes,
    read_json_object,
    write_json,
    write_text,
)
from ..io.model_folders import refuse_code
from .tiktoken_model import convert, converted_config, is_tiktoken

_COMPANIONS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)
"""What belongs to a tokenizer.json: among others, the ids by which generation begins and ends."""
_PROBES = (
    "The quick brown fox, 1234 times!",
    " leading, trailing and  double   spaces ",
    "lines\n\nand\r\ntabs\t.",
    "ünïcödé, 你好世界。 שלום \U0001f600",
)


class TextTokenizer(Protocol):
    """What the vocabulary needs of a text tokenizer."""

    size: int
    eod_id: int

    def encode(self, text: str) -> list[int]: ...
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...
    def offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def id_of(self, token: str) -> int | None: ...
    def special_ids(self) -> set[int]: ...
    def digest(self, without: Set[str]) -> str: ...
    def save(self, folder: Path, added: Sequence[str]) -> None: ...


class HuggingFaceTokenizer:
    """A folder with `tokenizer.json`, read by the tokenizers library."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._tokenizer = self._open()
        # "<|audio_3|>" written in a corpus is text, never speech
        self._tokenizer.encode_special_tokens = True
        self.size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self.eod_id = self._find_eod()

    def _open(self) -> Any:
        """The tokenizer as it lies in the folder."""
        refuse_code(self.folder)
        return _read_tokenizer(self.folder / "tokenizer.json")

    def _config(self) -> dict[str, Any]:
        path = self.folder / "tokenizer_config.json"
        return read_json_object(path) if path.exists() else {}

    def _find_eod(self) -> int:
        eos = self._config().get("eos_token") or "<|endoftext|>"
        token = eos.get("content") if isinstance(eos, dict) else eos
        found = self._tokenizer.token_to_id(token) if isinstance(token, str) else None
        if found is None:
            raise VocabularyError(
                f"{self.folder}: end-of-text token {token!r} is not in the tokenizer; "
                "set eos_token in tokenizer_config.json to a token that is"
            )
        return found

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    def offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def id_of(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def special_ids(self) -> set[int]:
        """Ids that no text is made of."""
        added = self._tokenizer.get_added_tokens_decoder()
        return {i for i, token in added.items() if token.special}

    def digest(self, without: Set[str]) -> str:
        """Identifies how text becomes ids; tokens of `without` do not count."""
        return _digest(self._tokenizer, without)

    def save(self, folder: Path, added: Sequence[str]) -> None:
        """Write the tokenizer with `added` tokens behind it, loadable by AutoTokenizer."""
        from tokenizers import AddedToken

        extended = self._open()
        extended.add_special_tokens([AddedToken(token, normalized=False) for token in added])
        write_text(folder / "tokenizer.json", extended.to_str(pretty=True))
        if folder.resolve() != self.folder.resolve():
            self._save_companions(folder)

    def _save_companions(self, folder: Path) -> None:
        for name in _COMPANIONS:
            if (self.folder / name).exists():
                with atomic_path(folder / name) as temporary:
                    shutil.copyfile(self.folder / name, temporary)


class TiktokenTokenizer(HuggingFaceTokenizer):
    """A folder with tiktoken's `tokenizer.model`, as of GLM-4, converted: ids are tiktoken's."""

    def _open(self) -> Any:
        return convert(self.folder, _PROBES)

    def _config(self) -> dict[str, Any]:
        return converted_config(self.folder)

    def _save_companions(self, folder: Path) -> None:
        super()._save_companions(folder)
        write_json(folder / "tokenizer_config.json", self._config())


class SentencePieceTokenizer:
    """A SentencePiece `.model` file."""

    def __init__(self, path: Path):
        import sentencepiece

        self.path = path
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=read_bytes(path))
        except RuntimeError as error:
            raise VocabularyError(f"{path} is no SentencePiece model: {error}") from None
        self._converted: Any = None
        self.size = self._processor.vocab_size()
        self.eod_id = self._processor.eos_id()
        if self.eod_id < 0:
            raise VocabularyError(f"{path}: the SentencePiece model has no end-of-sentence piece")

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._processor.encode(list(texts))

    def offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        if self._converted is None:
            self._converted = self._convert()
        encoding = self._converted.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode([int(i) for i in ids])

    def id_of(self, token: str) -> int | None:
        found = self._processor.piece_to_id(token)
        return None if found == self._processor.unk_id() else found

    def special_ids(self) -> set[int]:
        """Ids that no text is made of."""
        model = self._processor
        return {i for i in range(self.size) if model.is_control(i) or model.is_unknown(i)}

    def digest(self, without: Set[str]) -> str:
        """The digest of the `tokenizer.json` that `save` writes."""
        if self._converted is None:
            self._converted = self._convert()
        return _digest(self._converted, without)

    def save(self, folder: Path, added: Sequence[str]) -> None:
        """Write a `tokenizer.json` that gives the same ids, with `added` tokens behind it."""
        from tokenizers import AddedToken

        converted = self._convert()
        converted.add_special_tokens([AddedToken(token, normalized=False) for token in added])
        write_text(folder / "tokenizer.json", converted.to_str(pretty=True))
        write_json(
            folder / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": self._processor.id_to_piece(self.eod_id),
                "unk_token": self._processor.id_to_piece(self._processor.unk_id()),
                "clean_up_tokenization_spaces": False,
            },
        )

    def _convert(self) -> Any:
        from .sentencepiece_json import convert

        converted = convert(self.path)
        converted.encode_special_tokens = True
        for text in _PROBES:
            found = converted.encode(text, add_special_tokens=False).ids
            if found != (expected := self.encode(text)):
                raise VocabularyError(
                    f"{self.path} cannot be converted faithfully: {text!r} gives {expected} by "
                    f"SentencePiece but {found} as tokenizer.json; convert the model with its own "
                    "tools and give the folder with tokenizer.json"
                )
        return converted


def _read_tokenizer(path: Path) -> Any:
    """A `tokenizer.json` without what its last use left in it.

    Truncation, padding and BPE dropout are written to the file with the vocabulary and would cut,
    fill up or garble every document. What its post-processor adds (a first or last token) is left
    out where texts are encoded, by `add_special_tokens=False`.
    """
    from tokenizers import Tokenizer

    content = read_bytes(path)
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # the library has no kind of its own
        raise VocabularyError(f"{path} is damaged: {error}; restore it") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None) is not None:
        tokenizer.model.dropout = None
    return tokenizer


def post_processed(folder: Path) -> list[str]:
    """What the post-processor of a folder's tokenizer.json puts around texts (often a first token).

    It is never part of the ids here; Megatron's own tool writes it if not told otherwise.
    """
    path = folder / "tokenizer.json"
    return _read_tokenizer(path).encode("").tokens if path.exists() else []


def _digest(tokenizer: Any, without: Set[str]) -> str:
    """Hash a tokenizer's token-to-id map, its merges or scores, and the ids of some texts.

    The texts stand for normalisation and splitting, whose settings each version of the library
    writes down in another way.
    """
    ids = tokenizer.get_vocab(with_added_tokens=True)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [
        merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges") or ()
    ]
    # a score changes in its last bit when it is written and read; as float32 it does not
    scored = model["vocab"] if isinstance(model.get("vocab"), list) else []
    scores = [(token, float(np.float32(score))) for token, score in scored]
    probes = [tokenizer.encode(text, add_special_tokens=False).ids for text in _PROBES]
    return fingerprint_of(
        json.dumps(sorted((i, token) for token, i in ids.items() if token not in without)),
        json.dumps(merges),
        json.dumps(scores),
        json.dumps(probes),
    )


def open_text_tokenizer(path: str | Path) -> TextTokenizer:
    """Open a Hugging Face tokenizer folder, a SentencePiece `.model` file or tiktoken's.

    Raises:
        VocabularyError: the path holds neither, or a damaged one.
        CheckpointError: the tokenizer wants code of its own to be run.
    """
    path = Path(path)
    if path.is_dir() and (path / "tokenizer.json").exists():
        return HuggingFaceTokenizer(path)
    if path.is_dir() and (path / "tokenizer.model").exists():
        if is_tiktoken(path / "tokenizer.model"):
            return TiktokenTokenizer(path)
        return SentencePieceTokenizer(path / "tokenizer.model")
    if path.is_file() and path.suffix == ".model":
        return SentencePieceTokenizer(path)
    raise VocabularyError(
        f"{path} is no text tokenizer: expected a folder with tokenizer.json (Hugging Face) or "
        "tokenizer.model (SentencePiece, or tiktoken's as of GLM-4), or a SentencePiece .model file"
    )
