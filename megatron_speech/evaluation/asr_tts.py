"""Recognition and synthesis by the language model itself, in the words it was trained with.

    asr   begin codes end transcribe | text          codes in, WER of the transcript
    tts   speak text begin | codes end               text in, its codes read by the tokenizer

Word errors after Whisper's normalisation, by language; in scripts without spaces a character is a
word. `reading` of tts is the WER of the recordings' own codes, read by the same recogniser: what
the model adds is the difference. With a decoder and a Whisper, tts is also heard: codes to audio to
text (`heard`). (The paper's table 5 scores by whisper-large-v3 and Paraformer.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import resample
from ..data.code_shards import CodeRecord, CodeShardInfo, read_code_shards
from ..data.templates import speak_prompt, transcribe_prompt
from ..errors import CheckpointError, ConfigError, DataError
from ..speech_decoder.decoder import SpeechDecoder
from ..speech_tokenizer.languages import language_code
from ..speech_tokenizer.transcription import error_rate, word_errors
from ..speech_tokenizer.whisper import Whisper
from ..text.vocab import TRANSCRIBE
from .context import EvaluationContext
from .qa import BATCH_SIZE, generate

_MOST_TEXT = (16, 12)
_MOST_CODES = (32, 10)
"""Most tokens of a reply: so many, and so many a second of speech (text) or a character (codes)."""
_SAMPLES_KEPT = 20
_LEAST_ROOM = 16
_ENDLESS = 1 << 62  # positions of a model that names no limit


@dataclass(frozen=True, kw_only=True)
class WordErrors:
    """One line of the table of word errors."""

    task: str
    part: str
    """A language, or all."""
    direction: str
    counts: Sequence[tuple[int, int]]
    """Errors and words of each text."""
    more: dict[str, float] = field(default_factory=dict)
    """Other rates on the same texts."""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Word errors a word."""
        return error_rate(self.counts)

    @property
    def stderr(self) -> float:
        """Standard error of the rate over texts (of a ratio of means)."""
        errors, words = np.array(self.counts, np.float64).reshape(-1, 2).T
        if len(words) < 2:
            return float("nan")
        spread = (errors - self.rate * words).std(ddof=1) / np.sqrt(len(words))
        return float(spread / words.mean())

    def to_json(self) -> dict[str, Any]:
        return {
            "wer": self.rate,
            "stderr": self.stderr if len(self.counts) > 1 else None,
            "texts": len(self.counts),
            "words": sum(words for _, words in self.counts),
            **self.more,
            **self.details,
        }


def evaluate_asr(context: EvaluationContext) -> list[WordErrors]:
    """WER of the model's transcripts of `--speech`.

    Raises:
        ConfigError: no shards were given, or a vocabulary without the token that asks for it.
    """
    info, records = _records(context, "asr")
    vocab = context.model.vocab
    if TRANSCRIBE not in vocab.specials:
        raise ConfigError(f"task asr asks by {TRANSCRIBE}, which the model's vocabulary lacks")
    prompts = [
        np.concatenate([[vocab.eod_id], transcribe_prompt(vocab, record.codes)])
        for record in records
    ]
    base, each = _MOST_TEXT
    most = [base + int(each * len(record.codes) / info.frame_rate_hz) for record in records]
    fitting, replies = _generate(context, prompts, most, "asr")
    texts = [vocab.text.decode(tokens.tolist()).strip() for tokens in replies]
    kept = [records[n] for n in fitting]
    return _by_language("asr", "s2t", kept, {"wer": texts}, len(records) - len(kept))


def evaluate_tts(context: EvaluationContext) -> list[WordErrors]:
    """WER of what the model says for the texts of `--speech`.

    Raises:
        ConfigError: no shards, or no speech tokenizer that transcribes.
    """
    info, records = _records(context, "tts")
    vocab, reader = context.model.vocab, context.transcriber("tts")
    encoded = vocab.text.encode_batch([(record.text or "").strip() for record in records])
    prompts = [np.concatenate([[vocab.eod_id], speak_prompt(vocab, ids)]) for ids in encoded]
    base, each = _MOST_CODES
    most = [base + each * len(record.text or "") for record in records]
    fitting, replies = _generate(context, prompts, most, "tts")
    codes = [vocab.tokens_to_codes(tokens) for tokens in replies]
    kept = [records[n] for n in fitting]
    languages = [record.language for record in kept]
    readings = {"wer": reader.decode_text(codes, languages)}
    readings["reading"] = reader.decode_text([record.codes for record in kept], languages)
    if context.decoder_path is not None and context.whisper_path is not None:
        listener = DecoderListener(
            context.decoder_path, context.whisper_path, str(context.model.device)
        )
        listener.decoder.check_codes_of(
            info.frame_rate_hz, info.num_codes, info.tokenizer_fingerprint
        )
        readings["heard"] = listener(codes, languages)
    return _by_language("tts", "t2s", kept, readings, len(records) - len(kept))


