"""Export of a checkpoint to the layout of the released GLM-4 models, as one of theirs has it."""

import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch

from ..errors import CheckpointError
from ..io.model_folders import is_chatglm, resolve_model
from ..text.vocab import SpeechTextVocab
from .chatglm import MODEL_TYPE, chatglm_shards
from .config import TRAINING_ONLY, ModelConfig
from .hf_config import model_from_config, read_config
from .safetensors_folder import INDEX
from .safetensors_writer import Output, write_files

_COPIED = (
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    INDEX,
)
"""Not its Python: who wants to run that takes it from the folder."""


def write_chatglm(
    folder: Path,
    outputs: Iterable[Output],
    model: ModelConfig,
    vocab: SpeechTextVocab,
    dtype: torch.dtype,
    like: Path,
) -> int:
    """Write tensors of a glm export as `like` has its own: names, order, division into files; the
    rest is copied from there. A base that was not trained comes back byte for byte. Returns the
    number of parameters.

    Raises:
        CheckpointError: `like` is of another layout, model, vocabulary or type of numbers.
    """
    like = resolve_model(like)
    if not is_chatglm(like):
        raise CheckpointError(f"--chatglm {like} is no folder of model type {MODEL_TYPE}")
    theirs, ours = asdict(model_from_config(read_config(like), like)), asdict(model)
    differ = [n for n in ours if ours[n] != theirs[n] and n not in TRAINING_ONLY]
    if differ:
        said = ", ".join(f"{name} {ours[name]} instead of {theirs[name]}" for name in differ)
        raise CheckpointError(
            f"the checkpoint is no model like that of --chatglm {like}: it has {said}; export it "
            "without --chatglm"
        )
    if SpeechTextVocab.as_it_is(like).fingerprint != vocab.fingerprint:
        raise CheckpointError(
            f"the checkpoint has another vocabulary than --chatglm {like}, whose tokenizer files "
            "cannot express it (it was imported with --num-codes?); export it without --chatglm"
        )
    files = chatglm_shards(outputs, model, like, dtype)
    parameters = write_files(folder, files, dtype)
    for name in _COPIED:
        if (like / name).is_file():
            shutil.copyfile(like / name, folder / name)
    vocab.save_facts(folder)
    return parameters
