"""The files StoryWorld writes and the counts it reports."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from examples.storyworld.evaluation import ClozeItem, Question, distinct_sentences
from megatron_speech.io.files import atomic_path, json_text, write_text

PUNCTUATION = '.,?!"'


@dataclass(frozen=True, kw_only=True)
class SpeechText:
    """A text to be spoken; `kind` is `sentence` or `window`."""

    id: str
    text: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was written."""

    documents: int
    words: int
    distinct_words: int
    duplicate_share: float
    """Share of the documents that repeat an earlier one exactly."""
    entities: int
    cloze_items: int
    questions: int
    evaluation_sentences: int

    def __str__(self) -> str:
        return (
            f"StoryWorld: {self.documents:,} documents, {self.words:,} words "
            f"({self.distinct_words} distinct), {100 * self.duplicate_share:.2f}% duplicates, "
            f"{self.entities} entities; {self.cloze_items} cloze items, {self.questions} "
            f"questions, {self.evaluation_sentences:,} sentences to speak for them"
        )


def write_table(path: Path, columns: Mapping[str, Sequence[str]]) -> None:
    """Write string columns as Parquet."""
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_corpus(folder: Path, documents: Sequence[str], valid_share: float) -> None:
    """Write `train.parquet` and, the last documents, `valid.parquet`."""
    num_valid = max(1, round(len(documents) * valid_share))
    split = len(documents) - num_valid
    for name, texts in (("train", documents[:split]), ("valid", documents[split:])):
        ids = [f"{name}-{number:07d}" for number in range(len(texts))]
        write_table(folder / f"{name}.parquet", {"id": ids, "text": list(texts)})


def write_speech_texts(path: Path, texts: Sequence[SpeechText]) -> None:
    """Write texts for paired speech."""
    write_table(
        path, {key: [asdict(text)[key] for text in texts] for key in ("id", "text", "kind")}
    )


def write_segments(path: Path, stories: Sequence[Sequence[str]]) -> None:
    """Write the sentences of stories with ids `<story>/<number>`."""
    segments = {
        f"story-{number:06d}/{index:03d}": sentence
        for number, sentences in enumerate(stories)
        for index, sentence in enumerate(sentences)
    }
    write_table(path, {"id": list(segments), "text": list(segments.values())})


def write_evaluation(
    folder: Path, items: Sequence[ClozeItem], asked: Sequence[Question], sentences: Sequence[str]
) -> None:
    """Write `cloze.jsonl`, `qa.jsonl` and the texts to speak, `utterances.parquet`."""
    for name, records in (("cloze", items), ("qa", asked)):
        lines = [json_text(asdict(record)) + "\n" for record in records]
        write_text(folder / f"{name}.jsonl", "".join(lines))
    ids = [f"utterance-{number:05d}" for number in range(len(sentences))]
    write_table(folder / "utterances.parquet", {"id": ids, "text": list(sentences)})


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return [word.strip(PUNCTUATION).lower() for word in text.split()]


def summarize(
    documents: Sequence[str], items: Sequence[ClozeItem], asked: Sequence[Question], entities: int
) -> Summary:
    """Count what was written."""
    num_words, distinct = 0, set()
    for document in documents:
        words = document.split()
        num_words += len(words)
        distinct.update(words)
    return Summary(
        documents=len(documents),
        words=num_words,
        distinct_words=len({word.strip(PUNCTUATION).lower() for word in distinct}),
        duplicate_share=1 - len(set(documents)) / len(documents),
        entities=entities,
        cloze_items=len(items),
        questions=len(asked),
        evaluation_sentences=len(distinct_sentences(items, asked)),
    )
