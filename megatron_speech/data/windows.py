"""One indexed dataset as an endless row of windows, cut or packed, with its loss rule."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from .epochs import Epoch, cached, contents_key, cut_epoch, packed_epoch
from .indexed_files import DatasetFacts
from .loss_rules import RuleTokens, loss_mask
from .preferences import Preferences, is_rejected, read_reference


class SpeechTextDataset:
    """One indexed dataset as windows of `seq_length` tokens.

    An item holds tensors (seq_length,): `tokens`, `labels` (tokens shifted by one), `loss_mask`
    (float), `position_ids`, and `documents`, the number of the document within the window that
    each position belongs to (all 0 where attention may cross documents). With loss rule
    "preference" also `pairs` and `reference`, see `Preferences`.

    With packing "cut", documents are read as one stream. With "whole", a document of n tokens
    takes n - 1 positions (its last token is only a label), windows are filled by best fit, and
    documents that do not fit one window are left out and counted in `left_out`.

    Args:
        prefix: path of the dataset.
        facts: contents of `<prefix>.json`.
        kinds: the token ids that loss rules look at.
        seq_length: tokens in a window.
        vocabulary_size: rows of the model's embedding; a window with other ids is refused.
        share: which part of the documents, from 0 to 1.
        separate: keep documents apart in cut windows too.
    """

    def __init__(
        self,
        prefix: str,
        facts: DatasetFacts,
        kinds: RuleTokens,
        seq_length: int,
        *,
        vocabulary_size: int,
        share: tuple[float, float] = (0.0, 1.0),
        separate: bool = False,
    ):
        from megatron.core.datasets.indexed_dataset import IndexedDataset

        self.prefix, self.facts, self.share = prefix, facts, share
        self._kinds, self._size, self._separate = kinds, seq_length, separate
        self._vocabulary_size = vocabulary_size
        self._tokens: Any = IndexedDataset(prefix)
        self._lengths: np.ndarray = self._tokens.sequence_lengths
        self._reference: np.ndarray | None = None
        if facts.loss_rule == "preference":
            self._reference = read_reference(prefix, len(self._lengths))
        first, last = (round(part * len(self._lengths)) for part in share)
        self.documents = np.arange(first, last, dtype=np.int32)
        self._epochs: list[Epoch] = []
        self._ends: list[int] = []
        self._check()

    def _check(self) -> None:
        lengths, self.left_out = self._lengths[self.documents], 0
        if not lengths.sum(dtype=np.int64):
            raise DataError(
                f"dataset {self.prefix}: none of the {len(self._lengths):,} documents falls into "
                f"the part {self.share[0]:g} to {self.share[1]:g} that --split asks for"
            )
        if self.facts.packing == "whole":
            fits = (lengths > 1) & (lengths - 1 <= self._size)
            self.left_out = int(np.count_nonzero(~fits))
            if not fits.any():
                raise DataError(
                    f"dataset {self.prefix}: no document fits --seq-length {self._size} whole; "
                    f"the shortest has {int(lengths.min()):,} tokens"
                )

    def build(self, windows: int, cache: Path, seed: int) -> None:
        """Make the first `windows` windows readable; what is missing in `cache` is built."""
        key = contents_key(self.prefix, self._size, self.facts.packing, self.share, seed)
        make = packed_epoch if self.facts.packing == "whole" else cut_epoch
        while not self._ends or self._ends[-1] < windows:
            number = len(self._epochs)

            def arrays(number: int = number) -> list[np.ndarray]:
                generator = np.random.default_rng([seed, number])
                epoch = make(self._lengths, self._size, self.documents, generator)
                return [epoch.documents, epoch.starts, epoch.order]

            parts = ["documents", "starts", "order"]
            epoch = Epoch(*cached(cache, f"{key}-{number}", parts, arrays))
            self._epochs.append(epoch)
            self._ends.append(len(epoch.order) + (self._ends[-1] if self._ends else 0))

    @property
    def windows_per_epoch(self) -> int:
        """Windows of the first epoch; later ones of packed documents may differ by a few."""
        return self._ends[0]

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        epoch = self._epochs[number]
        window = int(epoch.order[index - (self._ends[number - 1] if number else 0)])
        read = self._packed if self.facts.packing == "whole" else self._cut
        inputs, labels, documents, mask, preferences = read(epoch, window)
        self._require_ids(inputs)
        self._require_ids(labels)
        item = {
            "tokens": torch.from_numpy(inputs),
            "labels": torch.from_numpy(labels),
            "loss_mask": torch.from_numpy(mask.astype(np.float32)),
            "position_ids": torch.from_numpy(_positions(documents)),
            "documents": torch.from_numpy(documents),
        }
        if preferences is not None:
            item["pairs"] = torch.from_numpy(preferences.pairs)
            item["reference"] = torch.from_numpy(preferences.reference)
        return item

    def _require_ids(self, ids: np.ndarray) -> None:
        """Refuse ids (n,) without an embedding row; on a GPU they would end in a device assertion
        or, where the embedding is split over processes, be taken for zeros."""
        if ids.view(np.uint64).max() >= self._vocabulary_size:  # negative ids are huge ones here
            raise DataError(
                f"dataset {self.prefix} holds token ids {ids.min()}..{ids.max()}, the vocabulary "
                f"has 0..{self._vocabulary_size - 1}: {self.prefix}.bin is damaged or of another "
                "vocabulary; build the dataset again"
            )

    def _cut(self, epoch: Epoch, window: int) -> tuple[Any, ...]:
        (first, begin), (last, end) = epoch.starts[window : window + 2].tolist()
        parts = []
        for place in range(first, last + 1):
            offset = begin if place == first else 0
            length = end + 1 - offset if place == last else None
            parts.append(self._tokens.get(int(epoch.documents[place]), offset, length))
        ids = np.concatenate(parts, dtype=np.int64)
        inputs, labels = ids[:-1].copy(), ids[1:].copy()
        mask = loss_mask(self.facts.loss_rule, inputs, labels, self._kinds)
        documents = np.zeros(len(inputs), dtype=np.int64)
        if self._separate:
            found = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
            documents[:] = found[: len(inputs)]
            mask &= found[1:] == documents  # nothing says which document comes next
        return inputs, labels, documents, mask, None

    def _packed(self, epoch: Epoch, window: int) -> tuple[Any, ...]:
        first, last = epoch.starts[window : window + 2].tolist()
        inputs = np.full(self._size, self._kinds.eod, dtype=np.int64)
        preferences = None if self._reference is None else Preferences.none(self._size)
        each = 1 if preferences is None else 2  # two answers must not see each other
        documents = np.full(self._size, each * (last - first), dtype=np.int64)
        labels = inputs.copy()
        mask, position = np.zeros(self._size, dtype=bool), 0
        for number, document in enumerate(epoch.documents[first:last].tolist()):
            ids = self._tokens[document].astype(np.int64)
            place = slice(position, position + len(ids) - 1)
            inputs[place], labels[place], documents[place] = ids[:-1], ids[1:], each * number
            mask[place] = loss_mask(self.facts.loss_rule, ids[:-1], ids[1:], self._kinds)
            if preferences is not None and self._reference is not None:
                rejected = is_rejected(ids[:-1], self._kinds.eod)
                documents[place] += rejected
                preferences.add(place, rejected, float(self._reference[document]))
            position = place.stop
        return inputs, labels, documents, mask, preferences


def _positions(documents: np.ndarray) -> np.ndarray:
    """Positions counted from the start of each document."""
    positions = np.arange(len(documents))
    starts = np.append(True, np.diff(documents) != 0)
    return positions - np.maximum.accumulate(np.where(starts, positions, 0))
