"""How well speech codes can be understood: word error rate by the tokenizer's own recogniser.

    python tools/evaluate_codes.py --speech-tokenizer runs/demo/speech_tokenizer/export \\
        --codes runs/demo/codes/sentences runs/demo/codes/windows --output wer.json

Recordings are read through their codes, past the codebook, and by a released Whisper as it is:

    python tools/evaluate_codes.py --speech-tokenizer runs/large/export --whisper whisper-base \\
        --manifest librivox/manifest.tsv prompts/manifest.tsv --output wer.json

Works on codes of real speech and on generated ones; both are code shards with text. Without a
speech tokenizer --codes are counted: codebook use and perplexity. What the
generate job made is told by content class, span length and place in the document, before and after
the gates, if it is given the plan's requests:

    python tools/evaluate_codes.py --speech-tokenizer runs/demo/speech_tokenizer/export \\
        --codes work/codes --requests work/plan/requests --figure spans.png --output spans.json
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from typing import Any

    from megatron_speech import cli
    from megatron_speech.evaluation.codes import EvaluateCodesConfig, evaluate_codes
    from megatron_speech.io import files


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Read the codes, print a line for each set, return the figures."""
    config = cli.parse(EvaluateCodesConfig, argv, __doc__ or "")
    results = evaluate_codes(config)
    for name, figures in results.items():
        if "by_language" in figures:
            _print_recordings(name, figures)
            continue
        errors = f"word errors {figures['wer']:.1%} on " if "wer" in figures else ""
        print(
            f"{name}: {errors}{figures['records']:,} texts ({figures['without_codes']} without "
            f"codes), {figures['codes']:,} codes, codebook use {figures['codebook_usage']:.1%}, "
            f"perplexity {figures['perplexity']:.0f}"
        )
        if "spans" in figures:
            _print_spans(figures["spans"])
    if config.output is not None:
        files.write_json(config.output, results)
    return results


def _print_recordings(name: str, figures: dict[str, Any]) -> None:
    for label, row in {name: figures, **figures["by_language"]}.items():
        rates = ", ".join(f"{k[4:]} {v:.1%}" for k, v in row.items() if k.startswith("wer_"))
        print(f"{label}: word errors {rates} on {row['words']:,} words")
    if "codebook_usage" in figures:
        print(
            f"{name}: {figures['codes']:,} codes, codebook use {figures['codebook_usage']:.1%}, "
            f"perplexity {figures['perplexity']:.0f}"
        )


def _print_spans(figures: dict[str, Any]) -> None:
    groups = {"all": {"": figures["all"]}, **{k: v for k, v in figures.items() if k != "all"}}
    print(f"{'':26}{'spans':>8}  word errors before, after gates  rejected")
    for group, rows in groups.items():
        for name, row in rows.items():
            before, after = (_percent(row[f"wer_{when}_gates"]) for when in ("before", "after"))
            label = f"{group.removeprefix('by_')} {name}"
            print(f"{label:26}{row['spans']:8,}  {before:>18} {after:>13} {row['rejected']:9.1%}")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


if __name__ == "__main__":
    cli.run(main, starts_over=True)
