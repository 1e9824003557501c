"""What the language model reads: blends of indexed datasets, cut or packed into windows.

Blending, cutting, shuffling and index caches are Megatron-Core's. Packing of whole documents and
loss rules are added here, as one dataset class for both, because a blend is of one class.
"""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

from ..errors import DataError
from ..files import atomic_path
from ..vocab import SpeechTextVocab
from .config import DataConfig, parse_blend
from .indexed_files import DatasetFacts, check_datasets
from .loss_rules import TokenKinds, loss_mask
from .packing import pack_epochs


@dataclass(frozen=True, kw_only=True)
class Datasets:
    """Blends of windows, ready to be indexed."""

    train: Any
    valid: Any | None
    separate_documents: bool
    """Whether some windows hold documents that must not see each other."""
    speech_tokenizer: str | None = None
    """Fingerprint of the speech tokenizer of the codes in them; None if there are none."""


@dataclass
class SpeechTextDatasetConfig(GPTDatasetConfig):
    """Core's dataset config with what loss rules and packing need."""

    facts: dict[str, DatasetFacts] = field(kw_only=True)
    kinds: TokenKinds = field(kw_only=True)
    separate_documents: bool = field(kw_only=True)


class _VocabAsTokenizer:
    """The little that core's datasets ask of a tokenizer."""

    def __init__(self, vocab: SpeechTextVocab):
        self.eod = vocab.eod_id
        self.vocab_size = vocab.padded_size
        self.unique_identifiers = {"vocab_fingerprint": vocab.fingerprint}


