"""Show documents of an indexed dataset, speech in colour, and its counts.

    python tools/inspect_dataset.py data/interleaved --vocab runs/vocab --documents 3
    python tools/inspect_dataset.py data/interleaved --vocab runs/vocab --html look.html
    python tools/inspect_dataset.py data/interleaved --vocab runs/vocab --first 7 --token 41 \\
        --corpus corpus.parquet        # where does this token come from?
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from dataclasses import asdict, dataclass
    from pathlib import Path

    import tyro

    from megatron_speech import cli
    from megatron_speech.datasets.inspect import (
        InspectConfig,
        Inspection,
        inspect,
        print_inspection,
        write_page,
    )
    from megatron_speech.datasets.trace import Origin, trace
    from megatron_speech.text.vocab import SpeechTextVocab


@dataclass(frozen=True, kw_only=True)
class Arguments(InspectConfig):
    """A dataset and what to show of it."""

    prefix: tyro.conf.Positional[Path]
    """The dataset: its path without .bin or .idx."""
    token: int | None = None
    """Instead of documents: show where this token of document --first comes from."""
    corpus: tuple[str, ...] = ()
    """With --token: the corpus the dataset was made of, to show the characters."""
    text_key: str = "text"
    """With --corpus: column or key that holds the text."""


def main(argv: Sequence[str] | None = None) -> Inspection | Origin:
    """Show the documents, or where a token comes from, and return what was shown."""
    config = cli.parse(Arguments, argv, __doc__ or "")
    if config.token is not None:
        vocab = SpeechTextVocab.from_pretrained(config.vocab)
        origin = trace(
            config.prefix, vocab, config.first, config.token, config.corpus, config.text_key
        )
        for name, value in asdict(origin).items():
            if value is not None:
                print(f"{name:22} {value!r}")
        return origin
    inspection = inspect(config.prefix, config)
    print_inspection(inspection, config)
    if config.html is not None:
        write_page(inspection, config.prefix.name, config)
        print(f"page: {config.html}")
    return inspection


if __name__ == "__main__":
    cli.run(main, starts_over=True)
