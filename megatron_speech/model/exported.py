"""An exported Hugging Face folder, loaded: all that reads one starts here."""

from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..io.files import find_in
from ..io.model_folders import load_weights, read_settings
from ..text.vocab import SpeechTextVocab


def read_exported_config(
    folder: str | Path, text_only: bool = False
) -> tuple[Any, SpeechTextVocab]:
    """The model's config of transformers, and its vocabulary; no weights are read.

    With `text_only`, a base model that has no codes will do.

    Raises:
        CheckpointError: the folder holds no such model, or one smaller than its vocabulary.
        VocabularyError: the folder's vocabulary is missing or damaged.
    """
    from transformers import AutoConfig

    folder = Path(folder)
    if not (folder / "config.json").exists() or not find_in(folder, "*.safetensors"):
        raise CheckpointError(
            f"{folder} is no exported model: expected config.json and *.safetensors; "
            "export one with tools/convert_checkpoint.py megatron-to-hf"
        )
    config = read_settings(AutoConfig, folder)
    read = SpeechTextVocab.as_it_is if text_only else SpeechTextVocab.from_pretrained
    vocab = read(folder)
    if config.vocab_size < vocab.size:
        raise CheckpointError(
            f"{folder} has {config.vocab_size} embedding rows but a vocabulary of {vocab.size} "
            "tokens; model and tokenizer do not belong together"
        )
    return config, vocab


def load_exported(
    folder: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    text_only: bool = False,
) -> tuple[Any, SpeechTextVocab]:
    """A causal language model of transformers, in eval mode and without gradients, and its
    vocabulary. Read as `model_folders` says: safetensors of this folder, and no code. With
    `text_only`, a base model that has no codes will do.

    Raises:
        CheckpointError: the folder holds no such model, or one smaller than its vocabulary.
        VocabularyError: the folder's vocabulary is missing or damaged.
    """
    from transformers import AutoModelForCausalLM

    _, vocab = read_exported_config(folder, text_only)
    model = load_weights(AutoModelForCausalLM, folder, dtype=dtype, attn_implementation="sdpa")
    model.requires_grad_(False)
    return model.to(device).eval(), vocab
