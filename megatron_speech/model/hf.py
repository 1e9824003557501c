"""Export of a training checkpoint to a Hugging Face folder, one tensor of a layer at a time."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..io.files import read_json_object, write_text
from ..jobs.claims import exclusive
from ..jobs.folders import atomic_folder, require_own
from ..text.vocab import SpeechTextVocab
from ..training.checkpoint import iteration_directory, latest_iteration
from ..training.megatron.checkpoint import DATA_KEY
from ..training.megatron.checkpoint_check import (
    IDENTITY_KEY,
    LORA_KEY,
    SPEECH_TOKENIZER_KEY,
    check_files,
    read_common,
)
from ..training.megatron.parallel import session
from ..training.parallel_config import ParallelConfig
from .card import RUN_CONFIG, Facts, model_card
from .chatglm_export import write_chatglm
from .config import ModelConfig
from .families import (
    EMBEDDING,
    FINAL_NORM,
    OUTPUT,
    get_family,
    shape_in_megatron,
    shapes_in_hf,
    split,
)
from .hf_config import config_from_model
from .lora_export import CONFIG as ADAPTER_CONFIG
from .lora_export import Adapters, find_base
from .safetensors_writer import Output, write_shards
from .torch_dist import read_layer, read_whole, stored_dtype

MAX_SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True, kw_only=True)
class Export:
    """What an export wrote."""

    folder: Path
    model: ModelConfig
    iteration: int
    parameters: int


@dataclass(frozen=True, kw_only=True)
class ExportForm:
    """The layout of an export, and what becomes of the adapters of a LoRA run."""

    chatglm: Path | None = None
    """Write the layout of the released GLM-4 instead, as this folder has it: the one that was
    imported. Config and tokenizer files are copied from it, Python is not."""

    lora: Literal["merged", "adapters"] = "merged"
    """Of a LoRA run: one model with the adapters merged into their base, or the adapters alone in
    peft's layout."""
    pretrained_checkpoint: Path | None = None
    """The base of the adapters; where the run found it if not given."""
    base_hf: str | None = None
    """What adapter_config.json is to say of the base: its Hugging Face folder or hub id."""


def export_checkpoint(
    load: Path, hf: Path, vocab_folder: Path | None = None, form: ExportForm | None = None
) -> Export:
    """Write the newest checkpoint of the run `load` as a Hugging Face folder `hf`, in `form`.

    The checkpoint may have been saved under any layout; this needs one process. Rows that pad the
    vocabulary are left out. The folder holds safetensors, config.json, generation_config.json,
    the tokenizer, the vocabulary (which names the speech tokenizer of the codes the model learned)
    and a model card, and exists whole or not at all; one found there is replaced. Adapters of a
    LoRA run are merged into their base, or written alone.

    Raises:
        CheckpointError: no checkpoint, one that is damaged or of another vocabulary, `hf` holds
            something else than an export, `form.chatglm` or the adapters' base is another.
        ConfigError: the model's family cannot express it, or `hf` holds more than an export.
        InUseError: another process writes the folder.
    """
    with exclusive(hf), ExitStack() as stack:
        _require_replaceable(hf)
        iteration = latest_iteration(load)
        if iteration is None:
            raise CheckpointError(f"{load} holds no checkpoint: latest_checkpointed_iteration.txt")
        directory = iteration_directory(load, iteration)
        vocab = SpeechTextVocab.from_pretrained(vocab_folder or load / "vocab")
        stack.enter_context(session(ParallelConfig()))
        check_files(directory)
        common = read_common(directory)
        stored = _stored_identity(common, directory, vocab)
        model = ModelConfig.from_mapping(stored)
        known = stored.get(SPEECH_TOKENIZER_KEY) or vocab.speech_tokenizer
        vocab = replace(vocab, speech_tokenizer=known)
        get_family(model)
        form = form or ExportForm()
        has_adapters = stored.get(LORA_KEY) is not None
        adapters = Adapters.of_checkpoint(directory, model, stored) if has_adapters else None
        alone = adapters is not None and form.lora == "adapters"
        if alone and form.chatglm is not None:
            raise ConfigError("--chatglm is a layout of whole models; give --lora merged")
        with atomic_folder(hf) as staging:
            if alone and adapters is not None:
                vocab.save_pretrained(staging)
                parameters = adapters.write(staging, form.base_hf, load / RUN_CONFIG)
            else:
                if adapters is not None:
                    directory = find_base(load, form.pretrained_checkpoint, stored)
                    check_files(directory)
                dtype = adapters.dtype if adapters else stored_dtype(directory, EMBEDDING)
                outputs = checkpoint_tensors(directory, model, vocab, adapters)
                if form.chatglm is not None:
                    parameters = write_chatglm(staging, outputs, model, vocab, dtype, form.chatglm)
                else:
                    parameters = write_shards(staging, outputs, dtype, MAX_SHARD_BYTES)
                    _write_configs(staging, model, vocab, dtype)
            if form.chatglm is None:
                windows = common.get(DATA_KEY, {}).get("consumed_samples")
                facts = Facts(hf.name, iteration, windows, parameters, alone)
                _write_card(staging, facts, load, model, vocab)
    return Export(folder=hf, model=model, iteration=iteration, parameters=parameters)


