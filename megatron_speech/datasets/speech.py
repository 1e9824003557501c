"""Code shards to indexed datasets: speech alone, and speech paired with its text."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..data.alignments import Alignments
from ..data.code_shards import CodeRecord, CodeShardInfo, read_code_shards
from ..data.indexed import DatasetFacts, IndexedWriter, dataset_path
from ..data.templates import asr_document, speech_document, tts_document, voiced_text
from ..errors import ConfigError, DataError, VocabularyError
from ..interleaving.spans import SpanConfig, sample_word_spans
from ..io.rejected import Rejected, write_rejected
from ..jobs.claims import exclusive
from ..jobs.progress import track
from ..jobs.randomness import document_keys, uniform
from ..text.vocab import SpeechTextVocab
from .word_codes import cut_windows, spoken_text

_DOCUMENTS_AT_A_TIME = 1024
_FRAGMENT_PURPOSE = 104


@dataclass(frozen=True, kw_only=True)
class SpeechConfig:
    """Recordings without their text."""

    codes: tuple[Path, ...]
    """Code shards, or folders of them."""
    vocab: Path
    """Vocabulary folder."""
    output_prefix: Path
    """Files are <output-prefix>.bin, .idx, .json."""
    tokenizer_fingerprint: str | None = None
    """Refuse shards of another speech tokenizer."""
    join_segments: bool = False
    """Make one document of consecutive segments <document>/<nnn>."""


@dataclass(frozen=True, kw_only=True)
class PairsConfig:
    """Recordings with their text, in both directions: <output-prefix>-asr and -tts."""

    codes: tuple[Path, ...]
    """Code shards with text, or folders of them."""
    vocab: Path
    """Vocabulary folder."""
    output_prefix: Path
    """Datasets are <output-prefix>-asr and <output-prefix>-tts."""
    tokenizer_fingerprint: str | None = None
    """Refuse shards of another speech tokenizer."""


@dataclass(frozen=True, kw_only=True)
class TextToTokenConfig:
    """Texts with their codes, to train a text-to-token model: loss on the speech only."""

    codes: tuple[Path, ...]
    """Code shards with text, or folders of them."""
    vocab: Path
    """Vocabulary folder."""
    output_prefix: Path
    """Files are <output-prefix>.bin, .idx, .json."""
    tokenizer_fingerprint: str | None = None
    """Refuse shards of another speech tokenizer."""
    alignments: Path | None = None
    """Parquet file of word times (id, start_s, stop_s), to cut recordings into fragments."""
    fragments: float = 0.5
    """Share of the recordings with word times that are cut into fragments, as the interleaver cuts
    text; a model that never saw one cannot speak one. Without --alignments give it recordings of
    fragments."""
    mean_fragment_words: float = 10.0
    """Lambda of the Poisson distribution of fragment lengths."""
    seed: int = 0
    """Chooses what is cut where, together with each record's id."""
    tags: tuple[Literal["language", "speaker"], ...] = ()
    """What the model is told of the voice, in brackets before the text: `[en, p225] Good morning.`
    A record that lacks one goes without it. Name the same tags in --voices when generating."""

    def __post_init__(self) -> None:
        if not 0 <= self.fragments <= 1 or self.mean_fragment_words <= 0:
            raise ConfigError("fragments is a share from 0 to 1, mean_fragment_words more than 0")


AnyConfig = SpeechConfig | PairsConfig | TextToTokenConfig


def build_speech(config: SpeechConfig) -> DatasetFacts:
    """Speech documents in the order of the shards.

    Raises:
        DataError: no shards, damaged ones, ones of several speech tokenizers, or no codes at all.
        VocabularyError: the shards' codebook is not the vocabulary's.
        InUseError: another process makes the dataset.
    """
    vocab, info, records = _open(config)
    rejected: list[Rejected] = []
    records = _with_codes(records, rejected, needs_text=False)
    if config.join_segments:
        records = join_segments(records)
    with exclusive(config.output_prefix):
        with IndexedWriter(config.output_prefix, vocab) as writer:
            for batch in batched(records, _DOCUMENTS_AT_A_TIME):
                documents = [speech_document(vocab, record.codes) for record in batch]
                writer.add_documents(documents, [record.id for record in batch])
            _require_some(writer, config, rejected)
        return _finish(writer, "speech", info, rejected)


