"""Where delimiters stand in a training document, in one place. Imports no torch.

    speech            <boa> codes <eoa> <eod>
    asr               <boa> codes <eoa> <|transcribe|> text <eod>
    tts, text_to_token <|speak|> text <boa> codes <eoa> <eod>
    interleaved       text <boa> codes <eoa> text ... <eod>
    preference        two text_to_token documents of one text, the better one first
    dialogue_*        turns after chat/template.py, <eod>

A text-to-token model of several voices is told which one in brackets before the text: `[en, p225]`.

The paper does not print its templates (paper, section 5); these are ours, and every reader and
writer of documents takes them from here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..text.vocab import SPEAK, TRANSCRIBE, SpeechTextVocab

Ids = np.ndarray | Sequence[int]
LossRule = Literal[
    "all",
    "speech_after_text",
    "text_only",
    "speech_only",
    "preference",
    "assistant",
    "assistant_text",
    "assistant_speech",
]
Packing = Literal["cut", "whole"]


@dataclass(frozen=True, kw_only=True)
class DocumentKind:
    """How the trainer treats a kind of document."""

    loss_rule: LossRule
    """Which targets count."""
    packing: Packing
    """cut: documents run on through windows; whole: a window holds whole documents only."""


KINDS = {
    "text": DocumentKind(loss_rule="all", packing="cut"),
    "speech": DocumentKind(loss_rule="all", packing="cut"),
    "interleaved": DocumentKind(loss_rule="all", packing="cut"),
    "asr": DocumentKind(loss_rule="all", packing="whole"),
    "tts": DocumentKind(loss_rule="all", packing="whole"),
    "text_to_token": DocumentKind(loss_rule="speech_after_text", packing="whole"),
    "preference": DocumentKind(loss_rule="preference", packing="whole"),
    "dialogue_text": DocumentKind(loss_rule="assistant_text", packing="whole"),
    "dialogue_direct": DocumentKind(loss_rule="assistant_speech", packing="whole"),
    "dialogue_guided": DocumentKind(loss_rule="assistant", packing="whole"),
    "dialogue_streaming": DocumentKind(loss_rule="assistant", packing="whole"),
    "dialogue_streaming_text": DocumentKind(loss_rule="assistant_text", packing="whole"),
    "dialogue_streaming_speech": DocumentKind(loss_rule="assistant_speech", packing="whole"),
}


def text_document(vocab: SpeechTextVocab, text: Ids) -> np.ndarray:
    """Text ids (n,) closed by the end-of-document token."""
    return _join(text, vocab.eod_id)


def speech_document(vocab: SpeechTextVocab, codes: Ids) -> np.ndarray:
    """One recording: codes (n,) -> (n + 3,) token ids."""
    return _join(vocab.speech_segment(codes), vocab.eod_id)


def asr_document(vocab: SpeechTextVocab, codes: Ids, text: Ids) -> np.ndarray:
    """A recording followed by its transcript (text ids)."""
    return _join(transcribe_prompt(vocab, codes), text, vocab.eod_id)


def tts_document(vocab: SpeechTextVocab, text: Ids, codes: Ids) -> np.ndarray:
    """A text (ids) followed by its recording; also the text-to-token model's document."""
    tokens = vocab.codes_to_tokens(codes)
    return _join(speak_prompt(vocab, text), tokens, vocab.end_of_audio_id, vocab.eod_id)


def speak_prompt(vocab: SpeechTextVocab, text: Ids) -> np.ndarray:
    """What a text-to-token model is given; it answers with codes and end of audio."""
    return _join(vocab.special(SPEAK), text, vocab.begin_of_audio_id)


def voiced_text(text: str, voice: str | None) -> str:
    """The text of a text-to-token prompt, with the tag of its voice."""
    return f"[{voice}] {text}" if voice else text


def transcribe_prompt(vocab: SpeechTextVocab, codes: Ids) -> np.ndarray:
    """What a language model is given to transcribe; it answers with text and end of document."""
    return _join(vocab.speech_segment(codes), vocab.special(TRANSCRIBE))


def _join(*parts: Ids | int) -> np.ndarray:
    return np.concatenate([np.atleast_1d(np.asarray(part, dtype=np.int64)) for part in parts])
