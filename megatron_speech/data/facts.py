"""What `<prefix>.json` says of an indexed dataset, written behind its other files."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..io.checked_json import write_checked_json
from ..text.vocab import SpeechTextVocab
from .indexed_files import DatasetFacts, contents_fingerprint, dataset_path
from .templates import KINDS


def write_facts(
    prefix: str | Path,
    kind: str,
    vocab: SpeechTextVocab,
    counts: tuple[int, int, int],
    checksums: dict[str, str],
    tokenizer_fingerprint: str | None = None,
    extra: dict[str, Any] | None = None,
    like: DatasetFacts | None = None,
) -> DatasetFacts:
    """Write `<prefix>.json` for files that lie there; `counts` documents, tokens, speech tokens.

    Loss rule and packing are those of the kind, or of the facts `like` these: a .json written by
    hand may say others, or no kind.
    """
    rules = like or KINDS[kind]
    documents, tokens, speech_tokens = counts
    facts = DatasetFacts(
        kind=kind,
        loss_rule=rules.loss_rule,
        packing=rules.packing,
        vocab_fingerprint=vocab.fingerprint,
        tokenizer_fingerprint=tokenizer_fingerprint,
        documents=documents,
        text_tokens=tokens - speech_tokens,
        speech_tokens=speech_tokens,
        checksums=checksums,
        contents_fingerprint=contents_fingerprint(prefix),
        text_vocab_fingerprint=None if kind != "text" or speech_tokens else vocab.text_fingerprint,
        has_checksum=True,
    )
    content = {**asdict(facts), **(extra or {})}
    del content["has_checksum"]
    write_checked_json(dataset_path(prefix, ".json"), content)
    return facts
