"""Turns and their codes -> training documents, one dataset for each mode and kind of question."""

from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..data.code_shards import read_code_shards
from ..data.indexed import IndexedWriter, dataset_path
from ..errors import DataError, VocabularyError
from ..io.parquet import open_parquet, read_batches
from ..io.rejected import Rejected, write_rejected
from ..jobs.progress import Progress
from ..text.vocab import SpeechTextVocab
from .config import LAYOUTS, DatasetMode, DialoguesConfig
from .dialogues import turn_id
from .template import ChatTemplate, Modality, Mode, text_outlasts_speech

_AT_A_TIME = 1024


class TurnCodes:
    """Codes of turns, found by their ids; kept in memory as 16-bit numbers where they fit."""

    def __init__(self, paths: Sequence[Path], vocab: SpeechTextVocab):
        """Read code shards, if any are given; raises as `read` does."""
        self.tokenizers: set[str] = set()
        self.frame_rate_hz: float | None = None
        self._codes: dict[str, np.ndarray] = {}
        self._vocab = vocab
        self.read(paths)

    def read(self, paths: Sequence[Path]) -> None:
        """Add code shards.

        Raises:
            DataError: shards missing, damaged or of several speech tokenizers, or an id twice.
            VocabularyError: codes of another codebook or speech tokenizer than the vocabulary's.
        """
        if not paths:
            return
        vocab, (info, records) = self._vocab, read_code_shards(paths)
        whose = ", ".join(map(str, paths))
        vocab.require_speech_tokenizer(info.tokenizer_fingerprint, whose, "the vocabulary")
        if info.num_codes != vocab.num_codes:
            raise VocabularyError(
                f"{whose} hold codes of a codebook of {info.num_codes}, the vocabulary has "
                f"{vocab.num_codes} codes; build the vocabulary for this speech tokenizer"
            )
        self.tokenizers.add(info.tokenizer_fingerprint)
        self.frame_rate_hz = info.frame_rate_hz
        small = np.uint16 if vocab.num_codes <= 1 << 16 else np.int32
        for record in records:
            if record.id in self._codes:
                raise DataError(f"{whose} hold codes of {record.id!r} twice; remove one of them")
            if len(record.codes):
                self._codes[record.id] = record.codes.astype(small)

    @property
    def names(self) -> Set[str]:
        """Ids of the turns that have codes."""
        return self._codes.keys()

    def __getitem__(self, name: str) -> np.ndarray:
        """Codes (n,) int64; none where they were rejected or are missing."""
        return self._codes.get(name, np.zeros(0)).astype(np.int64)


@dataclass
class _Dataset:
    """One of the datasets while it is written."""

    name: DatasetMode
    mode: Mode
    questions: Modality
    writer: IndexedWriter
    rejected: list[Rejected] = field(default_factory=list)


def assemble_dialogues(
    config: DialoguesConfig, template: ChatTemplate, user: TurnCodes, assistant: TurnCodes
) -> dict[str, dict[str, Any]]:
    """Write every dataset; returns what each `<prefix>.json` holds, by the end of its name.

    Raises:
        DataError: codes of several speech tokenizers, or a dataset that would hold nothing.
    """
    tokenizers = user.tokenizers | assistant.tokenizers
    if len(tokenizers) > 1:
        raise DataError(
            "questions and answers are codes of different speech tokenizers "
            f"({sorted(tokenizers)}); tokenize all of them with one"
        )
    datasets = [
        _Dataset(mode, LAYOUTS[mode], questions, IndexedWriter(prefix, template.vocab))
        for mode in config.modes
        for questions in config.questions
        for prefix in [_prefix(config, mode, questions)]
    ]
    composer = Composer(template, user, assistant, config.seq_length)
    with ExitStack() as stack:
        for dataset in datasets:
            stack.enter_context(dataset.writer)
        with Progress("assemble dialogues", unit="dialogues") as progress:
            for names, dialogues in _turns(config.work_folder / "turns.parquet"):
                texts = _encode(template.vocab, dialogues)
                for dataset in datasets:
                    composer.add(dataset, names, texts)
                progress.advance(len(names))
        for dataset in datasets:
            _require_some(dataset)
    fingerprint = next(iter(tokenizers), None)
    extra = {"template": asdict(template.config)}
    return {
        dataset_name(dataset.name, dataset.questions): _finish(dataset, fingerprint, extra)
        for dataset in datasets
    }


