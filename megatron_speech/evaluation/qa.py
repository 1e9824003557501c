"""Closed-book question answering: a question, written or spoken, then what the model says next.

A base model is not told that it is asked. The prompt is the question alone, laid out like a
training document, and greedy generation goes on from there:

    t2t   question | text
    s2t   begin codes of the question end | text
    s2s   begin codes of the question | codes, up to end

As in cloze, spoken continuation stays inside the question's begin/end pair. Only tokens of the
asked modality may be generated. An answer counts if one of the reference answers occurs in it as
whole words, both normalised (`matching.py`); spoken answers are read by the speech tokenizer's own
ASR. (Paper section 7: closed-book; its matching rule is not stated.)
"""

from collections.abc import Sequence

import numpy as np

from ..errors import ConfigError
from ..jobs.progress import Progress
from ..text_to_token.engines import make_batches
from ..text_to_token.transformers_engine import BatchDecoder
from .context import EvaluationContext, Figure, Result
from .items import read_questions
from .matching import is_right
from .scoring import LanguageModel

DIRECTIONS = ("t2t", "s2t", "s2s")
MAX_TEXT_TOKENS = 24
MAX_SPEECH_TOKENS = 64
BATCH_SIZE = 64
SAMPLES_KEPT = 50


def evaluate(context: EvaluationContext) -> list[Result]:
    """Share of questions answered, in those of the directions asked for that apply."""
    if context.qa_path is None:
        raise ConfigError("task qa needs questions: give --qa FILE.jsonl")
    items = read_questions(context.qa_path)[: context.limit]
    directions = [direction for direction in DIRECTIONS if direction in context.directions]
    if any(direction.startswith("s") for direction in directions):
        context.spoken().require([item.question for item in items])
    results = []
    for direction in directions:
        texts = [item.question for item in items]
        codes = None if direction == "t2t" else [context.spoken().codes(text) for text in texts]
        answers = reply(context, texts, codes, direction, f"qa {direction}")
        right = [is_right(a, item.answers) for a, item in zip(answers, items, strict=True)]
        samples = [
            {"question": i.question, "references": list(i.answers), "answer": a, "right": r}
            for i, a, r in zip(items, answers, right, strict=True)
        ]
        results.append(
            Result(
                task="qa",
                part="world",
                direction=direction,
                headline=Figure(accuracy=float(np.mean(right)), n=len(right)),
                rule="contains",
                details={"samples": samples[:: max(1, -(-len(samples) // SAMPLES_KEPT))]},
            )
        )
    return results


def reply(
    context: EvaluationContext,
    questions: Sequence[str],
    codes: Sequence[np.ndarray] | None,
    direction: str,
    description: str,
) -> list[str]:
    """What the model says after each question, as text; `codes` (n,) are the spoken questions."""
    vocab, speech = context.model.vocab, direction == "s2s"
    asked = codes or [np.array(vocab.text.encode(question)) for question in questions]
    found = go_on(context.model, asked, speech, description, written=codes is None)
    if speech:
        said = [vocab.tokens_to_codes(tokens) for tokens in found]
        return context.transcriber("qa").decode_text(said)
    return [vocab.text.decode(tokens.tolist()).strip() for tokens in found]


def go_on(
    model: LanguageModel,
    questions: Sequence[np.ndarray],
    speech: bool,
    description: str,
    written: bool = False,
) -> list[np.ndarray]:
    """Tokens (m,) by which the model goes on after codes (n,) of questions, or tokens if written.

    It goes on in `speech` inside the question's begin/end pair, or in text behind it.
    """
    vocab, prompts = model.vocab, []
    for question in questions:
        segment = question if written else vocab.speech_segment(question)
        prompts.append(np.concatenate([[vocab.eod_id], segment[:-1] if speech else segment]))
    most = MAX_SPEECH_TOKENS if speech else MAX_TEXT_TOKENS
    return generate(model, prompts, speech=speech, max_new_tokens=most, description=description)


def generate(
    model: LanguageModel,
    prompts: Sequence[np.ndarray],
    *,
    speech: bool,
    max_new_tokens: int,
    description: str = "generating",
) -> list[np.ndarray]:
    """Continue prompts greedily with tokens of one modality.

    Stops at end-of-audio (speech) or end-of-document (text), which is not returned. One (n,) int64
    array per prompt, in the given order.

    Raises:
        CheckpointError: the model's logits are NaN or infinite.
    """
    vocab = model.vocab
    stop = vocab.end_of_audio_id if speech else vocab.eod_id
    ids = np.arange(model.model.get_output_embeddings().weight.shape[0])
    if speech:
        said = vocab.is_speech(ids)
    else:
        said = (ids < vocab.text.size) & ~vocab.is_speech(ids)
        said &= ~np.isin(ids, [*vocab.specials.values(), stop])
    tokens = ids[said]
    decoder = BatchDecoder(model.model, tokens=tokens.tolist(), end_token=stop)
    answers: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(prompts)
    with Progress(description, len(prompts), "questions") as bar:
        for members in make_batches([len(prompt) for prompt in prompts], BATCH_SIZE):
            limits, seeds = [max_new_tokens] * len(members), np.zeros(len(members), np.uint64)
            found = decoder.decode([prompts[index] for index in members], limits, seeds)
            for index, (chosen, _) in zip(members, found, strict=True):
                answers[index] = tokens[chosen]
            bar.advance(len(members))
    return answers
