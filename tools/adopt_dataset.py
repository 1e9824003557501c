"""Take over text datasets that Megatron's own preprocess_data.py wrote: nothing is tokenised again.

    python tools/adopt_dataset.py --input data/corpus_text_document --tokenizer-model smollm2-135m

checks ids, end tokens and tokenizer, and writes the .json beside each .bin and .idx. pretrain's
--data-path and merge_datasets then take them with any vocabulary that extends this tokenizer.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence

    from megatron_speech import cli
    from megatron_speech.datasets.adopt import AdoptConfig, Adopted, adopt


def main(argv: Sequence[str] | None = None) -> list[Adopted]:
    """Adopt the datasets and return what was found."""
    datasets = adopt(cli.parse(AdoptConfig, argv, __doc__ or ""))
    for dataset in datasets:
        counts = f"{dataset.facts.documents:,} documents, {dataset.facts.text_tokens:,} tokens"
        if dataset.ended is None or dataset.same_text is None:
            print(f"{dataset.prefix}: {counts}; has its .json already")
            continue
        print(
            f"{dataset.prefix}: {counts}; {dataset.ended:,} end with the end token; "
            f"{dataset.same_text:.1%} of the sampled tokens come back"
        )
    return datasets


if __name__ == "__main__":
    cli.run(main, starts_over=True)
