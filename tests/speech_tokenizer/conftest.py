from pathlib import Path

import numpy as np
import pytest
import torch

from megatron_speech.speech_tokenizer.config import SpeechTokenizerConfig
from megatron_speech.speech_tokenizer.model import SpeechTokenizerModel
from megatron_speech.speech_tokenizer.text import AsrText, train_text_tokenizer
from megatron_speech.speech_tokenizer.tokenizer import SpeechTokenizer

TINY = {
    "d_model": 32,
    "encoder_layers": 4,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 64,
    "num_mel_bins": 80,
    "mel_dynamic_range": "fixed",
    "max_target_positions": 64,
    "init_std": 0.2,
    "pooling_position": 1,
    "quantize_position": 2,
    "quantize_vocab_size": 64,
    "quantize_causal_block_size": 16,
}


@pytest.fixture
def tiny_config() -> SpeechTokenizerConfig:
    return SpeechTokenizerConfig(**TINY)


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    train_text_tokenizer(["the cat sat on the mat", "a dog ran"] * 4, 300, folder)
    return folder


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """Loud noise whose spectrum changes: every frame is different."""
    random = np.random.default_rng(seed)
    envelope = 0.2 + 0.8 * np.abs(np.sin(np.arange(samples) / 2000 + seed))
    return (0.3 * envelope * random.standard_normal(samples)).astype(np.float32)


@pytest.fixture
def make_noise():
    return noise


@pytest.fixture
def make_tokenizer(text_folder):
    """A tokenizer with random weights whose codebook lies among its vectors."""

    def make(**changes) -> SpeechTokenizer:
        torch.manual_seed(0)
        text = AsrText(text_folder)
        known = {"vocab_size": text.size, "eos_token_id": text.eos_id}
        known["decoder_start_token_id"] = text.start_id
        model = SpeechTokenizerModel(SpeechTokenizerConfig(**TINY | known | changes)).eval()
        tokenizer = SpeechTokenizer(model, text)
        from megatron_speech.speech_tokenizer.features import clip_features, collate_features

        samples = min(32_000, model.config.window_samples)
        clips = [
            clip_features(noise(samples, seed), model.config) for seed in range(192_000 // samples)
        ]
        mel, lengths = collate_features(clips)
        with torch.no_grad():
            hidden, valid, *_ = model.encoder.lower(mel, lengths)
            if model.encoder.quantizer is not None:
                model.encoder.quantizer.initialise(hidden[valid], rounds=3)
        return tokenizer

    return make
