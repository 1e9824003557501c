"""Tokenise a text corpus into Megatron's indexed format, with the flags of Megatron's own tool.

    python tools/preprocess_data.py --input corpus.parquet --tokenizer-model runs/vocab \\
        --append-eod --output-prefix data/corpus --workers 8

writes data/corpus_text_document.bin, .idx and .json (pass that prefix to pretrain's --data-path)
and, if records had to be set aside, data/corpus_text_document.rejected.jsonl.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence

    from megatron_speech import cli
    from megatron_speech.datasets.megatron_flags import PREPROCESS_FLAGS
    from megatron_speech.datasets.text import PreprocessConfig, TextDataset, preprocess
    from megatron_speech.io.rejected import describe_counts
    from megatron_speech.jobs.executors import Submitted


def main(argv: Sequence[str] | None = None) -> list[TextDataset]:
    """Build one dataset per key and return them."""
    try:
        arguments = cli.translate(argv, PREPROCESS_FLAGS, "Megatron-LM")
        datasets = preprocess(cli.parse(PreprocessConfig, arguments, __doc__ or ""))
    except Submitted as submitted:
        print(submitted)
        return []
    for dataset in datasets:
        print(
            f"{dataset.prefix}: {dataset.documents:,} documents, {dataset.tokens:,} tokens; "
            f"rejected: {describe_counts(dataset.rejected)}"
        )
    return datasets


if __name__ == "__main__":
    cli.run(main)
