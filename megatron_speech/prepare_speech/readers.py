"""Who reads a segment: a Whisper folder of transformers, or of CTranslate2 by faster-whisper."""

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..audio import SAMPLE_RATE_HZ
from ..errors import CheckpointError, ConfigError
from ..speech_tokenizer.features import batch_features, batches_by_length, with_silence
from ..speech_tokenizer.languages import language_code
from ..speech_tokenizer.whisper import Whisper

WINDOW_S = 30.0
_TOKENS_PER_S, _MORE_TOKENS = 16, 16
"""No speech has as many; a text that does is a loop, and is not waited for."""


@dataclass(frozen=True)
class Reading:
    """What one model made of a segment."""

    text: str
    language: str
    """As it was told, or as the model found it."""
    language_probability: float
    """1 where it was told."""
    log_probability: float
    """Mean over the text's tokens and its end."""
    no_speech: float
    """Probability that nothing is said."""


class Reader(Protocol):
    """Audio to readings."""

    def read(
        self, clips: Sequence[np.ndarray], languages: Sequence[str], silence_s: float
    ) -> list[Reading]:
        """Clips (n,) of at most 30 s of 16 kHz, each with its language or "" -> their readings.

        Each gets up to `silence_s` of silence behind it, at most what fills 30 s.
        """
        ...


class WhisperReader:
    """A released Whisper, in batches, greedily."""

    def __init__(self, folder: str | Path, device: str, batch_s: float, dtype: torch.dtype):
        self._whisper = Whisper.from_pretrained(folder, device, dtype)
        self._batch_samples = round(batch_s * SAMPLE_RATE_HZ)
        text = self._whisper.text
        self._languages = text.language_ids()
        self._no_speech = text.no_speech_id

    def read(
        self, clips: Sequence[np.ndarray], languages: Sequence[str], silence_s: float
    ) -> list[Reading]:
        window = self._whisper.model.config.window_samples
        padded = [with_silence(clip, silence_s, window) for clip in clips]
        found: dict[int, Reading] = {}
        for batch in batches_by_length([len(clip) for clip in padded], self._batch_samples):
            longest_s = max(len(clips[n]) for n in batch) / SAMPLE_RATE_HZ
            parts = self._batch(
                [padded[n] for n in batch], [languages[n] for n in batch], longest_s
            )
            found.update(zip(batch, parts, strict=True))
        return [found[n] for n in range(len(clips))]

    @torch.no_grad()
    def _batch(
        self, clips: list[np.ndarray], languages: list[str], longest_s: float
    ) -> Iterator[Reading]:
        model, text = self._whisper.model, self._whisper.text
        weight = model.encoder.conv1.weight
        mel, lengths = batch_features(clips, model.config, weight.device)
        encoded = model.encoder(mel.to(weight.dtype), lengths, quantize=False)
        heard = (encoded.hidden, encoded.valid)
        spoken, sure, silent = self._begin(heard, languages)
        prompt = torch.tensor([text.prompt(each or None) for each in spoken], device=weight.device)
        most = _MORE_TOKENS + round(_TOKENS_PER_S * longest_s)
        rows = model.generate(*heard, prompt, most, *text.unsaid)
        scores = self._scores(heard, prompt, rows)
        for row, language, *figures in zip(rows, spoken, sure, scores, silent, strict=True):
            yield Reading(text.decode(row), language, *figures)

    def _begin(
        self, heard: tuple[torch.Tensor, torch.Tensor], languages: list[str]
    ) -> tuple[list[str], list[float], list[float]]:
        """Languages, their probabilities, and those that nothing is said: after one token."""
        start = self._whisper.text.start_id
        first = torch.full((len(languages), 1), start, device=heard[0].device)
        logits = self._whisper.model.decoder(first, *heard)[:, 0].float()
        silent = [0.0] * len(languages)
        if self._no_speech is not None:
            silent = logits.softmax(-1)[:, self._no_speech].tolist()
        if not self._languages:  # English is all it knows
            return [each or "en" for each in languages], [1.0] * len(languages), silent
        names = list(self._languages)
        odds = logits[:, list(self._languages.values())].softmax(-1)
        best, which = odds.max(-1)
        likely = zip(languages, which.tolist(), best.tolist(), strict=True)
        both = [(told, 1.0) if told else (names[at], odd) for told, at, odd in likely]
        return [name for name, _ in both], [odd for _, odd in both], silent

    def _scores(
        self,
        heard: tuple[torch.Tensor, torch.Tensor],
        prompt: torch.Tensor,
        rows: list[list[int]],
    ) -> list[float]:
        """Mean log-probabilities of texts and their ends, in one pass over all of their tokens."""
        end = self._whisper.model.config.eos_token_id
        room = self._whisper.model.config.max_target_positions - prompt.shape[1]
        targets = [[*row, end][:room] for row in rows]
        longest = max(map(len, targets))
        padded = [row + [end] * (longest - len(row)) for row in targets]
        labels = torch.tensor(padded, device=prompt.device)
        logits = self._whisper.model.decoder(torch.cat([prompt, labels[:, :-1]], dim=1), *heard)
        chosen = (
            logits[:, prompt.shape[1] - 1 :].float().log_softmax(-1).gather(2, labels[..., None])
        )
        sums = [chosen[n, : len(row), 0].mean().item() for n, row in enumerate(targets)]
        return [round(each, 4) for each in sums]


class FasterWhisperReader:
    """A Whisper of CTranslate2, clip by clip."""

    def __init__(self, folder: Path, device: str):
        try:
            faster_whisper = importlib.import_module("faster_whisper")
        except ImportError:
            raise ConfigError(
                "--engine faster-whisper needs the package: pip install faster-whisper"
            ) from None
        try:
            self._model = faster_whisper.WhisperModel(
                str(folder),
                device=device,
                cpu_threads=torch.get_num_threads(),
                local_files_only=True,
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise CheckpointError(
                f"{folder} is no Whisper of CTranslate2 ({error}); convert one by "
                "ct2-transformers-converter, or leave --engine away"
            ) from None

    def read(
        self, clips: Sequence[np.ndarray], languages: Sequence[str], silence_s: float
    ) -> list[Reading]:
        return [
            self._read(with_silence(clip, silence_s, round(WINDOW_S * SAMPLE_RATE_HZ)), language)
            for clip, language in zip(clips, languages, strict=True)
        ]

    def _read(self, clip: np.ndarray, language: str) -> Reading:
        pieces, info = self._model.transcribe(
            clip,
            language=language_code(language) if language else None,
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        pieces = list(pieces)
        tokens = sum(len(piece.tokens) + 1 for piece in pieces)
        summed = sum(piece.avg_logprob * (len(piece.tokens) + 1) for piece in pieces)
        return Reading(
            text=" ".join(piece.text.strip() for piece in pieces),
            language=language or info.language,
            language_probability=1.0 if language else float(info.language_probability),
            log_probability=round(summed / tokens, 4) if tokens else -99.0,
            no_speech=max((piece.no_speech_prob for piece in pieces), default=1.0),
        )
