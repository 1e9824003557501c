"""Turn unit sequences of another speech tokenizer into code shards.

    python tools/import_codes.py --input features.jsonl --name mhubert-25hz-500 \\
        --frame-rate-hz 25 --num-codes 500 --texts manifest.parquet --output codes/train
    python tools/import_codes.py --input mimi/*.npz --name mimi --frame-rate-hz 12.5 \\
        --num-codes 2048 --codebook 0 --output codes/mimi

JSON lines (slamkit's features.jsonl), Parquet (CosyVoice's speech_token) and NumPy are read. Every
later stage runs on the shards as on those of tools/tokenize_speech.py: give build_vocab.py
--num-codes. What cannot be used is listed in OUTPUT/rejected.jsonl with a reason.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from typing import Any

    from megatron_speech import cli
    from megatron_speech.data.import_codes import ImportCodesConfig, import_codes
    from megatron_speech.io.rejected import describe_counts


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Import what the command line names, say what came and return the report."""
    config = cli.parse(ImportCodesConfig, argv, __doc__ or "")
    report = import_codes(config)
    print(
        f"{config.output}: {report['records']:,} records, {report['hours']:.2f} h, "
        f"{report['codes_per_second']:.2f} codes a second, {report['codes_used']:,} of "
        f"{report['num_codes']:,} codes used, {report['repeated']:.0%} repeat the one before; "
        f"speech tokenizer {report['tokenizer_fingerprint']}"
    )
    print(f"set aside: {describe_counts(report['set_aside'])}")
    if not report["repeated"] and not report["collapsed"] and report["codes"] > 100:
        print(
            "no code is ever repeated: if repetitions were dropped, say --repetitions collapse; "
            "codes then have no places in time"
        )
    if report["records_with_text"] < report["records"]:
        print(
            f"{report['records'] - report['records_with_text']:,} records have no text: they serve "
            "speech-only training, but no text-to-token model (--texts MANIFEST)"
        )
    return report


if __name__ == "__main__":
    cli.run(main, starts_over=True)
