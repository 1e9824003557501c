"""The one place where codes become tokens: text | specials | codes | padding.

A *code* is 0..K-1 from the speech tokenizer's quantizer, a *token* an id of the language model's
vocabulary. Text ids stay what the base tokenizer says; specials and codes are added behind them
in the order transformers' `add_tokens` would number them; the rest up to a fixed multiple is
padding that no text or code ever maps to. Imports no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, VocabularyError
from ..io.files import fingerprint_of, write_json
from .tokenizers import TextTokenizer, open_text_tokenizer
from .vocab_facts import FACTS_FILE, read_facts, rows_of_model, speech_tokenizer_of

BEGIN_OF_AUDIO = "<|begin_of_audio|>"
END_OF_AUDIO = "<|end_of_audio|>"
SPEAK = "<|speak|>"
TRANSCRIBE = "<|transcribe|>"
SYSTEM = "<|system|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
ROLES = (SYSTEM, USER, ASSISTANT)
DEFAULT_SPECIALS = (BEGIN_OF_AUDIO, END_OF_AUDIO, SPEAK, TRANSCRIBE, *ROLES)
PADDING_MULTIPLE = 1024


def code_token(code: int) -> str:
    """The token string of a code, as the released GLM-4-Voice tokenizer spells it."""
    return f"<|audio_{code}|>"


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
    speech_tokenizer: str | None = None
    """Fingerprint of the speech tokenizer whose codes these are, where a model was trained on
    them; None if unknown. It is no part of the id layout."""
    base_rows: int = 0
    """Rows of the base model's embedding, some without a token; exports have no fewer."""

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
        base_rows = rows_of_model(text_tokenizer)
        return cls(
            text=text,
            num_codes=num_codes,
            code_offset=offset,
            specials=ids,
            padded_size=_padded(max(next_id, base_rows), padding_multiple),
            added=tuple(added),
            speech_tokenizer=speech_tokenizer_of(text_tokenizer),
            base_rows=base_rows,
        )

    @classmethod
    def as_it_is(cls, text_tokenizer: str | Path) -> "SpeechTextVocab":
        """A tokenizer with nothing added: the codes it holds already, or none at all."""
        if (Path(text_tokenizer) / FACTS_FILE).exists():
            return cls.from_pretrained(text_tokenizer)
        text = open_text_tokenizer(text_tokenizer)
        num_codes = 0
        while text.id_of(code_token(num_codes)) is not None:
            num_codes += 1
        # of a model without codes none is counted: what it calls so may mean something else
        names = DEFAULT_SPECIALS if num_codes else ()
        found = {name: text.id_of(name) for name in names}
        offset = text.id_of(code_token(0))
        base_rows = rows_of_model(text_tokenizer)
        return cls(
            text=text,
            num_codes=num_codes,
            code_offset=text.size if offset is None else offset,
            specials={name: number for name, number in found.items() if number is not None},
            padded_size=_padded(max(text.size, base_rows), PADDING_MULTIPLE),
            added=(),
            base_rows=base_rows,
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "SpeechTextVocab":
        """Read a vocabulary written by `save_pretrained` (an exported model folder is one).

        Raises:
            VocabularyError: the folder is not such a vocabulary or its parts disagree.
            DataError: a file of it is damaged.
        """
        facts = read_facts(Path(folder))
        text = open_text_tokenizer(folder)
        vocab = cls(
            text=text,
            num_codes=facts["num_codes"],
            code_offset=facts["code_offset"],
            specials=facts["specials"],
            padded_size=facts["padded_size"],
            added=tuple(facts["added"]),
            speech_tokenizer=facts.get("speech_tokenizer"),
            base_rows=facts.get("base_rows", 0),
        )
        ends = (0, vocab.num_codes - 1) if vocab.num_codes else ()
        codes = [(code_token(code), vocab.code_offset + code) for code in ends]
        for token, expected in [*vocab.specials.items(), *codes]:
            if text.id_of(token) != expected:
                raise VocabularyError(
                    f"{folder}: {token} has id {text.id_of(token)} in the tokenizer but "
                    f"{expected} in {FACTS_FILE}; the folder was changed after it was written"
                )
        return vocab

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a folder that AutoTokenizer and `from_pretrained` load."""
        self.text.save(Path(folder), self.added)
        self.save_facts(folder)

    def save_facts(self, folder: str | Path) -> None:
        """Write beside a tokenizer what `from_pretrained` wants to know besides."""
        write_json(
            Path(folder) / FACTS_FILE,
            {
                "num_codes": self.num_codes,
                "code_offset": self.code_offset,
                "specials": self.specials,
                "padded_size": self.padded_size,
                "added": list(self.added),
                "speech_tokenizer": self.speech_tokenizer,
                "base_rows": self.base_rows,
            },
        )

    def require_speech_tokenizer(self, fingerprint: str | None, whose: str, here: str) -> None:
        """Refuse codes of another speech tokenizer than this vocabulary's, where both are known.

        `whose` names what has codes of `fingerprint`, `here` what has this vocabulary.

        Raises:
            DataError: the speech tokenizers differ; their codes mean other sounds.
        """
        if None not in (fingerprint, self.speech_tokenizer) and (
            fingerprint != self.speech_tokenizer
        ):
            raise DataError(
                f"{whose} has codes of speech tokenizer {fingerprint}, but {here} was trained on "
                f"codes of {self.speech_tokenizer}; use the speech tokenizer of the training, or "
                "train again"
            )

    @property
    def size(self) -> int:
        """Ids in use, padding not counted."""
        last_special = max(self.specials.values(), default=-1)
        return max(self.code_offset + self.num_codes, last_special + 1, self.text.size)

    @property
    def embedding_rows(self) -> int:
        """Rows of an exported embedding: every id, and what rows the base model had beyond."""
        return max(self.size, self.base_rows)

    @property
    def eod_id(self) -> int:
        return self.text.eod_id

    def special(self, token: str) -> int:
        """Id of a special token.

        Raises:
            VocabularyError: this vocabulary has none, being a model's own (`as_it_is`).
        """
        if token not in self.specials:
            raise VocabularyError(
                f"the vocabulary has no {token}: the model came without; import it with "
                f"tools/convert_checkpoint.py hf-to-megatron --num-codes {self.num_codes}, which "
                "adds what is missing"
            )
        return self.specials[token]

    @property
    def begin_of_audio_id(self) -> int:
        return self.special(BEGIN_OF_AUDIO)

    @property
    def end_of_audio_id(self) -> int:
        return self.special(END_OF_AUDIO)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the id layout: two vocabularies that agree on it number tokens alike.

        Covers every token and its id, the merges (or scores) and the numbering of specials and
        codes, not how a library's version writes them down.
        """
        codes = {code_token(code) for code in range(self.num_codes)}
        return fingerprint_of(
            repr((self.code_offset, self.num_codes, sorted(self.specials.items()))),
            repr((self.padded_size, self.eod_id)),
            self.text.digest(codes | self.specials.keys()),
        )

    @cached_property
    def text_fingerprint(self) -> str:
        """Identifies the text part: that of a tokenizer and of every vocabulary extending it."""
        return fingerprint_of(repr(self.eod_id), self.text.digest(set(self.added)))

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
        return is_speech(tokens, self.code_offset, self.num_codes)

    def speech_segment(self, codes: np.ndarray | Sequence[int]) -> np.ndarray:
        """Codes wrapped in begin and end of audio: (n,) -> (n + 2,) token ids."""
        tokens = self.codes_to_tokens(codes)
        return np.concatenate([[self.begin_of_audio_id], tokens, [self.end_of_audio_id]])


def is_speech(tokens: Any, code_offset: int, num_codes: int) -> Any:
    """Mask of the tokens, an array or a tensor of ids, that are codes."""
    return (tokens >= code_offset) & (tokens < code_offset + num_codes)


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