def build_pairs(config: PairsConfig) -> dict[str, DatasetFacts]:
    """ASR and TTS documents of the same utterances; keys `asr` and `tts`. Raises as speech."""
    vocab, info, records = _open(config)
    rejected: list[Rejected] = []
    asr = IndexedWriter(dataset_path(config.output_prefix, "-asr"), vocab)
    tts = IndexedWriter(dataset_path(config.output_prefix, "-tts"), vocab)
    with exclusive(config.output_prefix):
        with asr, tts:
            usable = _with_codes(records, rejected, needs_text=True)
            for batch in batched(usable, _DOCUMENTS_AT_A_TIME):
                texts = _encode(vocab, batch)
                pairs, names = list(zip(batch, texts, strict=True)), [record.id for record in batch]
                heard = [asr_document(vocab, record.codes, ids) for record, ids in pairs]
                said = [tts_document(vocab, ids, record.codes) for record, ids in pairs]
                asr.add_documents(heard, names)
                tts.add_documents(said, names)
            _require_some(asr, config, rejected)
        return {
            "asr": _finish(asr, "asr", info, rejected),
            "tts": _finish(tts, "tts", info, rejected),
        }


def build_text_to_token(config: TextToTokenConfig) -> DatasetFacts:
    """Documents for a text-to-token model. Raises as speech."""
    vocab, info, records = _open(config)
    rejected: list[Rejected] = []
    records = _with_codes(records, rejected, needs_text=True)
    if config.alignments is not None:
        info.require_places_in_time("--alignments")
        records = _fragments(records, Alignments(config.alignments), info, config)
        records = _with_codes(records, rejected, needs_text=True)
    with exclusive(config.output_prefix):
        with IndexedWriter(config.output_prefix, vocab) as writer:
            for batch in batched(records, _DOCUMENTS_AT_A_TIME):
                voiced = [voiced_text((r.text or "").strip(), _voice(r, config)) for r in batch]
                texts = vocab.text.encode_batch(voiced)
                writer.add_documents(
                    [
                        tts_document(vocab, ids, record.codes)
                        for record, ids in zip(batch, texts, strict=True)
                    ],
                    [record.id for record in batch],
                )
            _require_some(writer, config, rejected)
        return _finish(writer, "text_to_token", info, rejected)


def _voice(record: CodeRecord, config: TextToTokenConfig) -> str | None:
    known = [getattr(record, tag) for tag in config.tags]
    return ", ".join(value for value in known if value) or None


def _fragments(
    records: Iterable[CodeRecord],
    alignments: Alignments,
    info: CodeShardInfo,
    config: TextToTokenConfig,
) -> Iterator[CodeRecord]:
    """Some of the records cut from end to end into windows of words, the others as they are."""
    # all words, no gaps: the spans then lie side by side
    lengths = SpanConfig(eta=1.0, gap_words=0, mean_span_words=config.mean_fragment_words)
    for record in records:
        key = document_keys(config.seed, [record.id])
        spoken = None
        if uniform(key, _FRAGMENT_PURPOSE, np.zeros(1))[0] < config.fragments:
            spoken = spoken_text(record, alignments, info.frame_rate_hz)
        if spoken is None or spoken.word_codes is None:
            yield record
            continue
        spans = sample_word_spans(np.array([len(spoken.words)]), key, lengths)
        yield from cut_windows(spoken, spans.start, spans.stop, info.frame_rate_hz)


