"""A tiny text-to-token model with random weights, some of whose texts end."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from megatron_speech.text.vocab import SpeechTextVocab


def write_model(folder: Path, vocab: SpeechTextVocab, width: int = 32, heads: int = 4) -> None:
    """An exported folder: Llama of two layers and the vocabulary."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab.padded_size,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        tie_word_embeddings=False,
        initializer_range=0.5,
    )
    model = LlamaForCausalLM(config)
    model.lm_head.weight.data[vocab.end_of_audio_id] *= 1.5  # so that some texts end
    model.save_pretrained(folder)
    vocab.save_pretrained(folder)
