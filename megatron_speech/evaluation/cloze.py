"""Story cloze: which of two endings does the model find likelier? Within and across modalities.

Layout, with begin/end marking `<|begin_of_audio|>` and `<|end_of_audio|>`:

    t2t   text context | text ending
    s2t   begin codes of the context's sentences end | text ending
    t2s   text context begin | codes of the ending end
    s2s   begin codes of the context's sentences | codes of the ending end

Each sentence is spoken and tokenized on its own; the sentences of a context are joined inside one
begin/end pair. In s2s the ending goes on inside the same pair, as the segments of one recording do
in speech-only training documents. Text is tokenized together with what precedes it, so an ending
starts with the token (and its leading space) that running text would have there. Documents start
after end-of-document.

Rules (paper section 7 leaves length normalisation open, so all three are measured):
total = log p(ending | context); per_token = total / tokens of the ending;
pmi = total - log p(ending | end-of-document and the same begin mark). The headline rule is fixed
here, before any result: total for text endings, pmi for speech endings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ConfigError
from ..text.vocab import SpeechTextVocab
from .context import EvaluationContext, Figure, Result, SpokenSentences
from .items import ClozeItem, by_task, read_cloze_sets
from .scoring import LanguageModel, Query

DIRECTIONS = ("t2t", "s2t", "s2s", "t2s")
RULES = ("total", "per_token", "pmi")
HEADLINE_RULE = {"t2t": "total", "s2t": "total", "s2s": "pmi", "t2s": "pmi"}


def evaluate(context: EvaluationContext) -> list[Result]:
    """Accuracy of every task in the item file, in every direction asked for."""
    if not context.cloze_paths:
        raise ConfigError("task cloze needs items: give --cloze FILE.jsonl")
    results = []
    for task, items in by_task(read_cloze_sets(context.cloze_paths), context.limit).items():
        if spoken := spoken_sentences(items, context.directions):
            context.spoken().require(spoken)
        for direction in context.directions:
            rules = score_items(
                context.model, context.utterances, items, direction, f"cloze {task} {direction}"
            )
            rule = HEADLINE_RULE[direction]
            results.append(
                Result(
                    task="cloze",
                    part=task,
                    direction=direction,
                    headline=rules[rule],
                    rule=rule,
                    rules=rules,
                )
            )
    return results


def spoken_sentences(items: Sequence[ClozeItem], directions: Sequence[str]) -> list[str]:
    """Sentences whose codes these directions need."""
    contexts = any(direction.startswith("s") for direction in directions)
    endings = any(direction.endswith("s") for direction in directions)
    sentences: list[str] = []
    for item in items:
        sentences += item.context if contexts else ()
        sentences += (item.right, item.wrong) if endings else ()
    return sentences


def score_items(
    model: LanguageModel,
    utterances: SpokenSentences | None,
    items: Sequence[ClozeItem],
    direction: str,
    description: str = "cloze",
) -> dict[str, Figure]:
    """Accuracy under each rule; an exact tie counts half."""
    layouts = [lay_out(item, direction, model.vocab, utterances) for item in items]
    scores = score_layouts(model, layouts, description)
    return {rule: accuracy_of(scores[rule]) for rule in RULES}


def score_layouts(
    model: LanguageModel, layouts: Sequence["ItemQueries"], description: str
) -> dict[str, np.ndarray]:
    """Scores (n, 2) of right and wrong endings under each rule."""
    queries = [query for layout in layouts for query in layout.conditional]
    prior = [query for layout in layouts for query in layout.unconditional]
    total = _pairs(model.score(queries, description), len(layouts))
    lengths = np.array([layout.lengths for layout in layouts])
    scores = {"total": total, "per_token": total / lengths, "pmi": total}
    if prior:
        unconditional = _pairs(model.score(prior, f"{description} prior"), len(layouts))
        scores["pmi"] = total - unconditional
    return scores


def _pairs(scores: Sequence[np.ndarray], items: int) -> np.ndarray:
    """(items, 2) of right and wrong, however the endings were grouped into queries."""
    return np.concatenate(scores).reshape(items, 2)


def points_of(scores: np.ndarray) -> np.ndarray:
    """1 for each item (n, 2) whose right ending scores higher, a half for a tie: (n,)."""
    right, wrong = scores.T
    return (right > wrong) + 0.5 * (right == wrong)


def accuracy_of(scores: np.ndarray) -> Figure:
    """Share of items (n, 2) whose right ending scores higher than the wrong one; a tie is half."""
    points = points_of(scores)
    return Figure(accuracy=float(points.mean()), n=len(points))


@dataclass(frozen=True, kw_only=True)
class ItemQueries:
    """The queries of one item, right ending before wrong, and the endings' token counts."""

    conditional: tuple[Query, ...]
    unconditional: tuple[Query, ...]
    """The same endings without the context; none where there is no context."""
    lengths: tuple[int, int]


