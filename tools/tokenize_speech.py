"""Turn recordings into code shards.

    python tools/tokenize_speech.py --input speech/manifest.parquet \\
        --speech-tokenizer runs/speech_tokenizer/export --output codes/train

    torchrun --nproc-per-node 8 tools/tokenize_speech.py --input /data/tars --device cuda \\
        --dtype bfloat16 --batch-seconds 2000 --speech-tokenizer tokenizer --output codes

Inputs may be manifests, lhotse cuts, WebDataset tars, and folders of audio or tars. Start it as
often as you like, under torchrun, srun or as a Slurm array: task k of n makes every n-th shard from
the k-th. Shards appear whole, in the order of the input; those that exist are not made again.
Recordings that cannot be used are listed in OUTPUT/rejected.jsonl with a reason each. `--dry-run`
says what would be done.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    import os
    from collections.abc import Sequence

    from megatron_speech import cli
    from megatron_speech.speech_tokenizer.bulk.job import TokenizeResult, tokenize
    from megatron_speech.speech_tokenizer.bulk.plan import TokenizeConfig, TokenizePlan


def main(argv: Sequence[str] | None = None) -> TokenizeResult | TokenizePlan:
    """Tokenize what the command line names; with `--dry-run` return the plan."""
    plan = TokenizePlan.make(cli.parse(TokenizeConfig, argv, __doc__ or ""), os.environ)
    if plan.config.dry_run:
        print(plan.describe())
        return plan
    result = tokenize(plan)
    print(result)
    return result


if __name__ == "__main__":
    cli.run(main)
