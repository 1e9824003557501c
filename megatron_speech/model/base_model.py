"""Import of a Hugging Face base model as a torch_dist checkpoint to start from."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from ..claims import exclusive
from ..errors import CheckpointError, ConfigError
from ..files import write_text
from ..folders import atomic_folder
from ..model_folders import origin, resolve_model
from ..training import checkpoint
from ..training.checkpoint_check import IDENTITY_KEY
from ..training.parallel import session
from ..training.parallel_config import ParallelConfig
from ..vocab import SpeechTextVocab
from .card import RUN_CONFIG
from .config import ModelConfig
from .families import (
    EMBEDDING,
    FINAL_NORM,
    OUTPUT,
    Rule,
    get_family,
    merge,
    shape_in_megatron,
    shapes_in_hf,
    tensor_parallel_axis,
)
from .hf_config import model_from_config, read_config, read_generation_ids
from .new_rows import NewRowsConfig, draw_rows
from .safetensors_folder import SafetensorsFolder
from .torch_dist import Piece, write_checkpoint

_ROWS_PER_PIECE = 8192


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """A Hugging Face folder to a checkpoint that training starts from."""

    hf: Path | None = None
    """The base model: a folder with config.json, safetensors and tokenizer, or its id on the
    Hugging Face hub (OWNER/NAME, OWNER/NAME@REVISION)."""
    save: Path | None = None
    """Folder to write; an earlier import found there is replaced."""
    num_codes: int | None = None
    """Speech codes to add to the vocabulary; none if not given (those it has are kept)."""
    tensor_model_parallel_size: int = 1
    """Store tensors in as many pieces, so that each rank of such a layout reads its own alone.
    Any layout can load the result."""
    new_rows: NewRowsConfig = field(default_factory=NewRowsConfig)


@dataclass(frozen=True, kw_only=True)
class Import:
    """What an import wrote."""

    folder: Path
    model: ModelConfig
    vocab: SpeechTextVocab
    parameters: int
    """Of the base model."""
    added_rows: int
    """Tokens added to its vocabulary."""


def import_base(config: ImportConfig) -> Import:
    """Write the base model in `config.hf` as step 0 of a run folder, `config.save`.

    Text rows of the embedding stay what they are; rows of added tokens are drawn, rows that pad
    the vocabulary are zero. Beside the checkpoint lie the extended vocabulary (`vocab/`) and
    `run_config.yaml` with the model's shape. The folder exists whole or not at all.

    Raises:
        CheckpointError: the folder is no model of a known family, it is incomplete or damaged, or
            `save` holds something else than an import.
        VocabularyError: its tokenizer is missing or holds another number of codes.
        ConfigError: --hf or --save is missing, or the layout does not divide the model.
        InUseError: another process writes the folder.
    """
    hf, save = config.hf, config.save
    if hf is None or save is None:
        raise ConfigError("--hf and --save are both needed")
    with exclusive(save):
        _require_replaceable(save)
        base = _Base(resolve_model(hf), config)
        with session(ParallelConfig()), atomic_folder(save) as staging:
            _write(staging, base, config)
    return Import(
        folder=save,
        model=base.model,
        vocab=base.vocab,
        parameters=base.model.num_parameters(base.rows),
        added_rows=base.added_rows,
    )


def _require_replaceable(save: Path) -> None:
    """An import may take the place of another, never that of a run or of anything else."""
    if save.exists() and not (save.is_dir() and not any(save.iterdir())):
        if save.is_dir() and checkpoint.latest_iteration(save) == 0:
            return
        raise CheckpointError(
            f"{save} exists and is no imported base model, so it is not replaced; give --save a "
            "new folder"
        )


def _write(folder: Path, base: "_Base", config: ImportConfig) -> None:
    directory = checkpoint.begin(folder, 0)
    identity = base.model.identity(base.vocab, base.vocab.speech_tokenizer)
    common = {IDENTITY_KEY: identity, "content_metadata": {}}
    write_checkpoint(directory, list(base.pieces()), _extra_states(base.model), common)
    base.vocab.save_pretrained(folder / "vocab")
    base.generation_ids.save_pretrained(folder / "vocab")
    came_from = {"hf": origin(base.source.folder), "added_rows": base.added_rows}
    facts: dict[str, Any] = {
        "base": {**came_from, **asdict(config.new_rows)},
        "model": asdict(base.model),
    }
    write_text(folder / RUN_CONFIG, yaml.safe_dump(facts, sort_keys=False))
    checkpoint.commit(folder, 0, None)


def _extra_states(model: ModelConfig) -> list[str]:
    """Keys of what modules may keep besides weights (fp8 statistics): asked for, though empty."""
    modules = ["self_attention.linear_qkv", "self_attention.linear_proj"]
    modules += ["mlp.linear_fc1", "mlp.linear_fc2"]
    if model.qk_layernorm:
        modules += ["self_attention.q_layernorm", "self_attention.k_layernorm"]
    layers = range(model.num_layers)
    keys = [
        f"decoder.layers.{module}._extra_state/shard_{index}_{len(layers)}"
        for module in modules
        for index in layers
    ]
    return [*keys, "decoder.final_layernorm._extra_state/shard_0_1"]


class _Base:
    """A base model's folder, checked, and its tensors as Megatron's."""

    def __init__(self, hf: Path, config: ImportConfig):
        self._config = read_config(hf)
        self.model = model_from_config(self._config, hf)
        self.family = get_family(self.model)
        self.rows = self._config.vocab_size
        self.generation_ids = read_generation_ids(hf, self._config)
        self.source = SafetensorsFolder(hf)
        self._require_tensors()
        self.dtype = self.source.dtype()
        self.vocab = (
            SpeechTextVocab.as_it_is(hf)
            if config.num_codes is None
            else SpeechTextVocab.extend(hf, config.num_codes)
        )
        self._ranks = config.tensor_model_parallel_size
        self._require_vocabulary(hf)
        layout = ParallelConfig(tensor_model_parallel_size=self._ranks)
        self.model.check_layout(layout, 1, self.vocab.padded_size)
        self._new_rows = config.new_rows
        # one tensor is asked for once per piece, piece after piece
        self._merged = lru_cache(maxsize=1)(self._merge)
        self._drawn = lru_cache(maxsize=1)(self._draw)

    def _require_tensors(self) -> None:
        family, model = self.family, self.model
        table = (self.rows, model.hidden_size)
        shapes = {family.embedding: table, family.final_norm: (model.hidden_size,)}
        # a tied model may store its output layer a second time
        if model.untie_embeddings_and_output_weights or family.output in self.source.entries:
            shapes[family.output] = table
        for index in range(model.num_layers):
            prefix = family.layer_prefix.format(index)
            for rule in family.layer:
                shapes |= {prefix + name: s for name, s in shapes_in_hf(rule, model).items()}
        self.source.require(shapes)

    def _require_vocabulary(self, hf: Path) -> None:
        tokens = self.vocab.text.size
        if tokens > self.rows:
            raise CheckpointError(
                f"{hf}: the tokenizer has {tokens} tokens, but the model's embedding only "
                f"{self.rows} rows; they do not belong together, or tokens were added without "
                "resizing the model"
            )

    @property
    def added_rows(self) -> int:
        """Rows of tokens that the base does not know."""
        return self.vocab.size - self.vocab.text.size

    def pieces(self) -> Iterator[Piece]:
        """All tensors, in the order they are best written."""
        yield from self._table(EMBEDDING, self.family.embedding, 0)
        for index in range(self.model.num_layers):
            for rule in self.family.layer:
                yield from self._layer_pieces(index, rule)
        norm, width = self.family.final_norm, (self.model.hidden_size,)
        yield Piece(
            key=FINAL_NORM,
            tensor_shape=width,
            offsets=(0,),
            shape=width,
            dtype=self.dtype,
            read=lambda: self.source.read(norm),
        )
        if self.model.untie_embeddings_and_output_weights:
            yield from self._table(OUTPUT, self.family.output, 1)

    def _layer_pieces(self, index: int, rule: Rule) -> Iterator[Piece]:
        """One tensor of one layer, cut as the ranks of the layout will ask for it."""
        whole, axis = shape_in_megatron(rule, self.model), tensor_parallel_axis(rule)
        parts = 1 if axis is None else self._ranks
        if rule.megatron == "mlp.linear_fc1.weight":  # each rank has a part of gate and of up
            parts *= 2
        axis = axis or 0
        size = whole[axis] // parts
        shape = (*whole[:axis], size, *whole[axis + 1 :])
        for part in range(parts):
            offsets = [index, *(0 for _ in whole)]
            offsets[axis + 1] = part * size

            def read(start: int = part * size) -> Tensor:
                return self._merged(index, rule).narrow(axis, start, size)

            yield Piece(
                key=f"decoder.layers.{rule.megatron}",
                tensor_shape=(self.model.num_layers, *whole),
                offsets=tuple(offsets),
                shape=(1, *shape),
                dtype=self.dtype,
                read=read,
            )

    def _merge(self, index: int, rule: Rule) -> Tensor:
        prefix = self.family.layer_prefix.format(index)
        parts = [self.source.read(prefix + name) for name in rule.huggingface]
        return merge(rule, parts, self.model)

    def _table(self, key: str, name: str, number: int) -> Iterator[Piece]:
        """An embedding or output layer, in blocks of rows that no two ranks share."""
        width, of_rank = self.model.hidden_size, self.vocab.padded_size // self._ranks
        for first in range(0, self.vocab.padded_size, of_rank):
            for start in range(first, first + of_rank, _ROWS_PER_PIECE):
                stop = min(start + _ROWS_PER_PIECE, first + of_rank)

                def read(start: int = start, stop: int = stop) -> Tensor:
                    return self._rows(name, number, start, stop)

                yield Piece(
                    key=key,
                    tensor_shape=(self.vocab.padded_size, width),
                    offsets=(start, 0),
                    shape=(stop - start, width),
                    dtype=self.dtype,
                    read=read,
                )

    def _rows(self, name: str, number: int, start: int, stop: int) -> Tensor:
        """Rows of a table: the base's where it has a token or nothing is added, drawn, or zero."""
        text, used, base = self.vocab.text.size, self.vocab.size, self.rows
        rows = torch.zeros((stop - start, self.model.hidden_size), dtype=self.dtype)
        for low, high, is_new in ((0, text, False), (text, used, True), (used, base, False)):
            low, high = max(low, start), min(high, stop)
            if low < high and is_new:
                rows[low - start : high - start] = self._drawn(name, number)[
                    low - text : high - text
                ]
            elif low < high:
                rows[low - start : high - start] = self.source.read(name, slice(low, high))
        return rows

    def _draw(self, name: str, number: int) -> Tensor:
        read, text = partial(self.source.read, name), self.vocab.text.size
        return draw_rows(self._new_rows, read, text, self.added_rows, number)
