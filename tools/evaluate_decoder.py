"""How good decoded speech is: word errors, mel distance and more, beside the real recordings.

    python tools/evaluate_decoder.py --decoder runs/decoder/export \\
        --speech-tokenizer runs/speech_tokenizer/export --manifest speech/test/manifest.parquet \\
        --output decoder.json --audio samples

Word errors by the speech tokenizer's own recogniser, and with `--recognisers tokenizer whisper
--whisper FOLDER` by a released Whisper, which knows nothing of codes; --speaker-model and
--utmos-model take TorchScript files (docs/speech_decoder.md).
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from typing import Any

    from megatron_speech import cli
    from megatron_speech.evaluation.decoded_speech import EvaluateDecoderConfig, evaluate_decoder
    from megatron_speech.io import files


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluate, print the table, return the figures."""
    config = cli.parse(EvaluateDecoderConfig, argv, __doc__ or "")
    results = evaluate_decoder(config)
    columns = list(next(iter(results["rows"].values())))
    print(f"{results['recordings']:,} recordings at {results['frame_rate_hz']:g} codes a second")
    print(f"{'':12}" + "".join(f"{name.replace('_', ' '):>20}" for name in columns))
    for row, figures in results["rows"].items():
        print(f"{row:12}" + "".join(f"{_shown(n, figures[n]):>20}" for n in columns))
    for name, value in results["streaming"].items():
        print(f"streaming, {name.replace('_', ' ')}: {value:.4g}")
    if config.output is not None:
        files.write_json(config.output, results)
    return results


def _shown(name: str, value: float) -> str:
    return f"{100 * value:.1f}%" if name.startswith("wer") else f"{value:.3f}"


if __name__ == "__main__":
    cli.run(main, starts_over=True)
