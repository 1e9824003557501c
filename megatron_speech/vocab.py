"""The one place where codes become tokens: text | specials | codes | padding.

A *code* is 0..K-1 from the speech tokenizer's quantizer, a *token* an id of the language model's
vocabulary. Text ids stay what the base tokenizer says; specials and codes are added behind them
in the order transformers' `add_tokens` would number them; the rest up to a fixed multiple is
padding that no text or code ever maps to. Imports no torch.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from .errors import VocabularyError
from .files import fingerprint_of, read_json, write_json

BEGIN_OF_AUDIO = "<|begin_of_audio|>"
END_OF_AUDIO = "<|end_of_audio|>"
SPEAK = "<|speak|>"
TRANSCRIBE = "<|transcribe|>"
DEFAULT_SPECIALS = (BEGIN_OF_AUDIO, END_OF_AUDIO, SPEAK, TRANSCRIBE)
PADDING_MULTIPLE = 1024
_FILE_NAME = "speech_text_vocab.json"


def code_token(code: int) -> str:
    """The token string of a code, as the released GLM-4-Voice tokenizer spells it."""
    return f"<|audio_{code}|>"


class TextTokenizer(Protocol):
    """What the vocabulary needs of a text tokenizer."""

    size: int
    eod_id: int

    def encode(self, text: str) -> list[int]: ...
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...
    def offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def id_of(self, token: str) -> int | None: ...
    def save(self, folder: Path, added: Sequence[str]) -> None: ...


class HuggingFaceTokenizer:
    """A folder with `tokenizer.json`, read by the tokenizers library."""

    def __init__(self, folder: Path):
        from tokenizers import Tokenizer

        self.folder = folder
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.size = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self.eod_id = self._find_eod()

    def _find_eod(self) -> int:
        config_path = self.folder / "tokenizer_config.json"
        config = read_json(config_path) if config_path.exists() else {}
        eos = config.get("eos_token", "<|endoftext|>")
        token = eos["content"] if isinstance(eos, dict) else eos
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise VocabularyError(
                f"{self.folder}: end-of-text token {token!r} is not in tokenizer.json; "
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

    def save(self, folder: Path, added: Sequence[str]) -> None:
        """Write the tokenizer with `added` tokens behind it, loadable by AutoTokenizer."""
        from tokenizers import AddedToken, Tokenizer

        extended = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        extended.add_special_tokens([AddedToken(token, normalized=False) for token in added])
        folder.mkdir(parents=True, exist_ok=True)
        extended.save(str(folder / "tokenizer.json"))
        if folder.resolve() != self.folder.resolve():
            for name in ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
                if (self.folder / name).exists():
                    shutil.copy(self.folder / name, folder / name)


class SentencePieceTokenizer:
    """A SentencePiece `.model` file."""

    def __init__(self, path: Path):
        import sentencepiece

        self.path = path
        self._processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
        self.size = self._processor.vocab_size()
        self.eod_id = self._processor.eos_id()
        if self.eod_id < 0:
            raise VocabularyError(f"{path}: the SentencePiece model has no end-of-sentence piece")

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._processor.encode(list(texts))

    def offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        pieces = self._processor.encode(text, out_type="immutable_proto").pieces
        return [piece.id for piece in pieces], [(piece.begin, piece.end) for piece in pieces]

    def decode(self, ids: Sequence[int]) -> str:
        return self._processor.decode([int(i) for i in ids])

    def id_of(self, token: str) -> int | None:
        found = self._processor.piece_to_id(token)
        return None if found == self._processor.unk_id() else found

    def save(self, folder: Path, added: Sequence[str]) -> None:
        """Write `tokenizer.json` converted by transformers, with `added` tokens behind it."""
        from transformers import LlamaTokenizer

        folder.mkdir(parents=True, exist_ok=True)
        tokenizer = LlamaTokenizer.from_pretrained(self.path.parent, legacy=False)
        tokenizer.add_tokens(list(added), special_tokens=True)
        tokenizer.save_pretrained(folder)
        shutil.copy(self.path, folder / "tokenizer.model")


def open_text_tokenizer(path: str | Path) -> TextTokenizer:
    """Open a Hugging Face tokenizer folder or a SentencePiece `.model` file.

    Raises:
        VocabularyError: the path holds neither.
    """
    path = Path(path)
    if path.is_dir() and (path / "tokenizer.json").exists():
        return HuggingFaceTokenizer(path)
    if path.is_dir() and (path / "tokenizer.model").exists():
        return SentencePieceTokenizer(path / "tokenizer.model")
    if path.is_file() and path.suffix == ".model":
        return SentencePieceTokenizer(path)
    raise VocabularyError(
        f"{path} is no text tokenizer: expected a folder with tokenizer.json (Hugging Face) "
        "or a SentencePiece .model file"
    )


@dataclass(frozen=True, kw_only=True)
class SpeechTextVocab:
    """Token ids of text, specials and codes.

    `code_offset` is the token of code 0; speech means code_offset <= id < code_offset + num_codes.
    """

    text: TextTokenizer
    num_codes: int
    code_offset: int
    specials: dict[str, int]
    padded_size: int
    added: tuple[str, ...] = field(repr=False)

    @classmethod
    def extend(
        cls,
        text_tokenizer: str | Path,
        num_codes: int,
        specials: Sequence[str] = DEFAULT_SPECIALS,
        padding_multiple: int = PADDING_MULTIPLE,
    ) -> "SpeechTextVocab":
        """Add specials and `num_codes` codes behind a text tokenizer's ids.

        A tokenizer that already holds `<|audio_0|>` .. `<|audio_{K-1}|>` is used as it is.

        Raises:
            VocabularyError: the tokenizer holds another number of codes than asked for.
        """
        if num_codes < 1:
            raise VocabularyError(f"num_codes is {num_codes}; expected at least 1")
        text = open_text_tokenizer(text_tokenizer)
        next_id, added, ids = text.size, [], {}
        for token in specials:
            present = text.id_of(token)
            if present is None:
                present, next_id = next_id, next_id + 1
                added.append(token)
            ids[token] = present
        offset = text.id_of(code_token(0))
        if offset is None:
            offset, next_id = next_id, next_id + num_codes
            added.extend(code_token(code) for code in range(num_codes))
        elif text.id_of(code_token(num_codes - 1)) != offset + num_codes - 1:
            raise VocabularyError(
                f"{text_tokenizer} already holds {code_token(0)} at {offset}, but "
                f"{code_token(num_codes - 1)} is not at {offset + num_codes - 1}: it was made for "
                f"another number of codes than {num_codes}"
            )
        elif text.id_of(code_token(num_codes)) is not None:
            raise VocabularyError(f"{text_tokenizer} holds more than {num_codes} codes")
        padded = -(-next_id // padding_multiple) * padding_multiple
        return cls(
            text=text,
            num_codes=num_codes,
            code_offset=offset,
            specials=ids,
            padded_size=padded,
            added=tuple(added),
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "SpeechTextVocab":
        """Read a vocabulary written by `save_pretrained` (an exported model folder is one).

        Raises:
            VocabularyError: the folder is not such a vocabulary or its parts disagree.
        """
        folder = Path(folder)
        if not (folder / _FILE_NAME).exists():
            raise VocabularyError(
                f"{folder} is no speech-text vocabulary: {_FILE_NAME} is missing; "
                "make one with tools/build_vocab.py"
            )
        facts = read_json(folder / _FILE_NAME)
        text = open_text_tokenizer(folder)
        vocab = cls(
            text=text,
            num_codes=facts["num_codes"],
            code_offset=facts["code_offset"],
            specials=facts["specials"],
            padded_size=facts["padded_size"],
            added=tuple(facts["added"]),
        )
        for token, expected in [*vocab.specials.items(), (code_token(0), vocab.code_offset)]:
            if text.id_of(token) != expected:
                raise VocabularyError(
                    f"{folder}: {token} has id {text.id_of(token)} in the tokenizer but "
                    f"{expected} in {_FILE_NAME}; the folder was changed after it was written"
                )
        return vocab

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that AutoTokenizer and `from_pretrained` load."""
        folder = Path(folder)
        self.text.save(folder, self.added)
        write_json(
            folder / _FILE_NAME,
            {
                "num_codes": self.num_codes,
                "code_offset": self.code_offset,
                "specials": self.specials,
                "padded_size": self.padded_size,
                "added": list(self.added),
            },
        )

    @property
    def size(self) -> int:
        """Ids in use, padding not counted."""
        return max(
            self.code_offset + self.num_codes, max(self.specials.values()) + 1, self.text.size
        )

    @property
    def eod_id(self) -> int:
        return self.text.eod_id

    @property
    def begin_of_audio_id(self) -> int:
        return self.specials[BEGIN_OF_AUDIO]

    @property
    def end_of_audio_id(self) -> int:
        return self.specials[END_OF_AUDIO]

    @property
    def fingerprint(self) -> str:
        """Identifies the id layout: two vocabularies that agree on it number tokens alike."""
        sample = self.text.encode("The quick brown fox, 1234 times!")
        return fingerprint_of(
            repr((self.code_offset, self.num_codes, sorted(self.specials.items()))),
            repr((self.padded_size, self.eod_id, sample)),
        )

    def codes_to_tokens(self, codes: np.ndarray | Sequence[int]) -> np.ndarray:
        """Codes (n,) to token ids (n,), int64.

        Raises:
            VocabularyError: a code outside 0..K-1.
        """
        codes = np.asarray(codes, dtype=np.int64)
        if codes.size and (codes.min() < 0 or codes.max() >= self.num_codes):
            bad = codes[(codes < 0) | (codes >= self.num_codes)][0]
            raise VocabularyError(
                f"code {bad} is out of range: this vocabulary has codes 0..{self.num_codes - 1}; "
                "were the codes made by another speech tokenizer?"
            )
        return codes + self.code_offset

    def tokens_to_codes(self, tokens: np.ndarray | Sequence[int]) -> np.ndarray:
        """Speech token ids (n,) back to codes (n,), int64.

        Raises:
            VocabularyError: a token that is not speech.
        """
        tokens = np.asarray(tokens, dtype=np.int64)
        if not self.is_speech(tokens).all():
            bad = tokens[~self.is_speech(tokens)][0]
            raise VocabularyError(
                f"token {bad} is not speech: speech tokens are "
                f"{self.code_offset}..{self.code_offset + self.num_codes - 1}"
            )
        return tokens - self.code_offset

    def is_speech(self, tokens: np.ndarray) -> np.ndarray:
        """Boolean mask of the tokens that are codes."""
        return (tokens >= self.code_offset) & (tokens < self.code_offset + self.num_codes)

    def speech_segment(self, codes: np.ndarray | Sequence[int]) -> np.ndarray:
        """Codes wrapped in begin and end of audio: (n,) -> (n + 2,) token ids."""
        tokens = self.codes_to_tokens(codes)
        return np.concatenate([[self.begin_of_audio_id], tokens, [self.end_of_audio_id]])