class SpeechTextDataset(GPTDataset):
    """One indexed dataset as windows of `seq_length` tokens.

    An item holds tensors (seq_length,): `tokens`, `labels` (tokens shifted by one), `loss_mask`
    (float), `position_ids`, and `documents`, the number of the document within the window that
    each position belongs to (all 0 where attention may cross documents).

    Packing "cut" is core's. With "whole", a document of n tokens takes n - 1 positions (its last
    token is only a label), windows are filled by best fit, and documents that do not fit one
    window are left out and counted in `left_out`.
    """

    config: SpeechTextDatasetConfig
    dataset: Any  # core's IndexedDataset
    dataset_path: str

    def _build_document_sample_shuffle_indices(self):
        self.facts = self.config.facts[self.dataset_path]
        self.kinds = self.config.kinds
        self.eod = self.config.kinds.eod
        self.left_out = 0
        # Core's cache key leaves out what a dataset holds: one rebuilt in place would be read
        # by the indices of the old one.
        status = os.stat(f"{self.dataset_path}.idx")
        self.unique_identifiers["contents"] = [status.st_size, status.st_mtime_ns]
        self.unique_identifiers["packing"] = self.facts.packing
        self._refresh_description()
        if self.facts.packing == "whole":
            return self._build_packed_indices()
        return super()._build_document_sample_shuffle_indices()

    def _refresh_description(self) -> None:
        import hashlib
        import json

        self.unique_description = json.dumps(
            self.unique_identifiers, indent=4, default=lambda obj: obj.unique_identifiers
        )
        digest = hashlib.md5(self.unique_description.encode(), usedforsecurity=False)
        self.unique_description_hash = digest.hexdigest()

    def _build_packed_indices(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        capacity = self.config.sequence_length
        slots = self.dataset.sequence_lengths.astype(np.int64) - 1
        fits = (slots[self.indices] > 0) & (slots[self.indices] <= capacity)
        self.left_out = int(np.count_nonzero(~fits))
        if not fits.any():
            raise DataError(
                f"dataset {self.dataset_path}: no document fits --seq-length {capacity} whole; "
                f"the shortest has {int(slots[self.indices].min()) + 1} tokens"
            )
        name = f"{self.unique_description_hash}-packed-{self.index_split.name}.npz"
        cache = Path(str(self.config.path_to_cache)) / name
        if not cache.exists():
            packed = pack_epochs(
                slots, capacity, self.indices, self.num_samples, self.config.random_seed
            )
            with atomic_path(cache) as temporary, open(temporary, "wb") as stream:
                np.savez(stream, *packed)
        with np.load(cache) as stored:
            documents, starts, shuffle = (stored[f"arr_{index}"] for index in range(3))
        return documents, starts, shuffle

    def __getitem__(self, idx: int | None) -> dict[str, torch.Tensor]:
        window = 0 if idx is None else idx
        whole = self.facts.packing == "whole"
        inputs, labels, documents, mask = self._packed(window) if whole else self._cut(window)
        if idx is None:
            mask = np.zeros_like(mask)
        return {
            "tokens": torch.from_numpy(inputs),
            "labels": torch.from_numpy(labels),
            "loss_mask": torch.from_numpy(mask.astype(np.float32)),
            "position_ids": torch.from_numpy(_positions(documents)),
            "documents": torch.from_numpy(documents),
        }

    def _cut(self, window: int) -> tuple[np.ndarray, ...]:
        ids, _, lengths = self._query_document_sample_shuffle_indices(window)
        inputs, labels = ids[:-1].copy(), ids[1:].copy()
        padding = labels == self._pad_token_id
        inputs[inputs == self._pad_token_id] = self.eod
        labels[padding] = self.eod
        mask = loss_mask(self.facts.loss_rule, inputs, labels, self.kinds) & ~padding
        documents = np.zeros(len(inputs), dtype=np.int64)
        if self.config.separate_documents:
            found = np.repeat(np.arange(len(lengths)), lengths)[: len(inputs)]
            documents[: len(found)] = found
            documents[len(found) :] = found[-1]
            crosses = np.append(np.diff(documents) > 0, False)
            mask &= ~crosses  # nothing says which document comes next
        return inputs, labels, documents, mask

    def _packed(self, window: int) -> tuple[np.ndarray, ...]:
        window = int(self.shuffle_index[window])
        first, last = self.sample_index[window], self.sample_index[window + 1]
        size = self.config.sequence_length
        inputs = np.full(size, self.eod, dtype=np.int64)
        labels, documents = inputs.copy(), np.full(size, last - first, dtype=np.int64)
        mask, position = np.zeros(size, dtype=bool), 0
        for number, document in enumerate(self.document_index[first:last]):
            ids = self.dataset[int(document)].astype(np.int64)
            place = slice(position, position + len(ids) - 1)
            inputs[place], labels[place], documents[place] = ids[:-1], ids[1:], number
            mask[place] = loss_mask(self.facts.loss_rule, ids[:-1], ids[1:], self.kinds)
            position = place.stop
        return inputs, labels, documents, mask


def _positions(documents: np.ndarray) -> np.ndarray:
    """Positions counted from the start of each document."""
    positions = np.arange(len(documents))
    starts = np.append(True, np.diff(documents) != 0)
    return positions - np.maximum.accumulate(np.where(starts, positions, 0))


def build_datasets(
    config: DataConfig, vocab: SpeechTextVocab, samples: tuple[int, int], seed: int
) -> Datasets:
    """Training and validation windows, at least `samples` of each; collective.

    Rank 0 builds sample indices, the others read them from the cache. Documents too long to be
    packed whole are counted on stderr.

    Raises:
        ConfigError, DataError, VocabularyError: the settings or the files do not work; see
            `indexed_files.check_datasets`.
    """
    config.check()
    train = config.train_blend()
    valid = None
    if config.valid_data_path:
        valid = parse_blend(config.valid_data_path, "--valid-data-path")
    facts = check_datasets(train[0] + (valid[0] if valid else []), vocab)
    has_validation = valid is not None or config.split is not None
    blends: dict[str, Any] = {"blend_per_split": [train, valid, None]}
    if config.split is not None:
        blends = {"blend": train, "split": config.split}
    sizes = [samples[0], samples[1] if has_validation else 0, 0]
    core_config = SpeechTextDatasetConfig(
        random_seed=seed,
        sequence_length=config.seq_length,
        path_to_cache=str(config.data_cache_path),
        tokenizer=cast(Any, _VocabAsTokenizer(vocab)),
        reset_position_ids=False,
        reset_attention_mask=config.reset_attention_mask,
        eod_mask_loss=False,
        create_attention_mask=False,
        facts=facts,
        kinds=TokenKinds.of(vocab),
        separate_documents=config.reset_attention_mask,
        **blends,
    )
    builder = BlendedMegatronDatasetBuilder(SpeechTextDataset, sizes, lambda: True, core_config)
    built = builder.build()
    for blend in built[: 1 + has_validation]:
        _report_left_out(blend)
    known = {found.tokenizer_fingerprint for found in facts.values()}
    return Datasets(
        train=built[0],
        valid=built[1] if has_validation else None,
        separate_documents=config.reset_attention_mask
        or any(found.packing == "whole" for found in facts.values()),
        speech_tokenizer=max(filter(None, known), default=None),  # they agree: check_datasets
    )


def _report_left_out(blend: Any) -> None:
    if torch.distributed.is_initialized() and torch.distributed.get_rank():
        return
    for dataset in getattr(blend, "datasets", [blend]):
        if dataset.left_out:
            print(
                f"{dataset.dataset_path}: {dataset.left_out:,} of {len(dataset.indices):,} "
                f"documents are longer than --seq-length {dataset.config.sequence_length} and "
                "are left out (packing is by whole documents)",
                file=sys.stderr,
            )
