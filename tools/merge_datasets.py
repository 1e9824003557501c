"""Merge indexed datasets of one kind without tokenising again; spans and sources go along.

    python tools/merge_datasets.py --input data/part-0 data/part-1 --vocab runs/vocab \\
        --output-prefix data/whole
    python tools/merge_datasets.py --input data/parts --vocab runs/vocab --output-prefix data/whole
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from dataclasses import dataclass
    from pathlib import Path

    from megatron_speech import cli
    from megatron_speech.data.indexed_files import DatasetFacts
    from megatron_speech.datasets.merge import find_prefixes, merge
    from megatron_speech.text.build_vocab import open_vocab


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Datasets and where their union goes."""

    input: tuple[Path, ...]
    """Datasets (paths without .bin or .idx), or folders of them."""
    output_prefix: Path
    """Files are <output-prefix>.bin, .idx, .json."""
    vocab: Path
    """Vocabulary folder the datasets were made with, or the tokenizer of text datasets."""


def main(argv: Sequence[str] | None = None) -> DatasetFacts:
    """Merge and return the facts of the new dataset."""
    config = cli.parse(Arguments, argv, __doc__ or "")
    vocab = open_vocab(config.vocab, or_tokenizer=True)
    facts = merge(find_prefixes(config.input), config.output_prefix, vocab)
    tokens = facts.text_tokens + facts.speech_tokens
    print(f"{config.output_prefix}: {facts.documents:,} documents, {tokens:,} tokens")
    return facts


if __name__ == "__main__":
    cli.run(main, starts_over=True)
