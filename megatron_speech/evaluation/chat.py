"""Chat evaluation: are answers right, does speech say what the text says, how good is either.

By mode and kind of item: s2t, the written answers that are right, and s2s, the spoken ones, read by
the speech tokenizer's own ASR; each with n, standard error and what guessing would get. Beside them
the pre-trained model on the same questions. Word errors between written and spoken answer, from the
codes and, with a speech decoder, from the sound; UTMOS and a judging model where they are given.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import resample
from ..chat.session import ChatConfig
from ..chat.template import Mode
from ..errors import ConfigError, require_within
from ..io.files import write_json
from ..speech_tokenizer.opened import OpenedSpeechTokenizer, open_speech_tokenizer
from .chat_replies import Reply, base_replies, chat_replies, judge_reply
from .context import Figure, Utterances
from .items import ChatItem, first_of_each, read_chat_items
from .judge import Judge, JudgeConfig, Question

SAMPLES_KEPT = 40
ALL = "all"
ONE_TURN = "all of one turn"
"""What a base model is asked too, so that both can be compared."""


@dataclass(frozen=True, kw_only=True)
class EvaluateChatConfig:
    """Which chat model to ask what."""

    model: Path
    """Exported folder of the fine-tuned model."""
    speech_tokenizer: Path
    """Folder of its speech tokenizer. One that cannot transcribe, as the released one, leaves
    spoken answers unjudged."""
    items: Path
    """Questions: id, kind, turns, answers, wrong, chance; one JSON object a line."""
    questions: tuple[Path, ...]
    """Code shards (or folders of them) of all turns of the items, spoken; found by their text."""
    output: Path
    """JSON file for the results."""
    modes: tuple[Mode, ...] = ("text", "direct", "guided", "streaming")
    """Ways of answering that the model was fine-tuned for."""
    pretrained: Path | None = None
    """Exported folder of the model before fine-tuning, to compare with."""
    decoder: Path | None = None
    """Folder of the speech decoder: adds figures of the sound."""
    utmos_model: Path | None = None
    """TorchScript file, audio (1, n) of 16 kHz to a score: adds UTMOS; needs --decoder."""
    limit: int | None = None
    """Items of each kind, from the start of the file."""
    language_of_answers: str = "en"
    """Language of the answers (ISO 639-1)."""
    chat: ChatConfig = field(default_factory=ChatConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)

    def __post_init__(self) -> None:
        require_within(self, 1, "limit")
        if self.utmos_model is not None and self.decoder is None:
            raise ConfigError("--utmos-model judges sound: give --decoder too")
        if not self.modes:
            raise ConfigError("--modes needs at least one of text, direct, guided, streaming")


def evaluate_chat(config: EvaluateChatConfig) -> dict[str, Any]:
    """Ask all items in all modes; returns figures by mode, and `pretrained`'s.

    The judge comes last, when all else is in --output: what it does costs no answers.

    Raises:
        CheckpointError, VocabularyError: a folder holds no model, or none that can chat.
        DataError: items or their speech are missing, or codes do not belong together.
        ConfigError: answers in speech alone, and a speech tokenizer that cannot transcribe.
    """
    from ..chat.engine import ChatEngine

    tokenizer = open_speech_tokenizer(config.speech_tokenizer, config.chat.device)
    questions = Utterances(config.questions, tokenizer.fingerprint)
    items = first_of_each(read_chat_items(config.items), lambda item: item.kind, config.limit)
    engine = ChatEngine(
        config.model, tokenizer, _decoder(config), replace(config.chat, mode=config.modes[0])
    )
    reads = _transcribes(tokenizer, config)
    results: dict[str, Any] = {"model": str(config.model), "modes": {}}
    to_judge: dict[Mode, list[Question]] = {}
    for mode in config.modes:
        replies = chat_replies(engine, mode, items, questions)
        results["modes"][mode], answers = _figures(
            replies, reads and mode != "text", tokenizer, config
        )
        to_judge[mode] = _questions(replies, answers)
    if config.pretrained is not None:
        results["pretrained"] = _pretrained(config, items, questions, tokenizer, reads)
    if config.judge.judge_url is not None:
        write_json(config.output, results)
        for mode, asked in to_judge.items():
            results["modes"][mode]["judge"] = _judged(asked, config.judge)
    return results


def _transcribes(tokenizer: OpenedSpeechTokenizer, config: EvaluateChatConfig) -> bool:
    try:
        tokenizer.decode_text([])
    except ConfigError as error:
        if "direct" in config.modes:
            raise ConfigError(
                f"{config.speech_tokenizer}: {error}; answers in speech alone (direct) cannot be "
                "judged by it, give --modes without direct"
            ) from None
        print(f"note: {error}: written answers are judged, spoken ones are not", file=sys.stderr)
        return False
    return True


def _decoder(config: EvaluateChatConfig) -> Any:
    if config.decoder is None:
        return None
    from ..speech_decoder import SpeechDecoder

    return SpeechDecoder.from_pretrained(config.decoder, config.chat.device)


def _pretrained(
    config: EvaluateChatConfig,
    items: Sequence[ChatItem],
    questions: Utterances,
    tokenizer: OpenedSpeechTokenizer,
    reads: bool,
) -> dict[str, Any]:
    from .scoring import LanguageModel

    assert config.pretrained is not None
    model = LanguageModel.from_pretrained(
        config.pretrained, config.chat.precision, config.chat.device
    )
    written = base_replies(model, items, questions, speech=False)
    found = {"s2t": accuracies(written, [reply.text or "" for reply in written])}
    if reads:
        spoken = base_replies(model, items, questions, speech=True)
        found["s2s"] = accuracies(spoken, tokenizer.decode_text([r.codes for r in spoken]))
    return found


def _figures(
    replies: list[Reply], speaks: bool, tokenizer: OpenedSpeechTokenizer, config: EvaluateChatConfig
) -> tuple[dict[str, Any], list[str]]:
    """All figures of one mode but the judge's, and the answers: as heard, or as written."""
    found: dict[str, Any] = {}
    texts = [reply.text for reply in replies if reply.text is not None]
    if texts:
        found["s2t"] = accuracies(replies, texts)
    heard: list[str] = []
    if speaks:
        heard = tokenizer.decode_text([reply.codes for reply in replies])
        found["s2s"] = accuracies(replies, heard)
        if texts:
            found["wer_codes"] = _word_errors(texts, heard, config)
        found |= _figures_of_sound(replies, texts, tokenizer, config)
    found["latency"] = _latency(replies)
    found["samples"] = [
        {
            "id": reply.item.id,
            "question": reply.item.turns,
            "answers": reply.item.answers[:3],
            "text": reply.text,
            "heard": heard[n] if speaks else None,
        }
        for n, reply in enumerate(replies)
    ][:: max(1, -(-len(replies) // SAMPLES_KEPT))]
    return found, heard or texts


def accuracies(replies: Sequence[Reply], answers: Sequence[str]) -> dict[str, dict[str, float]]:
    """Share of right answers by kind, of `all of one turn` and of `all`.

    Each with n, standard error and chance; what there are no items of is left out.
    """
    judged = [judge_reply(a, r.item) for a, r in zip(answers, replies, strict=True)]
    right, chances = np.array(judged, np.float64).reshape(-1, 2).T
    kinds = np.array([reply.item.kind for reply in replies])
    groups = {kind: kinds == kind for kind in dict.fromkeys(kinds.tolist())}
    groups[ONE_TURN] = np.array([len(reply.item.turns) == 1 for reply in replies], bool)
    groups[ALL] = np.ones(len(replies), bool)
    found = {}
    for kind, chosen in groups.items():
        if not chosen.any():
            continue
        figure = Figure(accuracy=float(right[chosen].mean()), n=int(chosen.sum()))
        found[kind] = {**figure.to_json(), "chance": float(chances[chosen].mean())}
    return found


def _word_errors(texts: Sequence[str], heard: Sequence[str], config: EvaluateChatConfig) -> float:
    from ..speech_tokenizer.transcription import word_error_rate

    return word_error_rate(texts, heard, config.language_of_answers)


def _figures_of_sound(
    replies: Sequence[Reply],
    texts: Sequence[str],
    tokenizer: OpenedSpeechTokenizer,
    config: EvaluateChatConfig,
) -> dict[str, float]:
    """Word errors of the sound against the text, and UTMOS."""
    from ..speech_decoder.mel import SAMPLE_RATE_HZ as RATE_HZ

    spoken = [n for n, reply in enumerate(replies) if reply.audio is not None]
    if not spoken:
        return {}
    clips = [resample(audio, RATE_HZ) for n in spoken if (audio := replies[n].audio) is not None]
    found: dict[str, float] = {}
    if texts:
        heard = [""] * len(replies)
        read = tokenizer.decode_text(tokenizer.encode(clips))
        for n, text in zip(spoken, read, strict=True):
            heard[n] = text
        found["wer_audio"] = _word_errors(texts, heard, config)
    if config.utmos_model is not None:
        from .recognisers import ScriptedJudge

        judge = ScriptedJudge(config.utmos_model, config.chat.device)
        found["utmos"] = float(np.mean([judge(clip).mean() for clip in clips]))
    return found


def _questions(replies: Sequence[Reply], answers: Sequence[str]) -> list[Question]:
    """What a judge is asked: correctness only where the references are facts."""
    return [
        Question(" ".join(reply.item.turns), answer, () if reply.item.wrong else reply.item.answers)
        for reply, answer in zip(replies, answers, strict=True)
    ]


def _judged(asked: Sequence[Question], config: JudgeConfig) -> dict[str, Any]:
    """Mean quality and correctness, over what the judge had to say."""
    verdicts = Judge(config).judge(asked)
    grades = [v.quality for v in verdicts if v.quality is not None]
    checked = [v.correct for v in verdicts if v.correct is not None]
    errors = [v.error for v in verdicts if v.error is not None]
    return {
        "model": config.judge_model,
        "quality": float(np.mean(grades)) if grades else None,
        "quality_n": len(grades),
        "correct": float(np.mean(checked)) if checked else None,
        "correct_n": len(checked),
        "failed": len(errors),
        "first_error": errors[0] if errors else None,
    }


def _latency(replies: Sequence[Reply]) -> dict[str, float]:
    """Medians over the replies, in seconds; the real-time factor counts no tokenising."""
    timings = [reply.timing for reply in replies if reply.timing is not None]
    names = ("prefill_s", "first_tokens_s", "first_decode_s", "first_text_s", "first_audio_s")
    found = {}
    for name in (*names, "real_time_factor"):
        values = [getattr(timing, name) for timing in timings]
        values = [value for value in values if value is not None]
        if values:
            found[name] = float(np.median(values))
    return found
