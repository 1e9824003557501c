"""A folder with a tiny speech tokenizer of random weights, for tools."""

from pathlib import Path

import numpy as np
import soundfile
import torch

from megatron_speech.data.manifest import ManifestRow, write_manifest
from megatron_speech.speech_tokenizer.config import SpeechTokenizerConfig
from megatron_speech.speech_tokenizer.features import clip_features, collate_features
from megatron_speech.speech_tokenizer.model import SpeechTokenizerModel
from megatron_speech.speech_tokenizer.tokenizer import SpeechTokenizer


def save_tiny_tokenizer(folder: Path, **changes) -> Path:
    """Write it; the same bytes every time."""
    torch.manual_seed(0)
    settings = {
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_layers": 1,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 64,
        "num_mel_bins": 80,
        "mel_dynamic_range": "fixed",
        "vocab_size": 300,
        "eos_token_id": 0,
        "init_std": 0.2,
        "pooling_position": 1,
        "quantize_position": 1,
        "quantize_vocab_size": 64,
    }
    model = SpeechTokenizerModel(SpeechTokenizerConfig(**settings | changes)).eval()
    noise = torch.randn(20, 16_000) * torch.linspace(0.01, 0.5, 20)[:, None]
    with torch.no_grad():  # codes among the vectors, so that what is heard decides
        features = [clip_features(row, model.config) for row in noise]
        hidden, valid, *_ = model.encoder.lower(*collate_features(features))
        model.encoder.quantizer.initialise(hidden[valid], rounds=3)
    SpeechTokenizer(model).save_pretrained(folder)
    return folder


def write_clips(folder: Path, count: int) -> None:
    """A tokenizer and a manifest of half seconds of noise in a folder; the first is silent."""
    save_tiny_tokenizer(folder / "tokenizer")
    rows = []
    for number in range(count):
        path = folder / f"{number}.wav"
        sound = 0.2 * np.random.default_rng(number).standard_normal(8000)
        soundfile.write(path, sound if number else np.zeros(8000), 16000)
        rows.append(ManifestRow(id=str(number), path=path, text="hello"))
    write_manifest(folder / "manifest.parquet", rows)
