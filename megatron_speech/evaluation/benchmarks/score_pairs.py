"""Pairs: which of two does the model find likelier, as whole utterances or after a context?

Whole, as slamkit and ZeroSpeech's participants score them:

    s2s   begin | codes end          t2t   text

With a context the layouts are those of `cloze.py`. Rules: `per_token` is the mean log-likelihood of
what is scored, `total` its sum, `pmi` what a context adds. `whole_per_token` scores context and
ending together, as slamkit does across modalities. The headline is what the benchmark's authors and
users report: `per_token` of whole speech, `total` of whole text, and after a context the rules of
`cloze.py`, since the paper names none.
"""

from collections.abc import Sequence, Set

import numpy as np

from ..cloze import HEADLINE_RULE, ItemQueries, lay_out, points_of, score_layouts
from ..context import Result
from ..items import ClozeItem
from ..scoring import LanguageModel, Query
from .figures import results_of
from .items import Pair, Utterance
from .sound import Sounds


def said_in(pair: Pair, direction: str, how: str) -> list[Utterance]:
    """What has to be heard (`how` s) or read (t) in a direction."""
    context, ending = direction[0] == how, direction[-1] == how
    return [*(pair.context if context else ()), *((pair.right, pair.wrong) if ending else ())]


def directions_of(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Those that make sense: without a context nothing crosses modalities."""
    return ("t2t", "s2t", "s2s", "t2s") if all(pair.context for pair in pairs) else ("s2s", "t2t")


def evaluate_pairs(
    model: LanguageModel,
    benchmark: str,
    pairs: Sequence[Pair],
    direction: str,
    sounds: Sounds,
    seen: Set[str],
) -> list[Result]:
    """Figures of one direction; what it needs has been prepared."""
    layouts = [layout_of(pair, direction, model, sounds) for pair in pairs]
    name = f"{benchmark} {direction}"
    whole = not pairs[0].context
    scores = score_layouts(model, layouts, name)
    if whole:
        del scores["pmi"]  # there is nothing before it
        headline = "per_token" if direction == "s2s" else "total"
    else:
        headline = HEADLINE_RULE[direction]
        scores["whole_per_token"] = _whole_per_token(model, layouts, name)
    points = {rule: points_of(values) for rule, values in scores.items()}
    return results_of(benchmark, direction, pairs, points, headline, seen)


def layout_of(pair: Pair, direction: str, model: LanguageModel, sounds: Sounds) -> ItemQueries:
    """Token ids of a pair in a direction."""
    if pair.context:
        item = ClozeItem(
            id=pair.id,
            task="",
            context=tuple(said.text or said.key for said in pair.context),
            right=pair.right.text or pair.right.key,
            wrong=pair.wrong.text or pair.wrong.key,
        )
        return lay_out(item, direction, model.vocab, _PairCodes(pair, sounds))
    vocab = model.vocab
    context, endings = np.array([vocab.eod_id]), []
    for said in (pair.right, pair.wrong):
        if direction == "s2s":
            codes = vocab.codes_to_tokens(sounds.codes(said))
            endings.append(np.append(codes, vocab.end_of_audio_id))
        else:
            endings.append(np.array(vocab.text.encode(said.text or "")))
    if direction == "s2s":
        context = np.append(context, vocab.begin_of_audio_id)
    query = Query(context=context, endings=tuple(endings))
    return ItemQueries(
        conditional=(query,), unconditional=(), lengths=(len(endings[0]), len(endings[1]))
    )


class _PairCodes:
    """Codes of one pair's own sentences: another pair may say the same in another voice."""

    def __init__(self, pair: Pair, sounds: Sounds):
        said = [*pair.context, pair.right, pair.wrong]
        self._codes = {u.text or u.key: sounds.codes(u) for u in said if sounds.has(u)}

    def codes(self, sentence: str) -> np.ndarray:
        return self._codes[sentence]


def _whole_per_token(
    model: LanguageModel, layouts: Sequence[ItemQueries], description: str
) -> np.ndarray:
    """Mean log-likelihood of context and ending after end-of-document: (n, 2)."""
    queries, lengths = [], []
    for layout in layouts:
        for query in layout.conditional:
            endings = tuple(np.concatenate([query.context[1:], end]) for end in query.endings)
            queries.append(Query(context=query.context[:1], endings=endings))
            lengths += [len(ending) for ending in endings]
    found = np.concatenate(model.score(queries, f"{description} whole"))
    return (found / lengths).reshape(len(layouts), 2)
