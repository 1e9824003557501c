"""Export of a training checkpoint to a Hugging Face folder, one layer in memory at a time."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ..errors import CheckpointError
from ..files import replace_folder, write_json
from ..training.checkpoint import iteration_directory, latest_iteration
from ..training.megatron_checkpoint import IDENTITY_KEY, SPEECH_TOKENIZER_KEY, read_common
from ..training.parallel import ParallelConfig, session
from ..vocab import SpeechTextVocab
from .config import ModelConfig
from .families import Family, get_family, shape_in_megatron, split

MAX_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True, kw_only=True)
class Export:
    """What an export wrote."""

    folder: Path
    model: ModelConfig
    iteration: int
    parameters: int


def export_checkpoint(load: Path, hf: Path, vocab_folder: Path | None = None) -> Export:
    """Write the newest checkpoint of the run `load` as a Hugging Face folder `hf`.

    The checkpoint may have been saved under any layout; this needs one process. Rows that pad the
    vocabulary are left out. The folder holds safetensors, config.json, generation_config.json,
    the tokenizer and the vocabulary (which names the speech tokenizer of the codes the model
    learned), and exists whole or not at all; one found there is replaced.

    Raises:
        CheckpointError: no checkpoint, or one of another vocabulary; `hf` holds something else
            than an export; or the files could not be written.
        ConfigError: the model's family has no layout here.
    """
    _require_replaceable(hf)
    iteration = latest_iteration(load)
    if iteration is None:
        raise CheckpointError(f"{load} holds no checkpoint: latest_checkpointed_iteration.txt")
    directory = iteration_directory(load, iteration)
    vocab = SpeechTextVocab.from_pretrained(vocab_folder or load / "vocab")
    with session(ParallelConfig()):
        stored = _stored_identity(directory, vocab)
        names = {field.name for field in fields(ModelConfig)}
        model = ModelConfig(**{name: value for name, value in stored.items() if name in names})
        known = stored.get(SPEECH_TOKENIZER_KEY) or vocab.speech_tokenizer
        vocab = replace(vocab, speech_tokenizer=known)
        family = get_family(model)
        staging = hf.parent / f".{hf.name}.{os.getpid()}.part"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            tensors = checkpoint_tensors(directory, model, vocab)
            parameters = _write_shards(staging, tensors, MAX_SHARD_BYTES)
            _write_configs(staging, model, family, vocab, directory)
            replace_folder(staging, hf)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return Export(folder=hf, model=model, iteration=iteration, parameters=parameters)


def _require_replaceable(hf: Path) -> None:
    """An export may take the place of another, never that of a run or of anything else."""
    parts = ("config.json", "speech_text_vocab.json")
    if hf.is_dir() and (all((hf / name).exists() for name in parts) or not any(hf.iterdir())):
        return
    if hf.exists():
        raise CheckpointError(
            f"{hf} exists and is no exported model, so it is not replaced; give --hf a new folder"
        )


def _stored_identity(directory: Path, vocab: SpeechTextVocab) -> dict[str, Any]:
    stored = read_common(directory).get(IDENTITY_KEY)
    if stored is None:
        raise CheckpointError(
            f"{directory} does not say what model it holds; was it made by tools/pretrain.py?"
        )
    if stored["vocab"] != vocab.fingerprint:
        raise CheckpointError(
            f"{directory} was trained with vocabulary {stored['vocab']}, but the given one is "
            f"{vocab.fingerprint}; give --vocab the folder used in training"
        )
    return stored


def checkpoint_tensors(
    directory: Path, model: ModelConfig, vocab: SpeechTextVocab
) -> Iterator[tuple[str, Tensor]]:
    """Hugging Face names and tensors of a checkpoint, layer by layer; needs a session.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
    """
    family = get_family(model)
    width, dtype = model.hidden_size, _stored_dtype(directory)
    rows = (vocab.padded_size, width)
    embedding = _read(directory, {"embedding.word_embeddings.weight": rows}, dtype)
    yield family.embedding, embedding.popitem()[1][: vocab.size]
    shapes = {
        f"decoder.layers.{rule.megatron}": shape_in_megatron(rule, model) for rule in family.layer
    }
    for index in range(model.num_layers):
        layer = _read(directory, shapes, dtype, layer=(index, model.num_layers))
        for rule in family.layer:
            parts = split(rule, layer[f"decoder.layers.{rule.megatron}"], model)
            for name, part in zip(rule.huggingface, parts, strict=True):
                yield family.layer_prefix.format(index) + name, part
    norm = _read(directory, {"decoder.final_layernorm.weight": (width,)}, dtype)
    yield family.final_norm, norm.popitem()[1]
    if model.untie_embeddings_and_output_weights:
        output = _read(directory, {"output_layer.weight": rows}, dtype)
        yield family.output, output.popitem()[1][: vocab.size]


def _stored_dtype(directory: Path) -> torch.dtype:
    from torch.distributed.checkpoint import FileSystemReader

    metadata = FileSystemReader(directory).read_metadata().state_dict_metadata
    return metadata["embedding.word_embeddings.weight"].properties.dtype  # type: ignore[union-attr]


def _read(
    directory: Path,
    shapes: dict[str, tuple[int, ...]],
    dtype: torch.dtype,
    layer: tuple[int, int] | None = None,
) -> dict[str, Tensor]:
    """Read whole tensors, or one layer's slice of stacked ones.

    Raises:
        CheckpointError: a tensor is missing or has another shape.
    """
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing import ShardedTensor
    from megatron.core.dist_checkpointing.core import CheckpointingException

    wanted = {}
    for key, shape in shapes.items():
        if layer is None:
            wanted[key] = ShardedTensor.from_rank_offsets(key, torch.empty(shape, dtype=dtype))
        else:  # layers lie stacked along a first axis
            data = torch.empty((1, *shape), dtype=dtype)
            wanted[key] = ShardedTensor.from_rank_offsets(key, data, (0, *layer))
    try:
        loaded: Any = dist_checkpointing.load(
            wanted, str(directory), validate_access_integrity=False
        )
    except (CheckpointingException, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{directory} lacks a tensor of its own model, it is damaged: {error}"
        ) from None
    return {key: loaded[key].reshape(shape) for key, shape in shapes.items()}


def _write_shards(folder: Path, tensors: Iterator[tuple[str, Tensor]], max_bytes: int) -> int:
    """Write safetensors files of at most `max_bytes` and their index; returns parameters."""
    shards: list[list[str]] = []
    pending: dict[str, Tensor] = {}
    size = total = parameters = 0

    def flush() -> None:
        if pending:
            try:
                save_file(pending, folder / f"shard-{len(shards)}", metadata={"format": "pt"})
            except SafetensorError as error:
                raise CheckpointError(f"{folder} could not be written: {error}") from None
            shards.append(list(pending))
            pending.clear()

    for name, tensor in tensors:
        if size + tensor.nbytes > max_bytes:
            flush()
            size = 0
        pending[name] = tensor.contiguous()
        size, total = size + tensor.nbytes, total + tensor.nbytes
        parameters += tensor.numel()
    flush()
    for written in folder.glob("shard-*"):
        written.chmod(0o644)  # safetensors leaves them readable by the owner alone
    if len(shards) == 1:
        os.rename(folder / "shard-0", folder / "model.safetensors")
        return parameters
    weight_map = {}
    for index, names in enumerate(shards):
        file_name = f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        os.rename(folder / f"shard-{index}", folder / file_name)
        weight_map |= dict.fromkeys(names, file_name)
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
    )
    return parameters


def _write_configs(
    folder: Path, model: ModelConfig, family: Family, vocab: SpeechTextVocab, directory: Path
) -> None:
    from transformers import GenerationConfig

    vocab.save_pretrained(folder)
    config = family.config(model, vocab.size)
    config.dtype = _stored_dtype(directory)
    config.bos_token_id = config.eos_token_id = config.pad_token_id = vocab.eod_id
    config.save_pretrained(folder)
    GenerationConfig(
        bos_token_id=vocab.eod_id, eos_token_id=vocab.eod_id, pad_token_id=vocab.eod_id
    ).save_pretrained(folder)
