"""Turn recordings of anything, hours long, into a manifest of short transcribed segments.

    python tools/prepare_speech.py --input calls/ podcasts/ --whisper whisper-base --output prepared

    srun -n 16 python tools/prepare_speech.py --input /data/audio --device cuda \\
        --whisper openai/whisper-small --output prepared

Speech is found (silero-vad), cut in pauses into segments of 1 to 30 s, read twice by Whisper, and
judged: what is not kept is in OUTPUT/rejected.jsonl with a reason and a figure each. Transcripts
that there are, are checked and kept as they are written. OUTPUT/manifest.parquet is for training
and tokenizing, OUTPUT/report.html for you. Start it as often as you like, under torchrun, srun or
as a Slurm array: task k of n makes every n-th shard from the k-th; those that exist are not made
again.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    import os
    from collections.abc import Sequence

    from megatron_speech import cli
    from megatron_speech.prepare_speech.config import PrepareConfig, PreparePlan
    from megatron_speech.prepare_speech.job import PrepareResult, prepare


def main(argv: Sequence[str] | None = None) -> PrepareResult | PreparePlan:
    """Prepare what the command line names; with `--dry-run` return the plan."""
    plan = PreparePlan.make(cli.parse(PrepareConfig, argv, __doc__ or ""), os.environ)
    if plan.config.dry_run:
        print(plan.describe())
        return plan
    result = prepare(plan)
    print(result)
    if result.summary:
        print(f"report: {plan.config.output / 'report.html'}")
    return result


if __name__ == "__main__":
    cli.run(main)
