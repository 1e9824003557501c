"""Text side of the ASR objective: targets and prompts."""

import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from ..errors import ConfigError
from ..io.files import read_json_object
from ..text.build_vocab import train_bpe
from ..text.vocab import open_text_tokenizer
from ..text.writing_systems import LANGUAGES_WITHOUT_SPACES
from .languages import language_code
from .model import SpeechTokenizerModel

_START = "<|startoftranscript|>"
_APOSTROPHE = re.compile(r"(?<=\w)[’ʼ](?=\w)")


def spoken_words(text: str) -> str:
    """Lower-case words without punctuation, each led by a space: what can be heard."""
    if text.isascii():
        heard = [c if c.isalnum() or c in "'_" else " " for c in text.lower()]
    else:  # vowels of Hindi or Thai are marks, and joiners stand inside words
        text = _APOSTROPHE.sub("'", text.lower())
        heard = [c if _is_of_a_word(c) else " " for c in text]
    return "".join(" " + word for word in "".join(heard).split())


def _is_of_a_word(character: str) -> bool:
    return (
        character.isalnum()
        or character in "'_\u200c\u200d"
        or unicodedata.category(character).startswith("M")
    )


class AsrText:
    """Texts as token ids of the ASR decoder.

    `words_only` trains on `spoken_words` instead of the text as written. With a Whisper tokenizer
    the prompt is Whisper's (start, language, transcribe, no timestamps; of an English-only one
    start and no timestamps), and a text begins with a space as Whisper's do; else the prompt is
    the end token. What generation_config.json of the folder says is never said, is not decoded.
    """

    def __init__(self, folder: str | Path, words_only: bool = False):
        self.folder = Path(folder)
        self._tokenizer = open_text_tokenizer(self.folder)
        self.words_only = words_only
        self.size = self._tokenizer.size
        self._specials = self._tokenizer.special_ids()
        self.eos_id = self._tokenizer.eod_id
        start = self._tokenizer.id_of(_START)
        self.start_id = self.eos_id if start is None else start
        path = self.folder / "generation_config.json"
        settings = read_json_object(path) if self._is_whisper and path.exists() else {}
        self._multilingual = settings.get("is_multilingual") is not False
        self._unsaid = tuple(settings.get("suppress_tokens") or ())
        self._unsaid_first = tuple(settings.get("begin_suppress_tokens") or ())

    @property
    def _is_whisper(self) -> bool:
        return self.start_id != self.eos_id

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Target ids of a transcript, without the end token."""
        return self._tokenizer.encode(self._written(text, language))

    def fits(self, text: str, room: int) -> bool:
        """Whether `encode` gives at most `room` ids; byte-level BPE has at most one a byte."""
        return len(self._written(text).encode()) <= room or len(self.encode(text)) <= room

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, without special tokens."""
        return self._tokenizer.decode([i for i in ids if i not in self._specials]).strip()

    def knows(self, language: str) -> bool:
        """Whether a prompt can name this language (any, where prompts name none)."""
        if not self._is_whisper:
            return True
        code = language_code(language)
        return (
            self._tokenizer.id_of(f"<|{code}|>") is not None
            if self._multilingual
            else (code == "en")
        )

    def language_ids(self) -> dict[str, int]:
        """Token of each language that a prompt can name; none of an English-only model."""
        from transformers.models.whisper.tokenization_whisper import LANGUAGES

        if not self._is_whisper or not self._multilingual:
            return {}
        found = {code: self._tokenizer.id_of(f"<|{code}|>") for code in LANGUAGES}
        return {code: number for code, number in found.items() if number is not None}

    @property
    def no_speech_id(self) -> int | None:
        """The token that Whisper begins with where nothing is said."""
        names = ("<|nospeech|>", "<|nocaptions|>")
        found = [self._tokenizer.id_of(name) for name in names]
        return next((number for number in found if number is not None), None)

    @property
    def unsaid(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens that are never said, and those that are not said first."""
        return self._unsaid, self._unsaid_first

    def prompt(self, language: str | None) -> list[int]:
        """First tokens fed to the decoder; as many for every language.

        A language that `knows` denies is warned of and read as English.
        """
        if not self._is_whisper:
            return [self.eos_id]
        code = language_code(language) if language else "en"
        if not self.knows(code):
            warnings.warn(f"{self.folder} does not know the language {language!r}", stacklevel=2)
            code = "en"
        names = (f"<|{code}|>", "<|transcribe|>") if self._multilingual else ()
        ids = [self._tokenizer.id_of(name) for name in (*names, "<|notimestamps|>")]
        return [self.start_id, *(i for i in ids if i is not None)]

    def save_pretrained(self, folder: Path) -> None:
        """Write the tokenizer's files into `folder`."""
        self._tokenizer.save(folder, ())

    def _written(self, text: str, language: str | None = None) -> str:
        if self.words_only:
            return spoken_words(text)
        spaced = (
            self._is_whisper and language_code(language or "en") not in LANGUAGES_WITHOUT_SPACES
        )
        return " " + text.strip() if spaced else text

    def transcribe(
        self,
        model: SpeechTokenizerModel,
        encoded: torch.Tensor,
        valid: torch.Tensor,
        languages: Sequence[str | None],
        decoding: str | None = None,
        limited: bool = True,
    ) -> list[str]:
        """Greedy texts of encoder outputs (B, T, D) with valid frames (B, T).

        `decoding` is attention or ctc; None is what the model's config says. `limited` ends a text
        at more tokens than its frames can hold, else only `max_target_positions` does.
        """
        if (decoding or model.config.asr_decoding) == "ctc":
            return [self.decode(row) for row in model.generate_by_ctc(encoded, valid)]
        prompt = torch.tensor([self.prompt(lang) for lang in languages], device=encoded.device)
        # No speech has more than 12.5 tokens a second, give or take its last word.
        limits = (8 + -(-valid.sum(dim=1) * model.config.pooling_kernel_size // 4)).tolist()
        if not limited:
            limits = [model.config.max_target_positions] * len(limits)
        rows = model.generate(encoded, valid, prompt, max(limits), *self.unsaid)
        return [self.decode(row[:limit]) for row, limit in zip(rows, limits, strict=True)]


def train_text_tokenizer(texts: Iterable[str], size: int, folder: Path) -> None:
    """Train a byte-level BPE on `spoken_words` of the transcripts and write it to `folder`.

    Raises:
        ConfigError: `size` leaves no room beyond the 256 bytes.
    """
    if size < 258:
        raise ConfigError(f"--asr-vocab-size is {size}; expected at least 258 (bytes and end)")
    train_bpe(map(spoken_words, texts), size, folder)
    open_text_tokenizer(folder)  # reads back what was written, or raises