def join_segments(records: Iterable[CodeRecord]) -> Iterator[CodeRecord]:
    """Make one record of consecutive ones whose ids are `<document>/<nnn>` of one document.

    Ids without a slash stay alone, and a number that is left out (a segment that was set aside)
    ends a record: what is joined was spoken in one go. Codes are joined, texts by a space,
    durations added.
    """
    for segments in consecutive(records):
        alone = document_of(segments[0].id) is None
        yield segments[0] if alone else _joined(segments)


def consecutive(records: Iterable[CodeRecord]) -> Iterator[list[CodeRecord]]:
    """Records in lists, each of segments that follow one another in one document, or of one."""
    waiting: list[CodeRecord] = []
    for record in records:
        if waiting and not goes_on(waiting[-1].id, record.id):
            yield waiting
            waiting = []
        waiting.append(record)
    if waiting:
        yield waiting


def document_of(name: str) -> str | None:
    """The document of a segment `<document>/<nnn>`; None for an id of another form."""
    document, slash, segment = name.rpartition("/")
    return document if slash and segment.isdigit() else None


def goes_on(name: str, following: str) -> bool:
    """Whether the second id is the segment right after the first."""
    document = document_of(name)
    if document is None or document != document_of(following):
        return False
    return int(following.rpartition("/")[2]) == int(name.rpartition("/")[2]) + 1


def _joined(records: list[CodeRecord]) -> CodeRecord:
    texts = [record.text for record in records if record.text]
    return CodeRecord(
        id=document_of(records[0].id) or records[0].id,
        codes=np.concatenate([record.codes for record in records]),
        text=" ".join(texts) or None,
        language=records[0].language,
        duration_s=sum(record.duration_s for record in records),
        speaker=records[0].speaker,
    )


def _open(config: AnyConfig) -> tuple[SpeechTextVocab, CodeShardInfo, Iterator[CodeRecord]]:
    vocab = SpeechTextVocab.from_pretrained(config.vocab)
    info, records = read_code_shards(config.codes, config.tokenizer_fingerprint)
    whose = ", ".join(map(str, config.codes))
    vocab.require_speech_tokenizer(info.tokenizer_fingerprint, whose, str(config.vocab))
    if info.num_codes != vocab.num_codes:
        raise VocabularyError(
            f"the code shards come from a codebook of {info.num_codes}, but the vocabulary "
            f"{config.vocab} has {vocab.num_codes} codes; build the vocabulary for this tokenizer"
        )
    return vocab, info, track(records, f"build {config.output_prefix.name}", unit="records")


def _with_codes(
    records: Iterable[CodeRecord], rejected: list[Rejected], *, needs_text: bool
) -> Iterator[CodeRecord]:
    for record in records:
        if not len(record.codes):
            rejected.append(Rejected(record.id, "no_codes"))
        elif needs_text and not (record.text or "").strip():
            rejected.append(Rejected(record.id, "no_text"))
        else:
            yield record


def _encode(vocab: SpeechTextVocab, batch: Sequence[CodeRecord]) -> list[list[int]]:
    return vocab.text.encode_batch([(record.text or "").strip() for record in batch])


def _require_some(writer: IndexedWriter, config: AnyConfig, rejected: list[Rejected]) -> None:
    if not writer.documents:
        reasons = sorted({item.reason for item in rejected})
        raise DataError(
            f"no usable record in {', '.join(map(str, config.codes))}: "
            f"{len(rejected)} set aside ({', '.join(reasons) or 'the shards are empty'})"
        )


def _finish(
    writer: IndexedWriter, kind: str, info: CodeShardInfo, rejected: list[Rejected]
) -> DatasetFacts:
    counts: dict[str, Any] = {
        "rejected": write_rejected(dataset_path(writer.prefix, ".rejected.jsonl"), rejected)
    }
    return writer.write_facts(kind, info.tokenizer_fingerprint, counts)
