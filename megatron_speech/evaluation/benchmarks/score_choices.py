"""Multiple choice: the option that the model finds likeliest after the question counts.

    t2t   opening question answer ... question | option          (in lines)
    s2t   begin codes end | answer ... begin codes end | option

A tie of k likeliest, the right one among them, counts 1/k. As many solved examples are given as fit
the model's positions, the same number to every item.
"""

from collections.abc import Sequence, Set
from dataclasses import replace

import numpy as np

from ..context import Result
from ..scoring import LanguageModel, Query
from .figures import results_of
from .items import Choice, Utterance
from .sound import Sounds

DIRECTIONS = ("t2t", "s2t")


def evaluate_choices(
    model: LanguageModel,
    benchmark: str,
    items: Sequence[Choice],
    direction: str,
    sounds: Sounds,
    seen: Set[str],
) -> list[Result]:
    """Figures of one direction; what is heard has been prepared."""
    limit = getattr(model.model.config, "max_position_embeddings", None)
    most = max(len(item.shots) for item in items)
    queries: list[Query] = []
    for shots in range(most, -1, -1):
        queries = [query_of(item, shots, direction, model, sounds) for item in items]
        longest = max(len(q.context) + max(map(len, q.endings)) for q in queries)
        if limit is None or longest <= limit:
            most = shots
            break
    scores = model.score(queries, f"{benchmark} {direction}")
    points = {
        "likeliest": np.array([
            float(total[item.right] == total.max()) / (total == total.max()).sum()
            for total, item in zip(scores, items, strict=True)
        ])
    }  # fmt: skip
    results = results_of(benchmark, direction, items, points, "likeliest", seen)
    return [
        replace(r, details={**r.details, "shots": most, "chance": 1 / len(items[0].options)})
        for r in results
    ]


def query_of(
    item: Choice, shots: int, direction: str, model: LanguageModel, sounds: Sounds
) -> Query:
    """Token ids of an item's prompt with `shots` examples, and of its options."""
    vocab = model.vocab
    tokens: list[int] = [vocab.eod_id]

    def ask(said: Utterance) -> None:
        if direction == "s2t":
            tokens.extend(vocab.speech_segment(sounds.codes(said)).tolist())
        else:
            tokens.extend(vocab.text.encode(f"{said.text}\n"))

    if item.opening is not None and shots:
        ask(item.opening)
    for shot in item.shots[:shots]:
        ask(shot.question)
        tokens.extend(vocab.text.encode(f"{shot.answer}\n"))
    ask(item.question)
    endings = tuple(np.array(vocab.text.encode(option)) for option in item.options)
    return Query(context=np.array(tokens), endings=endings)
