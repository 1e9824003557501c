"""How a dialogue is written in tokens: its turns, and the four ways of answering. No torch.

    <|system|> prompt <|user|> question <|assistant|> answer <|user|> ... answer <|user|> <eod>

A question is text, or speech between begin and end of audio. An answer ends with the mark of the
next user's turn, the last one too; that token stops the generation. Answers by mode:

    text        text                                            (S->T)
    direct      <boa> codes <eoa>                               (S->S)
    guided      text <boa> codes <eoa>                          (S->T->S)
    streaming   text and codes in turn, 13 and 26 at a time (`stream_answer`), no marks

The system prompt names the mode. The template `short` is ours; `glm-4-voice` is the released
model's, which knows the streaming mode only. Its prompts, line ends and header are those of the
released demo (web_demo.py of GLM-4-Voice), its `[gMASK]<sop>` before everything is the released
tokenizer's; answers have no marks within. How direct and guided answers were written is not known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from ..errors import ConfigError, DataError, VocabularyError
from ..text.vocab import ASSISTANT, ROLES, SYSTEM, USER, SpeechTextVocab

Mode = Literal["text", "direct", "guided", "streaming"]
Modality = Literal["speech", "text"]
TemplateName = Literal["short", "glm-4-voice"]
MODES: tuple[Mode, ...] = get_args(Mode)

_SHORT_PROMPTS: dict[Mode, str] = {
    "text": "text",
    "direct": "speech",
    "guided": "text, speech",
    "streaming": "text and speech",
}
# quoted, because released weights were trained with exactly this
_RELEASED_PROMPT = (
    "User will provide you with a {modality} instruction. Do it step by step. First, think about "
    "the instruction and respond in a interleaved manner, with 13 text token followed by 26 audio "
    "tokens."
)
_RELEASED_PROMPTS: dict[Modality, str] = {
    "speech": _RELEASED_PROMPT.format(modality="speech") + " ",  # this one ends with a space
    "text": _RELEASED_PROMPT.format(modality="text"),
}
_RELEASED_START = ("[gMASK]", "<sop>")


PAPER_FRAME_RATE_HZ = 12.5
"""Codes a second of the paper's speech tokenizer, and of one that is not known."""
_BLOCK_CODES = 26


@dataclass(frozen=True, kw_only=True)
class TemplateConfig:
    """How dialogues are written."""

    template: TemplateName = "short"
    """short: one that small models learn. glm-4-voice: as the released model reads it."""
    text_block: int = 13
    """Text tokens of a streamed answer before its codes go on."""
    speech_block: int | None = None
    """Codes of a streamed answer before its text goes on; none takes 2.08 s of them, 26 at 12.5
    Hz."""

    def __post_init__(self) -> None:
        if min(self.text_block, self.codes_in_block) < 1:
            raise ConfigError(
                f"--text-block {self.text_block} and --speech-block {self.codes_in_block} must "
                "be at least 1"
            )
        blocks = (self.text_block, self.codes_in_block)
        if self.template == "glm-4-voice" and blocks != (13, 26):
            raise ConfigError("the released template says 13 text and 26 audio tokens; keep both")

    @property
    def codes_in_block(self) -> int:
        """`speech_block`, or as many as the paper's."""
        return _BLOCK_CODES if self.speech_block is None else self.speech_block

    def at(self, frame_rate_hz: float) -> "TemplateConfig":
        """With a block of codes that lasts as long at this rate, where none is given."""
        if self.speech_block is not None or self.template == "glm-4-voice":
            return replace(self, speech_block=self.codes_in_block)
        codes = max(round(_BLOCK_CODES / PAPER_FRAME_RATE_HZ * frame_rate_hz), 1)
        return replace(self, speech_block=codes)


