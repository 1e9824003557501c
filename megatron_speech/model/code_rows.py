"""First embedding rows of speech codes, which lie among each other as the codes do.

Codes that are near each other in the quantizer's space stand for like sounds. Rows drawn without
regard to that have to learn it from data, thousands of rows one by one; a random projection of
those points to the width of the model gives it to them (docs/log.md, 2026-11-30).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import VocabularyError
from ..text.vocab import SpeechTextVocab

_SHARED = 0.9
"""Share of a row's variance that is its code's place; the rest is its own."""
_SEED_OF_PROJECTION = 1 << 32


@dataclass(frozen=True)
class CodePoints:
    """Where the codes of a speech tokenizer lie."""

    points: Float[Tensor, "codes dimensions"]
    speech_tokenizer: str
    """Fingerprint of the speech tokenizer."""

    def require_fit(self, num_codes: int, speech_tokenizer: str | None) -> None:
        """Refuse points of other codes; an unknown (None) tokenizer has only to have as many.

        Raises:
            VocabularyError: they are of another number of codes, or of another tokenizer.
        """
        if len(self.points) != num_codes:
            raise VocabularyError(
                f"--speech-tokenizer has {len(self.points)} codes, the vocabulary {num_codes}; "
                "give the one that it was made for"
            )
        if speech_tokenizer not in (None, self.speech_tokenizer):
            raise VocabularyError(
                f"--speech-tokenizer is {self.speech_tokenizer}, but the codes are of "
                f"{speech_tokenizer}; give the one that made them"
            )

    def arrange(self, noise: Float[Tensor, "rows width"], first: int, seed: int) -> None:
        """Make standard normals such that rows are near each other where their codes are.

        The rows are of the codes `first`, `first` + 1 and so on; those below code 0 stay as they
        are. Mean and variance stay about 0 and 1. `seed` is that of the projection.
        """
        dimensions, width = self.points.size(1), noise.size(1)
        generator = torch.Generator().manual_seed(seed + _SEED_OF_PROJECTION)
        projection = torch.randn((dimensions, width), generator=generator).to(noise)
        points = self._scaled[max(first, 0) : max(first + len(noise), 0)].to(noise)
        own = noise[len(noise) - len(points) :]
        own *= (1 - _SHARED) ** 0.5
        own += (_SHARED / dimensions) ** 0.5 * (points @ projection)

    @cached_property
    def _scaled(self) -> Tensor:
        """The points about zero, with a variance of 1 on average over the dimensions."""
        points = self.points.double() - self.points.double().mean(0)
        return points / points.square().mean().sqrt().clamp(min=1e-12)


def start_code_rows(
    chunks: Sequence[Any], codes: CodePoints, vocab: SpeechTextVocab, deviation: float, seed: int
) -> None:
    """Set the rows of codes in a new model's embedding and output layer; needs a session.

    Every process has the same rows, of which it takes those in its range; a tied table on the first
    and the last pipeline stage stays one table.
    """
    from megatron.core import parallel_state

    rank = parallel_state.get_tensor_model_parallel_rank()
    for chunk in chunks:
        tables = {}
        if chunk.pre_process:
            tables[0] = chunk.embedding.word_embeddings.weight
        tied = chunk.share_embeddings_and_output_weights
        if chunk.post_process and not (tied and chunk.pre_process):
            tables[0 if tied else 1] = chunk.output_layer.weight
        for number, table in tables.items():
            generator = torch.Generator().manual_seed(2 * seed + number)
            rows = torch.randn((vocab.num_codes, table.size(1)), generator=generator)
            codes.arrange(rows, 0, 2 * seed + number)
            start = vocab.code_offset - rank * len(table)
            low, high = (min(max(n, 0), len(table)) for n in (start, start + len(rows)))
            with torch.no_grad():
                table[low:high] = deviation * rows[low - start : high - start]
