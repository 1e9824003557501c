"""How well speech codes can be understood: word error rate by the tokenizer's own recogniser.

    python tools/evaluate_codes.py --speech-tokenizer runs/demo/speech_tokenizer/export \\
        --codes runs/demo/codes/sentences runs/demo/text_to_token/sentences --output wer.json

Works on codes of real speech and on generated ones; both are code shards with text.
"""

from collections.abc import Sequence
from typing import Any

from megatron_speech import cli, files
from megatron_speech.evaluation.codes import EvaluateCodesConfig, evaluate_codes


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Read the codes, print a line for each set, return the figures."""
    config = cli.parse(EvaluateCodesConfig, argv, __doc__ or "")
    results = evaluate_codes(config)
    for name, figures in results.items():
        print(
            f"{name}: word errors {100 * figures['wer']:.1f}% on {figures['records']:,} texts "
            f"({figures['without_codes']} without codes), codebook use "
            f"{100 * figures['codebook_usage']:.0f}%, perplexity {figures['perplexity']:.0f}"
        )
    if config.output is not None:
        files.write_json(config.output, results)
    return results


if __name__ == "__main__":
    cli.run(main)