class ChatTemplate:
    """Turns as token ids, in one vocabulary.

    Raises:
        VocabularyError: the vocabulary has no marks of turns, or no codes.
    """

    def __init__(
        self,
        vocab: SpeechTextVocab,
        config: TemplateConfig | None = None,
        frame_rate_hz: float = PAPER_FRAME_RATE_HZ,
    ):
        if not vocab.num_codes:
            raise VocabularyError(
                "the vocabulary has no speech codes: this model cannot hear or speak"
            )
        found = {role: vocab.text.id_of(role) for role in ROLES}
        self._roles = {role: token for role, token in found.items() if token is not None}
        if missing := [role for role in ROLES if role not in self._roles]:
            raise VocabularyError(
                f"the vocabulary has no {', '.join(missing)}, so it cannot hold dialogues; import "
                "the exported model with tools/convert_checkpoint.py hf-to-megatron --num-codes "
                f"{vocab.num_codes}, which adds them"
            )
        self.vocab, self.config = vocab, (config or TemplateConfig()).at(frame_rate_hz)
        released = self.config.template == "glm-4-voice"
        start = [vocab.text.id_of(token) for token in _RELEASED_START if released]
        # a vocabulary of another base has no such tokens
        self._start = [token for token in start if token is not None]
        self._line_end = vocab.text.encode("\n") if released else []
        self._header = vocab.text.encode("streaming_transcription\n") if released else []

    @property
    def stop_id(self) -> int:
        """The token that ends an answer: the mark of the user's next turn."""
        return self._roles[USER]

    def require_mode(self, mode: Mode) -> None:
        """Refuse a mode that the template has no words for.

        Raises:
            ConfigError: the released template and another mode than streaming.
        """
        if self.config.template == "glm-4-voice" and mode != "streaming":
            raise ConfigError(
                f"the template glm-4-voice knows the mode streaming only, not {mode}; use the "
                "template short"
            )

    def system(self, mode: Mode, first_question: Modality) -> list[int]:
        """The system turn; stands once, before the first question."""
        self.require_mode(mode)
        if self.config.template == "short":
            prompt = _SHORT_PROMPTS[mode]
        else:
            prompt = _RELEASED_PROMPTS[first_question]
        mark = [*self._start, self._roles[SYSTEM], *self._line_end]
        return [*mark, *self.vocab.text.encode(prompt)]

    def spoken_question(self, codes: np.ndarray) -> list[int]:
        """A user's turn of codes (n,), without its mark."""
        return [*self._line_end, *self.vocab.speech_segment(codes).tolist()]

    def written_question(self, text: Sequence[int]) -> list[int]:
        """A user's turn of text ids, without its mark."""
        return [*self._line_end, *text]

    def answer_begin(self, mode: Mode) -> list[int]:
        """The assistant's mark and what every answer in this mode begins with."""
        begin = [self.vocab.begin_of_audio_id] if mode == "direct" else []
        return [self._roles[ASSISTANT], *self._header, *begin]

    def close(self, turn: Sequence[int]) -> list[int]:
        """A turn that was broken off, so that another may follow: its speech is ended as everywhere
        else, and speech of which nothing came is left out."""
        begin, end = self.vocab.begin_of_audio_id, self.vocab.end_of_audio_id
        if turn[-1] == begin:
            return list(turn[:-1])
        open_ = begin in turn and end not in turn
        return [*turn, end] if open_ else list(turn)

    def answer(self, mode: Mode, text: Sequence[int], codes: np.ndarray) -> list[int]:
        """What comes after `answer_begin`, without the token that ends the turn.

        Raises:
            DataError: nothing to say in this mode, or speech too short for its text (streaming).
        """
        if (mode != "direct" and not len(text)) or (mode != "text" and not len(codes)):
            raise DataError(f"an answer in mode {mode} of {len(text)} tokens, {len(codes)} codes")
        if mode == "text":
            return list(text)
        speech = self.vocab.codes_to_tokens(codes).tolist()
        if mode == "streaming":
            return stream_answer(list(text), speech, self.config)
        if mode == "direct":
            return [*speech, self.vocab.end_of_audio_id]
        return [*text, *self.vocab.speech_segment(codes).tolist()]


def stream_answer(text: list[int], speech: list[int], config: TemplateConfig) -> list[int]:
    """Blocks of text and speech in turn, text first.

    The tail: the last block of text may be shorter; behind it stands all the speech that is left,
    in one run. So a code where text was due says that the text has ended.

    Raises:
        DataError: speech would end before its text; `text_outlasts_speech` says so beforehand.
    """
    if text_outlasts_speech(len(text), len(speech), config):
        raise DataError(f"{len(speech)} codes are too few to be streamed with {len(text)} tokens")
    answer: list[int] = []
    blocks = -(-len(text) // config.text_block)
    for block in range(blocks):
        answer += text[block * config.text_block : (block + 1) * config.text_block]
        first = block * config.codes_in_block
        last = None if block == blocks - 1 else first + config.codes_in_block
        answer += speech[first:last]
    return answer


def text_outlasts_speech(text_tokens: int, codes: int, config: TemplateConfig) -> bool:
    """Whether no code would be left for the last block of text to be followed by."""
    blocks = -(-text_tokens // config.text_block)
    return codes <= (blocks - 1) * config.codes_in_block
