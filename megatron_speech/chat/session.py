"""One conversation: questions in, answers out piece by piece, all of it kept in tokens."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from ..audio import SAMPLE_RATE_HZ, check_waveform, resample
from ..errors import AudioError, ConfigError, DataError
from ..speech_decoder.decoder import SpeechDecoder
from ..speech_tokenizer.opened import OpenedSpeechTokenizer
from ..training.devices import require_device
from .answer import Answer, Stopwatch
from .decoding import AnswerVocab, SamplingConfig, TokenSource
from .events import Done, Event, Heard, Reason, SpokenCodes, Turn
from .rhythm import Rhythm, TokenKind
from .template import ChatTemplate, Modality, Mode, TemplateConfig

_RATES_HZ = (8_000, 192_000)
Question = np.ndarray | str | SpokenCodes
"""Sound, float32 mono (samples,), text, or codes."""


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """How a model is talked to."""

    mode: Mode = "streaming"
    """text: answers in text. direct: in speech alone. guided: text, then speech. streaming: both in
    turn. One that the model was fine-tuned for."""
    max_new_tokens: int = 2000
    """Longest answer."""
    context_tokens: int | None = None
    """Tokens the model sees; older turns are forgotten. None: all positions it has."""
    decode_codes: int | None = None
    """Codes given to the speech decoder at a time; none gives 0.8 s of them (paper section 3), 10
    at 12.5 Hz."""
    voice: str | None = None
    """Voice of the answers, one that the speech decoder knows by name; None: nobody's."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the language model."""
    device: str = "cpu"
    """Torch device of the models."""
    vllm_url: str | None = None
    """Address of a vLLM server of the same model (`vllm serve FOLDER`), http://HOST:8000: it then
    makes the tokens, and no language model is loaded here."""
    template: TemplateConfig = field(default_factory=TemplateConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        require_device(self.device)
        for name in ("max_new_tokens", "decode_codes", "context_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; give at least 1")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What all sessions of an engine share."""

    tokens: Callable[[], TokenSource]
    """Makes a conversation's source of tokens."""
    template: ChatTemplate
    kinds: AnswerVocab
    context_tokens: int
    speech_tokenizer: OpenedSpeechTokenizer | None
    decoder: SpeechDecoder | None
    decode_codes: int
    config: ChatConfig


class ChatSession:
    """A conversation. `respond` runs in one thread at a time, `interrupt` may come from any.

    `history` holds the turns so far; the model sees as many of the last ones as it has room for.
    """

    def __init__(self, parts: Parts):
        self._parts = parts
        self._tokens = parts.tokens()
        self._lock = threading.Lock()
        self._answering = False
        self._stop = threading.Event()
        self._heard_s: float | None = None
        self.history: list[Turn] = []

    @property
    def tokens(self) -> list[int]:
        """All turns as the model reads them, the system's first; what is forgotten included."""
        return [*self._system(), *(token for turn in self.history for token in turn.tokens)]

    def respond(self, user: Question, sample_rate_hz: int = SAMPLE_RATE_HZ) -> Iterator[Event]:
        """Answer speech, float32 mono (samples,) or codes, or text: events as they come.

        `Done` is the last. An iterator that is left before its end counts as interrupted.

        Raises:
            ServiceError: tokens come from a vLLM server, and it does not answer.
            AudioError: silence, no samples, broken ones, or a rate that no microphone has.
            DataError: an empty question, or one too long for the model.
            VocabularyError: codes that the model does not have.
            ConfigError: speech without a speech tokenizer, or the session answers already.
        """
        with self._lock:
            if self._answering:
                raise ConfigError("this session answers already; interrupt it or wait for Done")
            self._answering, self._heard_s = True, None
            self._stop.clear()
        try:
            yield from self._respond(user, sample_rate_hz)
        finally:
            with self._lock:
                self._answering = False
                if self._heard_s is not None:
                    self._cut_to(self._heard_s)

    def interrupt(self, heard_s: float | None = None) -> None:
        """Stop answering at once: no event but `Done` follows. Does nothing to a silent session.

        With `heard_s`, how much of the answer's sound was played, the history forgets what was
        made but not heard, also when all of it was made already; with 0 the whole answer. Answers
        without sound, in mode text or without a speech decoder, stay.
        """
        self._stop.set()
        self._tokens.cancel()
        with self._lock:
            self._heard_s = heard_s
            if not self._answering and heard_s is not None:
                self._cut_to(heard_s)

    def _respond(self, user: Question, sample_rate_hz: int) -> Iterator[Event]:
        parts, watch = self._parts, Stopwatch()
        question, duration_s = self._question(user, sample_rate_hz)
        watch.lap("tokenise_s")
        prompt = self._prompt(question)
        yield Heard(codes=question.codes, duration_s=duration_s)
        decoder, seed = self._decoder, parts.config.sampling.seed
        voice = None if decoder is None else decoder.stream(seed, parts.config.voice)
        answer = Answer(parts.template.vocab, watch, parts.decode_codes, voice)
        answer.prompt_tokens = len(prompt)
        reason: Reason = "interrupted"
        try:
            for step in self._generate(prompt, answer, watch):
                if isinstance(step, str):
                    reason = step
                else:
                    yield step
            if reason != "interrupted":
                yield from self._until_stopped(answer.finish())
                reason = "interrupted" if self._stop.is_set() else reason
        finally:
            self._tokens.end()
            self._remember(question, answer, reason)
        yield Done(reason=reason, timing=answer.timing())

    def _until_stopped(self, events: Iterator[Event]) -> Iterator[Event]:
        for event in events:
            if self._stop.is_set():
                return
            yield event

    def _generate(
        self, prompt: list[int], answer: Answer, watch: Stopwatch
    ) -> Iterator[Event | Reason]:
        """The events of the answer's tokens, then the reason of its end."""
        if self._stop.is_set():  # while the question was tokenised: nothing needs to be read
            yield "interrupted"
            return
        parts = self._parts
        config, kinds = parts.config, parts.kinds
        rhythm = Rhythm(config.mode, parts.template.config)
        room = min(config.max_new_tokens, parts.context_tokens - len(prompt))
        seed = config.sampling.seed * 10_007 + len(self.history)
        self._tokens.begin(prompt, seed, room)
        watch.lap("prefill_s")
        while not self._stop.is_set():
            allowed = rhythm.allowed()
            token = kinds.only(allowed)
            forced_stop = token is not None and kinds.kind(token) == TokenKind.STOP
            if len(answer.tokens) == room and not forced_stop:
                yield "length"
                return
            if token is None:
                token = self._tokens.choose(allowed)
            if token is None:
                continue  # stopped while it waited for one
            kind = kinds.kind(token)
            if kind == TokenKind.STOP:
                yield "stop"
                return
            rhythm.accept(kind)
            self._tokens.append(token)
            yield from self._until_stopped(answer.take(token, kind))
        yield "interrupted"

    def _question(self, user: Question, sample_rate_hz: int) -> tuple[Turn, float]:
        """The user's turn, and how long it was spoken."""
        template = self._parts.template
        if isinstance(user, str):
            if not (text := user.strip()):
                raise DataError("the question is empty; write something")
            ids = template.written_question(template.vocab.text.encode(text))
            return Turn(role="user", tokens=(template.stop_id, *ids), text=text), 0.0
        if isinstance(user, SpokenCodes):
            codes, duration_s = np.asarray(user.codes, dtype=np.int64), 0.0
            if not len(codes):
                raise DataError("the question has no codes; say something")
        else:
            codes, duration_s = self._heard(user, sample_rate_hz), len(user) / sample_rate_hz
        ids = template.spoken_question(codes)
        return Turn(role="user", tokens=(template.stop_id, *ids), codes=codes), duration_s

    def _heard(self, audio: np.ndarray, sample_rate_hz: int) -> np.ndarray:
        tokenizer = self._parts.speech_tokenizer
        if tokenizer is None:
            raise ConfigError("the engine has no speech tokenizer, so it cannot hear; give one")
        if not _RATES_HZ[0] <= sample_rate_hz <= _RATES_HZ[1]:
            raise AudioError(
                f"audio of {sample_rate_hz} Hz; expected {_RATES_HZ[0]} to {_RATES_HZ[1]} Hz"
            )
        audio = np.asarray(audio)
        if audio.ndim != 1 or audio.dtype.kind != "f":
            raise AudioError(
                f"audio of shape {audio.shape} and type {audio.dtype}; expected mono floats"
            )
        check_waveform(audio, "the question")
        return tokenizer.encode([resample(audio, sample_rate_hz)])[0]

    @property
    def _decoder(self) -> SpeechDecoder | None:
        """What speaks the answers."""
        return None if self._parts.config.mode == "text" else self._parts.decoder

    def _system(self, question: Turn | None = None) -> list[int]:
        """The system's turn, before `question` if it is the first."""
        first = self.history[0] if self.history else question
        modality: Modality = "speech" if first is None or len(first.codes) else "text"
        return self._parts.template.system(self._parts.config.mode, modality)

    def _prompt(self, question: Turn) -> list[int]:
        """System, the last turns there is room for, question, and the beginning of the answer."""
        parts = self._parts
        system, context = self._system(question), parts.context_tokens
        begin = parts.template.answer_begin(parts.config.mode)
        room = context - len(system) - len(question.tokens) - len(begin)
        room -= min(parts.config.max_new_tokens, context // 4)
        if room < 0:
            raise DataError(
                f"the question takes {len(question.tokens)} tokens, too many for a model that sees "
                f"{context} and must have room to answer; ask a shorter one"
            )
        kept: list[int] = []
        for number in range(len(self.history) - 2, -1, -2):  # a question and its answer
            pair = [*self.history[number].tokens, *self.history[number + 1].tokens]
            if len(kept) + len(pair) > room:
                break
            kept = pair + kept
        return [*system, *kept, *question.tokens, *begin]

    def _remember(self, question: Turn, answer: Answer, reason: Reason) -> None:
        parts = self._parts
        begin = parts.template.answer_begin(parts.config.mode)
        self.history += [
            question,
            Turn(
                role="assistant",
                tokens=tuple(parts.template.close([*begin, *answer.tokens])),
                text=parts.template.vocab.text.decode(answer.text_ids),
                codes=np.array(answer.codes, dtype=np.int64),
                interrupted=reason == "interrupted",
            ),
        ]

    def _cut_to(self, heard_s: float) -> None:
        """Forget what of the last answer comes after the code that was heard last."""
        self._heard_s = None
        parts = self._parts
        tokenizer, template = parts.speech_tokenizer, parts.template
        if not self.history or tokenizer is None or self._decoder is None:
            return
        turn = self.history[-1]
        heard = round(heard_s * tokenizer.frame_rate_hz)
        if len(turn.codes) and heard >= len(turn.codes):
            return
        kept = begin = tuple(template.answer_begin(parts.config.mode))
        if heard and len(turn.codes):
            (places,) = np.nonzero(template.vocab.is_speech(np.array(turn.tokens)))
            kept = turn.tokens[: int(places[heard - 1]) + 1]
        said = [t for t in kept[len(begin) :] if parts.kinds.is_text(t)]
        self.history[-1] = replace(
            turn,
            tokens=tuple(template.close(kept)),
            text=template.vocab.text.decode(said),
            codes=turn.codes[:heard],
            interrupted=True,
        )
