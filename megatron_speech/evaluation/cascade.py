"""The ceiling for spoken contexts: transcribe first, then let the model score text after text.

The transcript is the speech tokenizer's own reading of the codes, so the cascade hears exactly what
the language model hears. If that ASR writes bare lower-case words, each word is given the spelling
it mostly has in the items and each sentence a full stop, for the model has only seen proper text.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..errors import ConfigError
from .cloze import score_items, spoken_sentences
from .context import EvaluationContext, Result
from .items import ClozeItem, by_task, read_cloze_sets


def evaluate(context: EvaluationContext) -> list[Result]:
    """Accuracy of s2t as transcription followed by t2t, for every task in the item file."""
    if not context.cloze_paths:
        raise ConfigError("task cascade needs cloze items: give --cloze FILE.jsonl")
    grouped = by_task(read_cloze_sets(context.cloze_paths), context.limit)
    heard = _transcribe(context, [item for items in grouped.values() for item in items])
    results = []
    for task, items in grouped.items():
        read = [replace(i, context=tuple(heard[sentence] for sentence in i.context)) for i in items]
        rules = score_items(context.model, context.utterances, read, "t2t", f"cascade {task}")
        exact = np.mean([a.context == b.context for a, b in zip(items, read, strict=True)])
        results.append(
            Result(
                task="cascade",
                part=task,
                direction="s2t",
                headline=rules["total"],
                rule="total",
                rules=rules,
                details={"contexts_read_without_error": float(exact)},
            )
        )
    return results


def _transcribe(context: EvaluationContext, items: list[ClozeItem]) -> dict[str, str]:
    sentences = sorted(set(spoken_sentences(items, ["s2t"])))
    utterances = context.spoken()
    utterances.require(sentences)
    codes = [utterances.codes(sentence) for sentence in sentences]
    texts = context.transcriber("cascade").decode_text(codes)
    if all(text == text.lower() for text in texts):
        texts = restore_spelling(texts, sentences)
    return dict(zip(sentences, texts, strict=True))


def restore_spelling(texts: Sequence[str], examples: Sequence[str]) -> list[str]:
    """Sentence case, a full stop, and for each word its most frequent capitals in `examples`.

    Only words within sentences are counted: the first is a capital whatever it is.
    """
    spellings: dict[str, Counter[str]] = {}
    for sentence in examples:
        for word in sentence.split()[1:]:
            bare = word.strip('.,;:?!"')
            spellings.setdefault(bare.lower(), Counter())[bare] += 1
    known = {lower: counts.most_common(1)[0][0] for lower, counts in spellings.items()}
    restored = (" ".join(known.get(word, word) for word in text.split()) for text in texts)
    return [text[:1].upper() + text[1:] + "." if text else text for text in restored]