def dataset_name(mode: DatasetMode, questions: Modality) -> str:
    """The end of a dataset's name."""
    return mode if questions == "speech" else f"{mode}-from-text"


def _prefix(config: DialoguesConfig, mode: DatasetMode, questions: Modality) -> Path:
    return dataset_path(config.output_prefix, f"-{dataset_name(mode, questions)}")


def _turns(path: Path) -> Iterator[tuple[list[str], list[list[str]]]]:
    for batch in read_batches(open_parquet(path), path, _AT_A_TIME):
        yield batch["dialogue_id"].to_pylist(), batch["turns"].to_pylist()


def _encode(vocab: SpeechTextVocab, dialogues: list[list[str]]) -> list[list[list[int]]]:
    """Text ids of every turn of every dialogue, tokenised at once."""
    flat = iter(vocab.text.encode_batch([turn for turns in dialogues for turn in turns]))
    return [[next(flat) for _ in turns] for turns in dialogues]


@dataclass(frozen=True)
class Composer:
    """Makes documents of turns."""

    template: ChatTemplate
    user: TurnCodes
    assistant: TurnCodes
    seq_length: int | None

    def add(self, dataset: _Dataset, names: list[str], texts: list[list[list[int]]]) -> None:
        """Write the documents of some dialogues (text ids by turn) to a dataset."""
        documents, sources = [], []
        for name, turns in zip(names, texts, strict=True):
            document = self._document(dataset, name, turns)
            if document is not None:
                documents.append(document)
                sources.append(name)
        dataset.writer.add_documents(documents, sources)

    def _document(self, dataset: _Dataset, name: str, turns: list[list[int]]) -> np.ndarray | None:
        """The dialogue up to its first exchange that cannot stand in this dataset."""
        template = self.template
        tokens = template.system(dataset.mode, dataset.questions)
        empty = len(tokens)
        for first in range(0, len(turns), 2):
            asked, said = turn_id(name, first), turn_id(name, first + 1)
            question, answer = self.user[asked], self.assistant[said]
            fault = self._fault(dataset, question, turns[first + 1], answer)
            if fault is None:
                exchange = [
                    template.stop_id,
                    *self._question(dataset, question, turns[first]),
                    *template.answer_begin(dataset.mode),
                    *template.answer(dataset.mode, turns[first + 1], answer),
                ]
                # a window of n positions holds a document of n + 1 tokens
                if self.seq_length and len(tokens) + len(exchange) + 1 > self.seq_length:
                    fault = "too_many_tokens"
                else:
                    tokens += exchange
                    continue
            dataset.rejected.append(Rejected(asked, fault))
            break
        if len(tokens) == empty:
            return None
        return np.array([*tokens, template.stop_id, template.vocab.eod_id], dtype=np.int64)

    def _question(self, dataset: _Dataset, codes: np.ndarray, text: list[int]) -> list[int]:
        if dataset.questions == "speech":
            return self.template.spoken_question(codes)
        return self.template.question_of_ids(text)

    def _fault(
        self, dataset: _Dataset, question: np.ndarray, text: list[int], answer: np.ndarray
    ) -> str | None:
        if dataset.questions == "speech" and not len(question):
            return "no_codes_of_question"
        if dataset.mode != "text" and not len(answer):
            return "no_codes_of_answer"
        if dataset.mode == "streaming" and text_outlasts_speech(
            len(text), len(answer), self.template.config
        ):
            return "text_outlasts_speech"
        return None


def _require_some(dataset: _Dataset) -> None:
    if not dataset.writer.documents:
        reasons = sorted({item.reason for item in dataset.rejected})
        raise DataError(
            f"no dialogue is left for the dataset {dataset.writer.prefix}: {', '.join(reasons)}"
        )


def _finish(dataset: _Dataset, fingerprint: str | None, extra: dict[str, Any]) -> dict[str, Any]:
    path = dataset_path(dataset.writer.prefix, ".rejected.jsonl")
    counts = {"rejected": write_rejected(path, dataset.rejected), **extra}
    facts = dataset.writer.write_facts(f"dialogue_{dataset.name}", fingerprint, counts)
    return {**asdict(facts), **counts}
