"""A language model whose figures can be worked out by hand, and audio whose codes can be seen.

Every token has one probability wherever it stands. Code k costs k bits more than code 0, and so
does a text token whose first letter is the k-th after `a`, so of two utterances the one of the
smaller mean (or sum) is the likelier one.
"""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import soundfile
import torch

from megatron_speech.evaluation.scoring import LanguageModel
from megatron_speech.vocab import SpeechTextVocab

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

    def generate(self, input_ids, attention_mask, max_new_tokens, eos_token_id, **_):
        rows = []
        for ids, mask in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
            prompt = tuple(token for token, seen in zip(ids, mask, strict=True) if seen)
            said = self.replies.get(prompt, [])[:max_new_tokens]
            rows.append(ids + said + [eos_token_id] * (max_new_tokens - len(said)))
        return torch.tensor(rows)


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
