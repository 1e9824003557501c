"""Several datasets of one kind made one, by copying bytes: nothing is tokenised again."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.indexed import IndexedWriter, dataset_path
from ..data.indexed_files import DatasetFacts, without_checksum
from ..data.soundness import check_datasets
from ..errors import ConfigError, DataError
from ..interleaving.provenance import SPAN_SCHEMA, shifted_spans
from ..io.files import find_in, read_json
from ..jobs.claims import exclusive
from ..jobs.progress import track
from ..text.vocab import SpeechTextVocab

_MUST_AGREE = ("kind", "loss_rule", "packing")


def find_prefixes(inputs: Sequence[Path]) -> list[Path]:
    """Dataset prefixes as given; a folder stands for the datasets in it, sorted by name.

    Raises:
        DataError: a folder without datasets.
    """
    found: list[Path] = []
    for path in inputs:
        if not path.is_dir():
            found.append(path)
            continue
        inside = [index.with_suffix("") for index in find_in(path, "*.idx")]
        if not inside:
            raise DataError(f"{path} holds no datasets (*.idx)")
        found += inside
    return found


def merge(prefixes: Sequence[Path], output: Path, vocab: SpeechTextVocab) -> DatasetFacts:
    """Write the documents of all datasets, in order, as one dataset; provenance goes along.

    Raises:
        DataError: a dataset is unfinished or damaged, or they differ in kind, loss rule, packing
            or speech tokenizer.
        VocabularyError: a dataset was made with another vocabulary.
        ConfigError: nothing to merge, or the output is one of the inputs.
        InUseError: another process makes the output.
    """
    if not prefixes:
        raise ConfigError("nothing to merge: give datasets, or a folder of them")
    if output.resolve() in [prefix.resolve() for prefix in prefixes]:
        raise ConfigError(f"{output} is also an input; choose another --output-prefix")
    facts = check_datasets([str(prefix) for prefix in prefixes], vocab)
    if line := without_checksum(facts):
        print(line, file=sys.stderr)
    first = facts[str(prefixes[0])]
    for prefix in prefixes:
        for name in _MUST_AGREE:
            found, expected = getattr(facts[str(prefix)], name), getattr(first, name)
            if found != expected:
                raise DataError(
                    f"{prefix} has {name} {found!r}, {prefixes[0]} has {expected!r}; merge "
                    "datasets of one kind only, and mix kinds by --data-path"
                )
    if first.kind == "preference":
        raise DataError(
            f"{prefixes[0]} holds pairs of answers, which are not merged; --data-path takes several"
        )
    spans = [dataset_path(prefix, ".spans.parquet").exists() for prefix in prefixes]
    if any(spans) and not all(spans):
        raise DataError(f"{prefixes[spans.index(False)]} has no .spans.parquet, others have one")
    named = any(dataset_path(prefix, ".sources.parquet").exists() for prefix in prefixes)
    parts: dict[str, int] = {}
    with exclusive(output):
        with IndexedWriter(output, vocab) as writer:
            span_writer = writer.companion(".spans.parquet", SPAN_SCHEMA) if all(spans) else None
            for prefix in track(prefixes, "merge", unit="datasets"):
                if span_writer is not None:
                    for table in shifted_spans(prefix, writer.documents):
                        span_writer.write_table(table)
                before = writer.documents
                writer.add_indexed(prefix, name_documents=named)
                parts[str(prefix)] = writer.documents - before
        tokenizers = {found.tokenizer_fingerprint for found in facts.values()}
        speech = max(filter(None, tokenizers), default=None)  # they agree: check_datasets
        extra: dict[str, Any] = {"merged_documents": parts}
        facts_files = [dataset_path(prefix, ".json") for prefix in prefixes]
        if not all(read_json(path).get("append_eod", True) for path in facts_files):
            extra["append_eod"] = False  # verification does not ask for end marks then
        return writer.write_facts(first.kind, speech, extra, first)