def _generate(
    context: EvaluationContext, prompts: Sequence[np.ndarray], most: Sequence[int], task: str
) -> tuple[list[int], list[np.ndarray]]:
    """Numbers of the prompts that fit the model's positions, and up to `most` tokens after each.

    Raises:
        CheckpointError: none fits.
    """
    model = context.model
    limit = getattr(model.model.config, "max_position_embeddings", None) or _ENDLESS
    fitting = [n for n, prompt in enumerate(prompts) if len(prompt) + _LEAST_ROOM <= limit]
    if not fitting:
        raise CheckpointError(
            f"task {task}: no record fits the model's {limit} positions with {_LEAST_ROOM} for the "
            f"reply; the shortest prompt has {min(map(len, prompts))} tokens"
        )
    order = sorted(fitting, key=lambda n: len(prompts[n]))
    replies: dict[int, np.ndarray] = {}
    for first in range(0, len(order), BATCH_SIZE):
        part = order[first : first + BATCH_SIZE]
        room = limit - max(len(prompts[n]) for n in part)
        found = generate(
            model,
            [prompts[n] for n in part],
            speech=task == "tts",
            max_new_tokens=min(room, max(most[n] for n in part)),
            description=task,
        )
        replies |= {n: tokens[: most[n]] for n, tokens in zip(part, found, strict=True)}
    return fitting, [replies[n] for n in fitting]


def _records(context: EvaluationContext, task: str) -> tuple[CodeShardInfo, list[CodeRecord]]:
    if not context.speech_paths:
        raise ConfigError(f"task {task} needs codes with their texts: give --speech")
    info, stream = read_code_shards(list(context.speech_paths))
    usable = (r for r in stream if len(r.codes) and (r.text or "").strip())
    records = list(islice(usable, context.limit))
    if not records:
        raise DataError(f"task {task}: --speech has no record with codes and text")
    return info, records


def _by_language(
    task: str,
    direction: str,
    records: Sequence[CodeRecord],
    readings: dict[str, list[str]],
    too_long: int,
) -> list[WordErrors]:
    """Word errors of all records (where there are several languages) and of each language."""
    languages = [language_code(record.language or "en") for record in records]
    said = [record.text or "" for record in records]
    counts = {name: word_errors(said, texts, languages) for name, texts in readings.items()}
    names = sorted(set(languages))
    parts = [("all", range(len(records)))] if len(names) > 1 else []
    parts += [(name, [n for n, own in enumerate(languages) if own == name]) for name in names]
    found = []
    for part, at in parts:
        chosen = {name: [own[n] for n in at if own[n][1]] for name, own in counts.items()}
        samples = [
            {"text": records[n].text, **{name: texts[n] for name, texts in readings.items()}}
            for n in list(at)[:_SAMPLES_KEPT]
        ]
        found.append(
            WordErrors(
                task=task,
                part=part,
                direction=direction,
                counts=chosen["wer"],
                more={name: error_rate(own) for name, own in chosen.items() if name != "wer"},
                details={"too_long": too_long, "samples": samples},
            )
        )
    return found


class DecoderListener:
    """Codes to audio by a speech decoder, audio to text by a Whisper: what others would hear."""

    def __init__(self, decoder: Path, whisper: Path, device: str):
        self.decoder = SpeechDecoder.from_pretrained(decoder, device)
        self._whisper = Whisper.from_pretrained(whisper, device)

    def __call__(self, codes: Sequence[np.ndarray], languages: Sequence[str | None]) -> list[str]:
        """What is heard in codes (n,); "" in none."""
        rate_hz, said = self.decoder.sample_rate_hz, [n for n, own in enumerate(codes) if len(own)]
        audio = [resample(self.decoder.decode(codes[n]), rate_hz).clip(-1, 1) for n in said]
        heard = self._whisper.transcribe(audio, [languages[n] for n in said])
        found = dict(zip(said, heard, strict=True))
        return [found.get(n, "") for n in range(len(codes))]
