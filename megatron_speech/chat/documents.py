"""Turns and their codes -> training documents, one dataset for each mode and kind of question."""

from collections.abc import Sequence, Set
from contextlib import ExitStack
from dataclasses import asdict
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
from .config import DatasetMode, DialoguesConfig, mode_of
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
    datasets = {
        dataset_name(mode, questions): DialogueDataset(mode, questions, config, template)
        for mode in config.modes
        for questions in config.questions
    }
    with ExitStack() as stack:
        for dataset in datasets.values():
            stack.enter_context(dataset.writer)
        path = config.work_folder / "turns.parquet"
        with Progress("assemble dialogues", unit="dialogues") as progress:
            for batch in read_batches(open_parquet(path), path, _AT_A_TIME):
                names, dialogues = batch["dialogue_id"].to_pylist(), batch["turns"].to_pylist()
                flat = [turn for turns in dialogues for turn in turns]
                ids = iter(template.vocab.text.encode_batch(flat))
                texts = [[next(ids) for _ in turns] for turns in dialogues]
                for dataset in datasets.values():
                    dataset.add(names, texts, user, assistant)
                progress.advance(len(names))
        for dataset in datasets.values():
            dataset.require_some()
    fingerprint = next(iter(tokenizers), None)
    return {name: dataset.finish(fingerprint) for name, dataset in datasets.items()}


def dataset_name(mode: DatasetMode, questions: Modality) -> str:
    """The end of a dataset's name."""
    return mode if questions == "speech" else f"{mode}-from-text"


class DialogueDataset:
    """One of the datasets while it is written."""

    def __init__(
        self,
        name: DatasetMode,
        questions: Modality,
        config: DialoguesConfig,
        template: ChatTemplate,
    ):
        self.name, self.template, self.seq_length = name, template, config.seq_length
        self.mode: Mode = mode_of(name)
        self.questions: Modality = questions
        prefix = dataset_path(config.output_prefix, f"-{dataset_name(name, questions)}")
        self.writer = IndexedWriter(prefix, template.vocab)
        self.rejected: list[Rejected] = []

    def add(
        self, names: list[str], texts: list[list[list[int]]], user: TurnCodes, assistant: TurnCodes
    ) -> None:
        """Write the documents of some dialogues: their names, text ids by turn, and codes."""
        documents = {}
        for name, turns in zip(names, texts, strict=True):
            spoken = [(user, assistant)[n % 2][turn_id(name, n)] for n in range(len(turns))]
            document = self._document(name, turns, spoken)
            if document is not None:
                documents[name] = document
        self.writer.add_documents(list(documents.values()), list(documents))

    def _document(
        self, name: str, texts: list[list[int]], spoken: list[np.ndarray]
    ) -> np.ndarray | None:
        """The dialogue up to its first exchange that cannot stand in this dataset."""
        template, mode = self.template, self.mode
        tokens = template.system(mode, self.questions)
        empty = len(tokens)
        for first in range(0, len(texts), 2):
            answer = texts[first + 1], spoken[first + 1]
            fault = self._fault(spoken[first], *answer)
            if fault is None:
                question = template.written_question(texts[first])
                if self.questions == "speech":
                    question = template.spoken_question(spoken[first])
                begin, said = template.answer_begin(mode), template.answer(mode, *answer)
                exchange = [template.stop_id, *question, *begin, *said]
                # a window of n positions holds a document of n + 1 tokens
                if self.seq_length and len(tokens) + len(exchange) + 1 > self.seq_length:
                    fault = "too_many_tokens"
            if fault is not None:
                self.rejected.append(Rejected(turn_id(name, first), fault))
                break
            tokens += exchange
        if len(tokens) == empty:
            return None
        return np.array([*tokens, template.stop_id, template.vocab.eod_id], dtype=np.int64)

    def _fault(self, question: np.ndarray, text: list[int], answer: np.ndarray) -> str | None:
        if self.questions == "speech" and not len(question):
            return "no_codes_of_question"
        if self.mode != "text" and not len(answer):
            return "no_codes_of_answer"
        sizes = len(text), len(answer)
        if self.mode == "streaming" and text_outlasts_speech(*sizes, self.template.config):
            return "text_outlasts_speech"
        return None

    def require_some(self) -> None:
        """Raise a DataError if nothing is left."""
        if not self.writer.documents:
            reasons = ", ".join(sorted({item.reason for item in self.rejected}))
            raise DataError(f"no dialogue is left for the dataset {self.writer.prefix}: {reasons}")

    def finish(self, fingerprint: str | None) -> dict[str, Any]:
        """Write what was left out, and `<prefix>.json`; returns what the latter holds."""
        path = dataset_path(self.writer.prefix, ".rejected.jsonl")
        rejected = write_rejected(path, self.rejected)
        counts = {"rejected": rejected, "template": asdict(self.template.config)}
        facts = self.writer.write_facts(f"dialogue_{self.name}", fingerprint, counts)
        return {**asdict(facts), **counts}
