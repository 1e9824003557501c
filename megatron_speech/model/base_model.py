"""Import of a Hugging Face base model as a torch_dist checkpoint to start from."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..io.files import write_text
from ..io.model_folders import origin, resolve_model
from ..jobs.claims import exclusive
from ..jobs.folders import atomic_folder, require_own
from ..text.tokenizers import TiktokenTokenizer
from ..text.vocab import SpeechTextVocab
from ..training import checkpoint
from ..training.megatron.checkpoint_check import IDENTITY_KEY
from ..training.megatron.parallel import session
from ..training.parallel_config import ParallelConfig
from .card import RUN_CONFIG
from .code_rows import CodePoints
from .config import ModelConfig
from .families import (
    EMBEDDING,
    FINAL_NORM,
    OUTPUT,
    Rule,
    get_family,
    hf_shapes,
    merge,
    shape_in_megatron,
    tensor_parallel_axis,
)
from .hf_config import model_from_config, open_weights, read_config, read_generation_ids
from .new_rows import ExtendedTable, NewRowsConfig, TextLoss
from .text_check import check_base, cut_into_windows, read_check_text
from .torch_dist import Piece, write_checkpoint

_ROWS_PER_PIECE = 8192
_MOST_UNUSED = 1024
"""Embeddings are padded to a multiple of some hundreds."""


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
    check_text: Path | None = None
    """Text file on which the loss is measured before and after new rows are added (the first 4,096
    tokens); some English sentences if not given."""
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
    text_loss: TextLoss | None
    """What their rows do to the base, None where nothing is added."""


def import_base(config: ImportConfig, codes: CodePoints | None = None) -> Import:
    """Write the base model in `config.hf` as step 0 of a run folder, `config.save`.

    Text rows of the embedding stay what they are; rows of added tokens are drawn, rows that pad
    the vocabulary are zero. With `codes`, these are the codes that are added, and the rows of
    those that lie near each other are alike. Beside the checkpoint lie the extended vocabulary
    (`vocab/`) and `run_config.yaml` with the model's shape. The folder exists whole or not at all.

    Raises:
        CheckpointError: the folder is no model of a known family, it is incomplete or damaged, or
            `save` holds something else than an import.
        VocabularyError: its tokenizer is missing or holds another number of codes.
        ConfigError: --hf or --save is missing, `codes` are given for a base that has codes or
            beside --num-codes, the layout does not divide the model, or `save`
            holds more than an import.
        InUseError: another process writes the folder.
    """
    hf, save = config.hf, config.save
    if hf is None or save is None:
        raise ConfigError("--hf and --save are both needed")
    if codes is not None and config.num_codes is not None:
        raise ConfigError("give either --num-codes or --speech-tokenizer")
    with exclusive(save):
        _require_replaceable(save)
        base = _Base(resolve_model(hf), config, codes)
        with session(ParallelConfig()), atomic_folder(save) as staging:
            _write(staging, base, config)
    return Import(
        folder=save,
        model=base.model,
        vocab=base.vocab,
        parameters=base.model.num_parameters(base.rows),
        added_rows=base.added_rows,
        text_loss=base.text_loss,
    )


def _require_replaceable(save: Path) -> None:
    """An import may take the place of another, never that of a run or of anything else."""
    if save.exists() and not (save.is_dir() and not any(save.iterdir())):
        if save.is_dir() and checkpoint.latest_iteration(save) == 0:
            require_own(save, (checkpoint.MARKER, "iter_0000000", "vocab", RUN_CONFIG))
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
    came_from |= asdict(config.new_rows)
    if base.codes is not None:
        came_from["codebook_of"] = base.codes.speech_tokenizer
    if base.text_loss is not None:
        came_from["text_loss"] = asdict(base.text_loss)
    facts: dict[str, Any] = {"base": came_from, "model": asdict(base.model)}
    write_text(folder / RUN_CONFIG, yaml.safe_dump(facts, sort_keys=False))
    checkpoint.commit(folder, 0, None)


def _extra_states(model: ModelConfig) -> list[str]:
    """Keys of what modules may keep besides weights (fp8 statistics): asked for, though empty."""
    modules = ["self_attention.linear_qkv", "self_attention.linear_proj"]
    modules += ["mlp.linear_fc1", "mlp.linear_fc2"]
    if model.qk_layernorm and not model.post_norm:
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

    def __init__(self, hf: Path, config: ImportConfig, codes: CodePoints | None):
        self.codes = codes
        self._config = read_config(hf)
        self.model = model_from_config(self._config, hf)
        self.family = get_family(self.model)
        self.rows = self._config.vocab_size
        self.generation_ids = read_generation_ids(hf, self._config)
        self.source = open_weights(hf, self.model, self.rows)
        self._require_tensors()
        self.dtype = self.source.dtype()
        num_codes = config.num_codes if codes is None else len(codes.points)
        self.vocab = (
            SpeechTextVocab.as_it_is(hf)
            if num_codes is None
            else SpeechTextVocab.extend(hf, num_codes)
        )
        if codes is not None:
            self._require_new(codes, hf)
            self.vocab = replace(self.vocab, speech_tokenizer=codes.speech_tokenizer)
        self._ranks = config.tensor_model_parallel_size
        self._require_vocabulary(hf)
        layout = ParallelConfig(tensor_model_parallel_size=self._ranks)
        self.model.check_layout(layout, 1, self.vocab.padded_size)
        # one tensor is asked for once per piece, piece after piece
        self._merged = lru_cache(maxsize=1)(self._merge)
        names = {EMBEDDING: self.family.embedding}
        if self.model.untie_embeddings_and_output_weights:
            names[OUTPUT] = self.family.output
        sizes = (self.vocab.text.size, self.vocab.size, self.rows)
        self._tables = {
            key: ExtendedTable(self.source, name, number, sizes, config.new_rows, codes)
            for number, (key, name) in enumerate(names.items())
        }
        self.text_loss = self._measure(config.check_text) if self.added_rows else None

    def _require_tensors(self) -> None:
        family, shapes = self.family, hf_shapes(self.model, self.rows)
        if family.output in self.source.entries:  # a tied model may store it a second time
            shapes[family.output] = shapes[family.embedding]
        self.source.require(shapes)

    def _require_new(self, codes: CodePoints, hf: Path) -> None:
        if self.added_rows < len(codes.points):
            raise ConfigError(
                f"{hf} has rows for speech codes already, which stay as they are; drop "
                "--speech-tokenizer"
            )

    def _require_vocabulary(self, hf: Path) -> None:
        tokens = self.vocab.text.size
        if tokens > self.rows:
            raise CheckpointError(
                f"{hf}: the tokenizer has {tokens} tokens, but the model's embedding only "
                f"{self.rows} rows; they do not belong together, or tokens were added without "
                "resizing the model"
            )
        if isinstance(self.vocab.text, TiktokenTokenizer) and self.rows - tokens >= _MOST_UNUSED:
            raise CheckpointError(
                f"{hf}: of the {self.rows} rows of the embedding only {tokens} have a token; "
                "tokenizer_config.json or added_tokens.json lack the others (speech codes, for "
                "one), download them again"
            )

    @property
    def added_rows(self) -> int:
        """Rows of tokens that the base does not know."""
        return self.vocab.size - self.vocab.text.size

    def pieces(self) -> Iterator[Piece]:
        """All tensors, in the order they are best written."""
        yield from self._table_pieces(EMBEDDING, self._tables[EMBEDDING])
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
            yield from self._table_pieces(OUTPUT, self._tables[OUTPUT])

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

    def _table_pieces(self, key: str, table: ExtendedTable) -> Iterator[Piece]:
        """An embedding or output layer, in blocks of rows that no two ranks share."""
        width, of_rank = self.model.hidden_size, self.vocab.padded_size // self._ranks
        for first in range(0, self.vocab.padded_size, of_rank):
            for start in range(first, first + of_rank, _ROWS_PER_PIECE):
                stop = min(start + _ROWS_PER_PIECE, first + of_rank)

                yield Piece(
                    key=key,
                    tensor_shape=(self.vocab.padded_size, width),
                    offsets=(start, 0),
                    shape=(stop - start, width),
                    dtype=self.dtype,
                    read=partial(table.rows, start, stop),
                )

    def _measure(self, path: Path | None) -> TextLoss:
        """Fit new rows that give logits to a text, and tell what they do to its loss."""
        ids = self.vocab.text.encode(read_check_text(path))
        windows = cut_into_windows(ids, self.model.max_position_embeddings)
        check = check_base(self.source, self._config, self.family, windows)
        return [*self._tables.values()][-1].fit(check)  # the one that gives the logits
