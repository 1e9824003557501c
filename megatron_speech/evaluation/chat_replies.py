"""What chat models, and base models that were never taught to chat, reply to spoken questions."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..chat.engine import ChatEngine
from ..chat.events import AudioChunk, Done, SpokenCodes, Timing
from ..chat.template import Mode
from ..errors import DataError
from ..jobs.progress import track
from ..text.writing_systems import WITHOUT_SPACES
from .context import Utterances
from .items import ChatItem
from .matching import is_right
from .qa import go_on
from .scoring import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The last reply to an item. What a mode does not have is None."""

    item: ChatItem
    text: str | None = None
    """What was written."""
    codes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(n,) int64, what was spoken."""
    heard: str | None = None
    """What the recogniser reads in it."""
    audio: np.ndarray | None = None
    """float32 (samples,) if there is a speech decoder."""
    timing: Timing | None = None


def chat_replies(
    engine: ChatEngine, mode: Mode, items: Sequence[ChatItem], questions: Utterances
) -> list[Reply]:
    """Ask every item in a session of its own; the model lives with its own earlier answers."""
    questions.require([turn for item in items for turn in item.turns])
    replies = []
    for item in track(items, f"chat {mode}", unit="items"):
        session, events = engine.session(mode), []
        for turn in item.turns:
            events = list(session.respond(SpokenCodes(questions.codes(turn))))
        answer, done = session.history[-1], events[-1]
        assert isinstance(done, Done)
        sound = [event.samples for event in events if isinstance(event, AudioChunk)]
        replies.append(
            Reply(
                item=item,
                text=None if mode == "direct" else (answer.text or "").strip(),
                codes=answer.codes,
                audio=np.concatenate(sound) if sound else None,
                timing=done.timing,
            )
        )
    return replies


def base_replies(
    model: LanguageModel, items: Sequence[ChatItem], questions: Utterances, speech: bool
) -> list[Reply]:
    """How a base model goes on after the question: prompts and limits of spoken QA (qa.py).

    Items of several turns are left out: a base model knows none.
    """
    items = [item for item in items if len(item.turns) == 1]
    questions.require([item.turns[0] for item in items])
    codes = [questions.codes(item.turns[0]) for item in items]
    found = go_on(model, codes, speech=speech, description=f"base {'s2s' if speech else 's2t'}")
    if speech:
        said = [model.vocab.tokens_to_codes(tokens) for tokens in found]
        return [Reply(item=i, codes=c) for i, c in zip(items, said, strict=True)]
    texts = [model.vocab.text.decode(tokens.tolist()).strip() for tokens in found]
    return [Reply(item=item, text=text) for item, text in zip(items, texts, strict=True)]


def judge_reply(answer: str, item: ChatItem) -> tuple[bool, float]:
    """Whether a reply counts, by the rule of `ChatItem.wrong`, and what guessing would have got.

    A reply as near to the right answers as to the wrong ones is wrong. It chose neither, so that
    guessing would have got nothing for it either.
    """
    if not item.wrong:
        return is_right(answer, item.answers), item.chance
    right, wrong = (min(_distances(answer, texts)) for texts in (item.answers, item.wrong))
    return right < wrong, 0.0 if right == wrong else item.chance


def _distances(answer: str, references: Sequence[str]) -> list[float]:
    """Word errors of the answer against each reference, per word of the longer of the two."""
    from ..speech_tokenizer.transcription import word_errors

    if not references:
        raise DataError("an item without answers; expected at least one")
    unspaced = any(map(WITHOUT_SPACES.search, references))
    counted = word_errors(references, [answer] * len(references), "zh" if unspaced else "en")
    said = len(answer if unspaced else answer.split())
    return [errors / max(words, said) for errors, words in counted if words]
