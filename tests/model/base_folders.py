"""Small random base models of every family, in Hugging Face's layout."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from tests.data.language_data import make_vocab
from tests.model.base_world import ROWS

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "olmo2", "glm")


def write_base(
    folder: Path, family: str, tied: bool, dtype: torch.dtype = torch.float32, **settings: object
) -> PreTrainedModel:
    """Write config, safetensors and tokenizer of a random model; returns the model.

    Biases and norms, which transformers starts at 0 and 1, are random as well.
    """
    rope: dict[str, object] = {"rope_type": "default", "rope_theta": 5000.0}
    if family == "glm":
        rope["partial_rotary_factor"] = 0.5
    values: dict[str, object] = {
        "vocab_size": ROWS,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 8 if family in ("qwen2", "olmo2") else 16,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
        "rope_parameters": rope,
        "initializer_range": 0.15,
        "eos_token_id": 0,
        "pad_token_id": 0,
        "bos_token_id": None,
    }
    if family == "glm":
        values["attention_bias"] = True
    if family == "mistral":
        values["sliding_window"] = None
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(values | settings))
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    model = model.to(dtype).eval()
    model.save_pretrained(folder)
    make_vocab(folder)
    for path in (folder / "base").iterdir():
        path.rename(folder / path.name)
    return model
