"""Make a speech-text vocabulary: a text tokenizer plus specials and speech codes.

    python tools/build_vocab.py --input corpus.parquet --train-bpe 1024 --num-codes 512 \\
        --output runs/vocab
    python tools/build_vocab.py --tokenizer path/to/base-model --speech-tokenizer runs/tokenizer \\
        --output runs/vocab

Text ids stay what the base tokenizer says; specials and codes are numbered behind them. The
folder is read by every later tool, and by AutoTokenizer.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence

    from megatron_speech import cli
    from megatron_speech.text.build_vocab import VocabConfig, build_vocab
    from megatron_speech.text.vocab import SpeechTextVocab


def main(argv: Sequence[str] | None = None) -> SpeechTextVocab:
    """Write the folder, say what is in it and return the vocabulary."""
    config = cli.parse(VocabConfig, argv, __doc__ or "")
    vocab = build_vocab(config)
    print(
        f"{config.output}: {vocab.size:,} ids, the last {vocab.num_codes:,} of them codes from "
        f"{vocab.code_offset:,} on; padded to {vocab.padded_size:,}"
    )
    return vocab


if __name__ == "__main__":
    cli.run(main, starts_over=True)
