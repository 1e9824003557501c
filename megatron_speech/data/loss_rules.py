"""Which tokens of a document a model is trained to predict: computed from token ids alone.

A rule belongs to a dataset (`<prefix>.json`), never to a token, so a dataset stays plain ids.
Modality follows from the id as well: a token is speech if it is a code, text otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Integer

from ..errors import ConfigError
from ..text.vocab import ASSISTANT, SYSTEM, USER, SpeechTextVocab, is_speech

Tokens = Integer[np.ndarray, " n"]
Mask = Bool[np.ndarray, " n"]

OTHER_ROLES = (SYSTEM, USER, "<|observation|>")


@dataclass(frozen=True, kw_only=True)
class RuleTokens:
    """The ids that rules look at."""

    code_offset: int
    num_codes: int
    begin_of_audio: int
    end_of_audio: int
    eod: int
    assistant: int | None = None
    other_roles: tuple[int, ...] = ()

    @classmethod
    def of(cls, vocab: SpeechTextVocab) -> "RuleTokens":
        """Read them from a vocabulary; chat roles are absent where it has none."""
        roles = [vocab.text.id_of(name) for name in OTHER_ROLES]
        return cls(
            code_offset=vocab.code_offset,
            num_codes=vocab.num_codes,
            begin_of_audio=vocab.begin_of_audio_id,
            end_of_audio=vocab.end_of_audio_id,
            eod=vocab.eod_id,
            assistant=vocab.text.id_of(ASSISTANT),
            other_roles=tuple(role for role in roles if role is not None),
        )

    def is_code(self, tokens: Tokens) -> Mask:
        """True where a token is a code."""
        return is_speech(tokens, self.code_offset, self.num_codes)


def loss_mask(rule: str, inputs: Tokens, labels: Tokens, kinds: RuleTokens) -> Mask:
    """True where predicting `labels[i]` after `inputs[: i + 1]` is part of the loss.

    `inputs` and `labels` (n,) are one document, or a window cut from a stream of documents, and
    the same shifted by one.

    Raises:
        ConfigError: no such rule, or the vocabulary lacks what the rule looks for.
    """
    if rule not in LOSS_RULES:
        raise ConfigError(f"loss rule {rule!r} is unknown; expected one of {', '.join(LOSS_RULES)}")
    return LOSS_RULES[rule](inputs, labels, kinds)


def _all(inputs: Tokens, labels: Tokens, kinds: RuleTokens) -> Mask:
    return np.ones(len(labels), dtype=bool)


def _text_only(inputs: Tokens, labels: Tokens, kinds: RuleTokens) -> Mask:
    audio_mark = (labels == kinds.begin_of_audio) | (labels == kinds.end_of_audio)
    return ~(kinds.is_code(labels) | audio_mark)


def _speech_only(inputs: Tokens, labels: Tokens, kinds: RuleTokens) -> Mask:
    """Codes, the end of audio, and the end of a document that ends with audio."""
    closing = (labels == kinds.eod) & (inputs == kinds.end_of_audio)
    return kinds.is_code(labels) | (labels == kinds.end_of_audio) | closing


def _speech_after_text(inputs: Tokens, labels: Tokens, kinds: RuleTokens) -> Mask:
    """As speech only, where text came before in the same document: the answer, not the prompt."""
    positions = np.arange(len(inputs))
    marks = (kinds.begin_of_audio, kinds.end_of_audio, kinds.eod)
    is_text = ~(kinds.is_code(inputs) | np.isin(inputs, marks))
    last_text = np.maximum.accumulate(np.where(is_text, positions, -1))
    last_end = np.maximum.accumulate(np.where(inputs == kinds.eod, positions, -1))
    return _speech_only(inputs, labels, kinds) & (last_text > last_end)


def _assistant(inputs: Tokens, labels: Tokens, kinds: RuleTokens) -> Mask:
    """From behind an assistant mark up to and including the token that ends the turn."""
    if kinds.assistant is None:
        raise ConfigError(
            f"loss rule 'assistant' needs {ASSISTANT} in the vocabulary, which has none; import "
            "the model again (tools/convert_checkpoint.py hf-to-megatron --num-codes K adds chat "
            "turns), or use another rule"
        )
    positions = np.arange(len(inputs))
    ends = np.isin(inputs, (kinds.eod, *kinds.other_roles))
    last_start = np.maximum.accumulate(np.where(inputs == kinds.assistant, positions, -1))
    last_end = np.maximum.accumulate(np.where(ends, positions, -1))
    return last_start > last_end


def _assistant_speech(inputs: Tokens, labels: Tokens, kinds: RuleTokens) -> Mask:
    """Of the assistant's turns codes, their begin and end, and the end of a turn behind speech."""
    ends = np.isin(labels, (kinds.eod, *kinds.other_roles))
    closing = ends & (kinds.is_code(inputs) | (inputs == kinds.end_of_audio))
    begins = labels == kinds.begin_of_audio
    speech = kinds.is_code(labels) | begins | (labels == kinds.end_of_audio) | closing
    return _assistant(inputs, labels, kinds) & speech


def _assistant_text(inputs: Tokens, labels: Tokens, kinds: RuleTokens) -> Mask:
    """What `assistant` has and `assistant_speech` has not."""
    return _assistant(inputs, labels, kinds) & ~_assistant_speech(inputs, labels, kinds)


LOSS_RULES: dict[str, Callable[[Tokens, Tokens, RuleTokens], Mask]] = {
    "all": _all,
    "text_only": _text_only,
    "speech_only": _speech_only,
    "speech_after_text": _speech_after_text,
    "preference": _speech_after_text,  # in each of the two answers; what is made of it is DPO's
    "assistant": _assistant,
    "assistant_text": _assistant_text,
    "assistant_speech": _assistant_speech,
}
