"""Turn recordings into code shards.

    python tools/tokenize_speech.py --manifest speech/manifest.parquet \\
        --speech-tokenizer runs/speech_tokenizer/export --output codes/train

Shards appear whole, in the manifest's order; those that exist are not made again. Recordings that
cannot be used are listed in OUTPUT/rejected.jsonl with a reason each.
"""

from collections.abc import Sequence

from megatron_speech import cli
from megatron_speech.speech_tokenizer.bulk import TokenizeConfig, TokenizeResult, tokenize_manifest


def main(argv: Sequence[str] | None = None) -> TokenizeResult:
    """Tokenize the manifest named on the command line."""
    config = cli.parse(TokenizeConfig, argv, __doc__ or "")
    result = tokenize_manifest(config)
    print(result)
    return result


if __name__ == "__main__":
    cli.run(main)
