"""A language model whose figures can be worked out by hand, and audio whose codes can be seen.

Every token has one probability wherever it stands. Code k costs k bits more than code 0, and so
does a text token whose first letter is the k-th after `a`, so of two utterances the one of the
smaller mean (or sum) is the likelier one.
"""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from megatron_speech.evaluation import qa
from megatron_speech.evaluation.scoring import LanguageModel
from megatron_speech.text.vocab import SpeechTextVocab

SAMPLES = 160
FINGERPRINT = "e" * 16


class Unigram(torch.nn.Module):
    """Logits (batch, kept, vocabulary) that are the same everywhere; scripted replies."""

    def __init__(self, vocab: SpeechTextVocab, replies: dict[tuple[int, ...], list[int]]):
        super().__init__()
        bits = np.full(vocab.padded_size, 30.0)
        for token in range(vocab.text.size):
            letter = vocab.text.decode([token]).strip()[:1].lower()
            bits[token] = ord(letter) - ord("a") if "a" <= letter <= "z" else 3.0
        bits[vocab.code_offset : vocab.code_offset + vocab.num_codes] = np.arange(vocab.num_codes)
        bits[vocab.end_of_audio_id] = 0.0
        self.weight = torch.nn.Parameter(torch.tensor(-np.log(2) * bits, dtype=torch.float32))
        self.replies, self.vocab = replies, vocab
        self.config = SimpleNamespace(max_position_embeddings=None)

    def forward(self, input_ids, logits_to_keep=0, **_):
        shape = (len(input_ids), logits_to_keep or input_ids.shape[1], len(self.weight))
        return SimpleNamespace(logits=self.weight.expand(shape))

    def get_output_embeddings(self):
        return SimpleNamespace(weight=self.weight[:, None])


class ScriptedDecoder:
    """Stands in for the decoding loop: what a `Unigram` was told to reply to a prompt."""

    def __init__(self, model: Unigram, *, tokens: Sequence[int], end_token: int):
        self.replies, self.places = model.replies, {token: n for n, token in enumerate(tokens)}

    def decode(self, prompts: Sequence[np.ndarray], most_codes: Sequence[int], seeds: np.ndarray):
        found = []
        for prompt, most in zip(prompts, most_codes, strict=True):
            said = self.replies.get(tuple(prompt.tolist()), [])
            places = np.array([self.places[token] for token in said[:most]], np.int64)
            found.append((places, len(said) <= most))
        return found


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    """What imports this fixture decodes by script."""
    monkeypatch.setattr(qa, "BatchDecoder", ScriptedDecoder)


def unigram(folder: Path, replies: dict[tuple[int, ...], list[int]] | None = None) -> LanguageModel:
    vocab = SpeechTextVocab.from_pretrained(folder)
    return LanguageModel(model=Unigram(vocab, replies or {}), vocab=vocab)


class SeenTokenizer:
    """Reads the codes that `write_wav` drew, and says them back as letters."""

    num_codes, frame_rate_hz, fingerprint = 16, 100.0, FINGERPRINT

    def encode(self, audio: Sequence[np.ndarray], sample_rate_hz: int = 16_000) -> list[np.ndarray]:
        return [
            np.rint(clip.reshape(-1, SAMPLES).mean(1) * 32 - 1).astype(np.int64) for clip in audio
        ]

    def decode_text(self, codes, languages=None) -> list[str]:
        return [" ".join("abcdefghijklmnop"[code] for code in own) for own in codes]


def write_wav(path: Path, codes: Sequence[int]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.repeat((np.array(codes) + 1) / 32, SAMPLES), 16_000, format="WAV")
    return path
