"""Cloze items from held-out documents, with the texts to be spoken and how hard they are."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from heapq import nsmallest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError
from ..io.files import fingerprint_of, json_text, write_json, write_text
from ..io.rejected import describe_counts
from ..jobs.progress import Progress
from ..text.corpora import Document, find_texts, fingerprint_inputs
from ..text.sentences import sentence_splitter
from .cloze_items import (
    ItemConfig,
    Made,
    Sentence,
    make_items,
    usable_sentences,
    without_repeated,
)
from .items import by_task, read_cloze
from .training_text import find_seen, read_documents

if TYPE_CHECKING:
    from .scoring import LanguageModel


@dataclass(frozen=True, kw_only=True)
class MakeClozeConfig:
    """Held-out documents to cloze items."""

    input: tuple[str, ...]
    """Held-out corpus: files, folders or patterns, .parquet, .jsonl, .jsonl.gz, .jsonl.zst."""
    output_dir: Path
    """Folder for cloze.jsonl, texts.jsonl (what tools/make_speech.py speaks) and report.json."""
    not_in: tuple[str, ...] = ()
    """Training corpora. No sentence is used that shares eight successive words with them, or that
    they hold whole."""
    language: str = "en"
    """Language of the documents, by which sentences are found."""
    text_key: str = "text"
    """Key or column of the text, in all corpora."""
    documents: int = 2000
    """Most documents to take sentences from, drawn by the seed."""
    base: Path | None = None
    """Hugging Face folder of a text model that does the items as text, to tell how hard they are;
    one from before any training on speech."""
    item: ItemConfig = field(default_factory=ItemConfig)

    def __post_init__(self) -> None:
        if not self.input or self.documents < 1:
            raise ConfigError("--input needs a corpus, --documents at least 1")


def make_cloze(config: MakeClozeConfig) -> dict[str, Any]:
    """Write items, texts and the report, which is returned.

    The same corpora and settings give the same items.

    Raises:
        DataError: a corpus that is missing or damaged, or documents that give not one item.
        CheckpointError: `base` is no text model.
    """
    model = None
    if config.base is not None:  # before what takes long
        from .scoring import LanguageModel

        model = LanguageModel.from_pretrained(config.base, text_only=True)
    refused: Counter[str] = Counter()
    sentences, documents = _sentences(config, refused)
    kept = without_repeated(sentences)
    refused["repeated"] += len(sentences) - len(kept)
    kept, compared = _unseen(kept, config, refused)
    made = make_items(kept, config.item)
    if not made.items:
        raise DataError(
            f"{', '.join(config.input)}: {documents:,} documents with {len(kept):,} usable "
            f"sentences give no item; not used were {dict(refused)}. Items need "
            f"{config.item.context_sentences + 1} usable sentences in a row (--context-sentences, "
            "--min-length, --max-length, --language)"
        )
    (config.output_dir / "report.json").unlink(missing_ok=True)  # it speaks of other items
    _write(made, config)
    report: dict[str, Any] = {
        "items": dict(Counter(item.task for item in made.items)),
        "documents": documents,
        "usable_sentences": len(kept),
        "not_used": dict(sorted(refused.items())),
        "training_documents": compared,
        "sentence_splitter": sentence_splitter(config.language),
        "inputs": [[Path(path).name, mark] for path, mark in _fingerprints(config.input)],
        "settings": {"language": config.language, **asdict(config.item)},
    }
    if config.base is not None and model is not None:
        hardness = _hardness(config.output_dir / "cloze.jsonl", model)
        report["base"] = {"model": config.base.resolve().name, **hardness}
    write_json(config.output_dir / "report.json", report)
    return report


def _sentences(config: MakeClozeConfig, refused: Counter[str]) -> tuple[list[Sentence], int]:
    """Usable sentences of the drawn documents, and how many documents those are."""

    def draw(document: Document) -> str:
        return fingerprint_of(str(config.item.seed), document.id, document.text)

    drawn = nsmallest(
        config.documents, read_documents(config.input, config.text_key, refused), key=draw
    )
    different = list({document.text.strip(): document for document in drawn}.values())
    refused["documents that came before"] += len(drawn) - len(different)
    found: list[Sentence] = []
    with Progress("sentences", len(different), "documents") as progress:
        for number, document in enumerate(different):
            found += usable_sentences(document.text, number, config.language, config.item, refused)
            progress.advance(1)
    return found, len(different)


def _unseen(
    sentences: list[Sentence], config: MakeClozeConfig, refused: Counter[str]
) -> tuple[list[Sentence], int]:
    """Sentences that training text does not hold, and how many documents of it were read."""
    if not config.not_in or not sentences:
        return sentences, 0
    unread: Counter[str] = Counter()
    texts = (document.text for document in read_documents(config.not_in, config.text_key, unread))
    seen = find_seen([sentence.text for sentence in sentences], texts)
    if not seen.documents:
        raise DataError(
            f"--not-in {', '.join(config.not_in)}: no document with a text was found "
            f"({describe_counts(unread)}), so nothing can be told from it; see --text-key"
        )
    for reason, count in unread.items():
        refused[f"of the training text: {reason}"] += count
    kept = [sentence for sentence in sentences if sentence.text not in seen.sentences]
    refused["in training text"] += len(sentences) - len(kept)
    return kept, seen.documents


def _fingerprints(inputs: Sequence[str]) -> list[list[str]]:
    return fingerprint_inputs(find_texts(inputs))


def _write(made: Made, config: MakeClozeConfig) -> None:
    rows = {
        "cloze.jsonl": [asdict(item) for item in made.items],
        "texts.jsonl": [text | {"language": config.language} for text in made.texts],
    }
    config.output_dir.mkdir(parents=True, exist_ok=True)
    for name, records in rows.items():
        lines = [json_text(record) for record in records]
        write_text(config.output_dir / name, "".join(f"{line}\n" for line in lines))


def _hardness(path: Path, model: "LanguageModel") -> dict[str, Any]:
    """How many items a text model gets right as text, by task and rule."""
    from .cloze import score_items

    found: dict[str, Any] = {}
    for task, items in by_task(read_cloze(path), None).items():
        rules = score_items(model, None, items, "t2t", f"{task} t2t")
        found[task] = {"t2t": {rule: figure.to_json() for rule, figure in rules.items()}}
    return found