def _write_card(
    folder: Path, facts: Facts, run: Path, model: ModelConfig, vocab: SpeechTextVocab
) -> None:
    write_text(folder / "README.md", model_card(facts, run / RUN_CONFIG, model, vocab))


_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.md", "*.tiktoken")
"""Of exports; no folders, and nothing that others make of them (`*.gguf`)."""


def _require_replaceable(hf: Path) -> None:
    """An export may take the place of another, never that of a run or of anything else."""
    parts = (("config.json", ADAPTER_CONFIG), ("speech_text_vocab.json",))
    is_export = all(any((hf / name).exists() for name in names) for names in parts)
    if hf.is_dir() and (is_export or not any(hf.iterdir())):
        require_own(hf, _FILES)
        return
    if hf.exists():
        raise CheckpointError(
            f"{hf} exists and is no exported model, so it is not replaced; give --hf a new folder"
        )


def _stored_identity(
    common: dict[str, Any], directory: Path, vocab: SpeechTextVocab
) -> dict[str, Any]:
    stored = common.get(IDENTITY_KEY)
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
    directory: Path, model: ModelConfig, vocab: SpeechTextVocab, adapters: Adapters | None = None
) -> Iterator[Output]:
    """The Hugging Face tensors of a checkpoint, read when they are asked for; needs a session.

    `adapters` that were trained beside the checkpoint are merged into it.

    Raises:
        CheckpointError: when read, a tensor is missing, damaged or of another shape.
    """
    family = get_family(model)
    width, rows = model.hidden_size, vocab.embedding_rows
    dtype = stored_dtype(directory, EMBEDDING)

    def table(key: str) -> Tensor:
        found = read_whole(directory, key, (vocab.padded_size, width), dtype)[:rows]
        return found if adapters is None else adapters.merge_table(key, found)

    @lru_cache(maxsize=1)  # its tensors are asked for one after the other
    def layer(index: int) -> dict[str, Tensor]:
        shapes = {f"decoder.layers.{r.megatron}": shape_in_megatron(r, model) for r in family.layer}
        tensors = read_layer(directory, shapes, dtype, index, model.num_layers)
        weights = {
            name: part
            for rule in family.layer
            for name, part in zip(
                rule.huggingface,
                split(rule, tensors[f"decoder.layers.{rule.megatron}"], model),
                strict=True,
            )
        }
        return weights if adapters is None else adapters.merge(index, weights)

    def norm() -> Tensor:
        found = read_whole(directory, FINAL_NORM, (width,), dtype)
        return found if adapters is None else found.to(adapters.dtype)

    yield Output(family.embedding, (rows, width), partial(table, EMBEDDING))
    for index in range(model.num_layers):
        prefix = family.layer_prefix.format(index)
        for rule in family.layer:
            for name, shape in shapes_in_hf(rule, model).items():
                yield Output(prefix + name, shape, lambda i=index, n=name: layer(i)[n])
    yield Output(family.final_norm, (width,), norm)
    if model.untie_embeddings_and_output_weights:
        yield Output(family.output, (rows, width), partial(table, OUTPUT))


def _write_configs(
    folder: Path, model: ModelConfig, vocab: SpeechTextVocab, dtype: torch.dtype
) -> None:
    """Tokenizer, config.json and generation_config.json, which agree on where text ends."""
    from transformers import GenerationConfig

    vocab.save_pretrained(folder)
    ids = _generation_ids(folder, vocab.eod_id)
    config_from_model(model, vocab.embedding_rows, dtype=dtype, **ids).save_pretrained(folder)
    GenerationConfig(**ids).save_pretrained(folder)


def _generation_ids(folder: Path, eod_id: int) -> dict[str, Any]:
    """The base model's ids, where it had some; the end of a document always ends generation."""
    if not (folder / "generation_config.json").exists():
        return dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), eod_id)
    base = read_json_object(folder / "generation_config.json")
    eos, pad = base.get("eos_token_id"), base.get("pad_token_id")
    ends = eos if isinstance(eos, list) else [eos] if eos is not None else []
    if eod_id not in ends:
        eos = [*ends, eod_id] if ends else eod_id
    return {
        "bos_token_id": base.get("bos_token_id"),
        "eos_token_id": eos,
        "pad_token_id": pad if pad is not None else eod_id,
    }
