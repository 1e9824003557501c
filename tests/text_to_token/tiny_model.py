"""A tiny text-to-token model with random weights, some of whose texts end."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from megatron_speech.text.vocab import SpeechTextVocab


def save_llama(folder: Path, vocab: SpeechTextVocab, louder: int | None = None, **changes) -> Path:
    """An exported folder: a random Llama of two layers, far from uniform, and its vocabulary.

    `louder` is a token whose logits are larger than drawn.
    """
    torch.manual_seed(0)
    settings = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.5,
        "tie_word_embeddings": False,
    }
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab.padded_size, **settings | changes))
    if louder is not None:
        model.lm_head.weight.data[louder] *= 1.5
    model.save_pretrained(folder)
    vocab.save_pretrained(folder)
    return folder


def write_model(folder: Path, vocab: SpeechTextVocab, width: int = 32, heads: int = 4) -> None:
    """One that ends some of its texts."""
    sizes = {"hidden_size": width, "intermediate_size": 2 * width}
    sizes |= {"num_attention_heads": heads, "num_key_value_heads": heads // 2}
    save_llama(folder, vocab, vocab.end_of_audio_id, **sizes)