def lay_out(
    item: ClozeItem, direction: str, vocab: SpeechTextVocab, utterances: SpokenSentences | None
) -> ItemQueries:
    """Token ids of one item in one direction, as drawn at the top of this file; t2t needs no
    utterances."""
    if direction not in DIRECTIONS:
        raise ConfigError(f"no direction {direction!r}; there are {', '.join(DIRECTIONS)}")
    start = [vocab.eod_id]
    if direction.endswith("t"):
        splits = [split_text(vocab, item.context_text, e) for e in (item.right, item.wrong)]
        endings = tuple(ending for _, ending in splits)
        prior = np.array(start)
        if direction == "s2t":
            assert utterances is not None
            begin = [*start, *vocab.speech_segment(context_codes(item, utterances))]
            contexts = [np.array(begin)] * 2
        else:
            contexts = [np.concatenate([start, context]) for context, _ in splits]
    else:
        assert utterances is not None
        tail = [vocab.end_of_audio_id]
        endings = tuple(
            np.concatenate([vocab.codes_to_tokens(utterances.codes(sentence)), tail])
            for sentence in (item.right, item.wrong)
        )
        prior = np.array([*start, vocab.begin_of_audio_id])
        if direction == "s2s":
            codes = vocab.codes_to_tokens(context_codes(item, utterances))
            contexts = [np.concatenate([prior, codes])] * 2
        else:
            text = vocab.text.encode(item.context_text)
            contexts = [np.array([*start, *text, vocab.begin_of_audio_id])] * 2
    return ItemQueries(
        conditional=_queries(contexts, endings),
        unconditional=(Query(context=prior, endings=endings),),
        lengths=(len(endings[0]), len(endings[1])),
    )


def context_codes(item: ClozeItem, utterances: SpokenSentences) -> np.ndarray:
    """Codes (n,) of the context's sentences, joined."""
    return np.concatenate([utterances.codes(sentence) for sentence in item.context])


def split_text(vocab: SpeechTextVocab, context: str, ending: str) -> tuple[np.ndarray, np.ndarray]:
    """Tokenize context and ending as one text and cut where the context ends.

    Token ids of both parts, (c,) and (e,). A token that straddles the border belongs to the ending.
    """
    ids, offsets = vocab.text.offsets(f"{context} {ending}")
    cut = sum(stop <= len(context) for _, stop in offsets)
    return np.array(ids[:cut], dtype=np.int64), np.array(ids[cut:], dtype=np.int64)


def _queries(contexts: Sequence[np.ndarray], endings: Sequence[np.ndarray]) -> tuple[Query, ...]:
    """One query if both endings have the same context, as they nearly always do."""
    if np.array_equal(contexts[0], contexts[1]):
        return (Query(context=contexts[0], endings=tuple(endings)),)
    return tuple(
        Query(context=context, endings=(ending,))
        for context, ending in zip(contexts, endings, strict=True)
    )
