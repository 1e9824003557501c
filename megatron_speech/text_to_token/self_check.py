"""Generated codes read back by the speech tokenizer's own recogniser."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..speech_tokenizer.opened import open_speech_tokenizer


class SelfCheck:
    """Counts the word errors of codes against the texts they are to say.

    Raises:
        DataError: a speech tokenizer other than the one the codes belong to.
        ConfigError: a speech tokenizer that cannot transcribe.
    """

    def __init__(self, folder: Path, fingerprint: str, language: str, device: str):
        import torch

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._tokenizer = open_speech_tokenizer(folder, device)
        self._language = language
        if self._tokenizer.fingerprint != fingerprint:
            raise DataError(
                f"--self-check {folder} is speech tokenizer {self._tokenizer.fingerprint}, the "
                f"codes are of {fingerprint}; give the tokenizer that made the speech of --like"
            )
        self._tokenizer.decode_text([])  # refused here and not after hours

    def word_errors(
        self, texts: Sequence[str], codes: Sequence[np.ndarray]
    ) -> list[tuple[int, int]]:
        """Word errors and words of each text; (0, 0) for one in which no word is left.

        Codes (n,) are not empty. Which are read together depends on their lengths alone.
        """
        from ..speech_tokenizer.transcription import word_errors

        languages = [self._language] * len(texts)
        readings = self._tokenizer.decode_text(codes, languages)
        return word_errors(texts, readings, self._language)
