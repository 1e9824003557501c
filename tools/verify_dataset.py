"""Check a finished dataset: structure, checksums, ids in range, counts, spans that match tokens.

    python tools/verify_dataset.py data/interleaved --vocab runs/vocab

Ends with exit code 2 and says what is wrong if a single byte is not what was written.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from dataclasses import dataclass
    from pathlib import Path

    import tyro

    from megatron_speech import cli
    from megatron_speech.datasets.verify import Verification, verify
    from megatron_speech.errors import ConfigError, DataError
    from megatron_speech.text.build_vocab import open_vocab


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Which datasets to check."""

    prefixes: tyro.conf.Positional[tuple[Path, ...]]
    """The datasets: their paths without .bin or .idx."""
    vocab: Path
    """Vocabulary folder the datasets were made with, or the tokenizer of text datasets."""


def main(argv: Sequence[str] | None = None) -> list[Verification]:
    """Check the datasets and return what was counted.

    Raises:
        DataError: something is wrong with one of them.
        ConfigError: none is given.
    """
    config = cli.parse(Arguments, argv, __doc__ or "")
    if not config.prefixes:
        raise ConfigError("give at least one dataset, its path without .bin")
    vocab = open_vocab(config.vocab, or_tokenizer=True)
    results = []
    for prefix in config.prefixes:
        result = verify(prefix, vocab)
        if not result.problems:
            print(
                f"{prefix}: good. {result.documents:,} documents, {result.text_tokens:,} text and "
                f"{result.speech_tokens:,} speech tokens, {result.spans:,} rows of provenance"
            )
        results.append(result)
    problems = [problem for result in results for problem in result.problems]
    if problems:
        raise DataError("; ".join(problems))
    return results


if __name__ == "__main__":
    cli.run(main, starts_over=True)
