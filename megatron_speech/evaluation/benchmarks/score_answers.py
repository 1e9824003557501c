"""Questions: a reply counts if it holds an answer, by the benchmark's rule and by ours."""

from collections.abc import Sequence, Set
from dataclasses import replace

import numpy as np

from ..context import EvaluationContext, Result
from ..matching import is_right
from ..qa import DIRECTIONS, SAMPLES_KEPT, reply
from .figures import results_of
from .items import Question
from .questions import exist_match
from .sound import Sounds

__all__ = ["DIRECTIONS", "evaluate_questions"]


def evaluate_questions(
    context: EvaluationContext,
    benchmark: str,
    items: Sequence[Question],
    direction: str,
    sounds: Sounds,
    seen: Set[str],
) -> list[Result]:
    """Figures of one direction; spoken questions have been prepared.

    Raises:
        ConfigError: s2s without a speech tokenizer that reads codes back.
    """
    texts = [item.question.text or "" for item in items]
    codes = None if direction == "t2t" else [sounds.codes(item.question) for item in items]
    replies = reply(context, texts, codes, direction, f"{benchmark} {direction}")
    answered = list(zip(replies, items, strict=True))
    points = {
        "exist_match": np.array([float(exist_match(said, i.answers)) for said, i in answered]),
        "contains": np.array([float(is_right(said, i.answers)) for said, i in answered]),
    }
    samples = [
        {"question": text, "references": list(item.answers)[:5], "answer": said}
        for text, item, said in zip(texts, items, replies, strict=True)
    ][:: max(1, -(-len(items) // SAMPLES_KEPT))]
    results = results_of(benchmark, direction, items, points, "exist_match", seen)
    return [replace(result, details={**result.details, "samples": samples}) for result in results]
