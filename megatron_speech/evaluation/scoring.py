"""How likely an exported language model finds endings after a context.

Everything here reads a Hugging Face folder; nothing knows how the model was trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ..errors import CheckpointError, ConfigError
from ..jobs.progress import Progress
from ..model.exported import load_exported
from ..text.vocab import SpeechTextVocab

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Query:
    """Endings that share a context. Token ids; the context starts with end-of-document."""

    context: np.ndarray
    """(c,) with c >= 1."""
    endings: tuple[np.ndarray, ...]
    """Each (e,) with e >= 1."""

    def __post_init__(self) -> None:
        if not len(self.context) or not self.endings or not all(map(len, self.endings)):
            raise ConfigError(
                f"a query has a context of {len(self.context)} tokens and endings of "
                f"{[len(ending) for ending in self.endings]}; each needs at least one token"
            )

    def __len__(self) -> int:
        return len(self.context) + sum(map(len, self.endings))


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """An exported model with its vocabulary, ready to score and to generate."""

    model: Any
    """A causal language model of transformers."""
    vocab: SpeechTextVocab
    batch_tokens: int = 8192
    """Padded tokens of one forward pass."""

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        precision: Precision = "fp32",
        device: str = "cpu",
        batch_tokens: int = 8192,
        text_only: bool = False,
    ) -> "LanguageModel":
        """Load an exported folder; weights are read from safetensors only. With `text_only`, a base
        model that has no codes will do.

        Raises:
            CheckpointError: the folder holds no such model, or one smaller than its vocabulary.
            VocabularyError: the folder's vocabulary is missing or damaged.
        """
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        model, vocab = load_exported(folder, dtype, device, text_only)
        return cls(model=model, vocab=vocab, batch_tokens=batch_tokens)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def score(self, queries: Sequence[Query], description: str = "scoring") -> list[np.ndarray]:
        """log p(ending | context) of every ending, natural logarithm, summed over its tokens.

        Queries are sorted by length and padded on the right; the endings of a query sit behind
        one copy of their context, each blind to the others. Returns one (endings,) float64 array
        per query, in the given order.

        Raises:
            CheckpointError: a query is longer than the model's positions.
        """
        self._check_lengths(queries)
        order = sorted(range(len(queries)), key=lambda index: len(queries[index]))
        results: list[np.ndarray] = [np.empty(0)] * len(queries)
        batches = _batches_by_length([len(queries[i]) for i in order], self.batch_tokens)
        with Progress(description, len(queries), "contexts") as bar:
            for start, stop in batches:
                members = order[start:stop]
                scores = self._score_batch([queries[i] for i in members])
                for index, score in zip(members, scores, strict=True):
                    results[index] = score
                bar.advance(stop - start)
        return results

    def _check_lengths(self, queries: Sequence[Query]) -> None:
        limit = getattr(self.model.config, "max_position_embeddings", None)
        for query in queries:
            longest = len(query.context) + max(map(len, query.endings))
            if limit is not None and longest > limit:
                raise CheckpointError(
                    f"a context with its ending has {longest} tokens; the model was made for at "
                    f"most {limit} positions. Leave the item out or train on longer sequences"
                )

    @torch.inference_mode()
    def _score_batch(self, queries: Sequence[Query]) -> list[np.ndarray]:
        batch = _pack(queries)
        length = batch.tokens.shape[1]
        keep = length - int(batch.predicted_at.min())
        logits = self.model(
            input_ids=torch.from_numpy(batch.tokens).to(self.device),
            position_ids=torch.from_numpy(batch.positions).to(self.device),
            attention_mask=torch.from_numpy(batch.mask).to(self.device),
            logits_to_keep=keep,
            use_cache=False,
        ).logits
        rows, at, targets = (
            torch.from_numpy(array).to(self.device)
            for array in (batch.rows, batch.predicted_at - (length - keep), batch.targets)
        )
        needed = logits[rows, at].float()
        chosen = needed.gather(1, targets[:, None])[:, 0] - needed.logsumexp(dim=1)
        if not chosen.isfinite().all():
            raise CheckpointError(
                "the model's log-likelihoods are NaN or infinite, so no ending is likelier than "
                "another; its weights are damaged or overflow in their type: load another "
                "checkpoint, or float32"
            )
        sums = np.bincount(
            batch.ending, weights=chosen.double().cpu().numpy(), minlength=batch.ending[-1] + 1
        )
        counts = np.cumsum([len(query.endings) for query in queries])[:-1]
        return np.split(sums, counts)


@dataclass(frozen=True, kw_only=True)
class _Packed:
    tokens: np.ndarray
    """(batch, length), int64."""
    positions: np.ndarray
    """(batch, length), int64."""
    mask: np.ndarray
    """(batch, 1, length, length), bool: who sees whom."""
    rows: np.ndarray
    """(scored,) row of each token that is scored."""
    predicted_at: np.ndarray
    """(scored,) position whose logits predict it."""
    targets: np.ndarray
    """(scored,) its id."""
    ending: np.ndarray
    """(scored,) number, within the batch, of the ending it belongs to."""


def _pack(queries: Sequence[Query]) -> _Packed:
    """Lay out each query as context, ending, ending, ... in one row."""
    length = max(map(len, queries))
    tokens = np.zeros((len(queries), length), dtype=np.int64)
    positions = np.zeros((len(queries), length), dtype=np.int64)
    # Every position sees itself, padding too: a row of softmax over nothing would be NaN.
    mask = np.repeat(np.eye(length, dtype=bool)[None, None], len(queries), axis=0)
    rows, at, targets, endings, count = [], [], [], [], 0
    causal = np.tri(length, dtype=bool)
    for row, query in enumerate(queries):
        prompt = len(query.context)
        tokens[row, :prompt] = query.context
        positions[row, :prompt] = np.arange(prompt)
        mask[row, 0, :prompt, :prompt] = causal[:prompt, :prompt]
        start = prompt
        for ending in query.endings:
            stop = start + len(ending)
            tokens[row, start:stop] = ending
            positions[row, start:stop] = prompt + np.arange(len(ending))
            mask[row, 0, start:stop, :prompt] = True
            mask[row, 0, start:stop, start:stop] = causal[: stop - start, : stop - start]
            rows.append(np.full(len(ending), row))
            at.append(np.concatenate([[prompt - 1], np.arange(start, stop - 1)]))
            targets.append(np.asarray(ending, dtype=np.int64))
            endings.append(np.full(len(ending), count))
            start, count = stop, count + 1
    return _Packed(
        tokens=tokens,
        positions=positions,
        mask=mask,
        rows=np.concatenate(rows),
        predicted_at=np.concatenate(at).astype(np.int64),
        targets=np.concatenate(targets),
        ending=np.concatenate(endings),
    )


def _batches_by_length(lengths: Sequence[int], batch_tokens: int) -> list[tuple[int, int]]:
    """Cut ascending lengths into (start, stop) so that stop-start times the longest fits."""
    batches, start = [], 0
    for index, length in enumerate(lengths):
        if index > start and (index - start + 1) * length > batch_tokens:
            batches.append((start, index))
            start = index
    return [*batches, (start, len(lengths))] if lengths else []
