"""Build indexed datasets from code shards, and interleaved ones from text alone.

    python tools/build_dataset.py speech --codes codes/train --vocab runs/vocab \\
        --output-prefix data/speech --join-segments
    python tools/build_dataset.py text-to-token --codes codes --vocab vocab --output-prefix data/t2t
    python tools/build_dataset.py interleaved --input corpus.parquet --vocab runs/vocab \\
        --model runs/t2t/hf --like codes/train --output-prefix data/interleaved
    python tools/build_dataset.py interleaved-aligned --codes codes/stories --vocab runs/vocab \\
        --output-prefix data/interleaved_recordings

`interleaved` is `plan`, `generate` and `assemble` in one; on a cluster run them one by one.
Run again after a stop, these continue; the other jobs start over. `interleaved-aligned` has codes
of recordings instead.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    import sys
    from collections.abc import Callable, Sequence
    from dataclasses import asdict
    from typing import Annotated, Any

    import tyro

    from megatron_speech import cli
    from megatron_speech.datasets import speech
    from megatron_speech.datasets.preferences import PreferenceConfig, build_preference
    from megatron_speech.datasets.recordings import AlignedConfig, build_aligned
    from megatron_speech.interleaving.assemble import AssembleConfig, assemble
    from megatron_speech.interleaving.generate import GenerateConfig, generate
    from megatron_speech.interleaving.plan import PlanConfig, plan
    from megatron_speech.interleaving.three_jobs import InterleavedConfig, build_interleaved
    from megatron_speech.io.files import json_text
    from megatron_speech.jobs.executors import Submitted

KEEPING = {"plan", "generate", "assemble", "interleaved"}
"""Jobs that find what a stopped call has finished."""
JOBS: dict[type, Callable[[Any], Any]] = {
    speech.SpeechConfig: speech.build_speech,
    speech.PairsConfig: speech.build_pairs,
    speech.TextToTokenConfig: speech.build_text_to_token,
    PreferenceConfig: build_preference,
    PlanConfig: plan,
    GenerateConfig: generate,
    AssembleConfig: assemble,
    InterleavedConfig: build_interleaved,
    AlignedConfig: build_aligned,
}

Job = (
    Annotated[speech.SpeechConfig, tyro.conf.subcommand("speech")]
    | Annotated[speech.PairsConfig, tyro.conf.subcommand("pairs")]
    | Annotated[speech.TextToTokenConfig, tyro.conf.subcommand("text-to-token")]
    | Annotated[PreferenceConfig, tyro.conf.subcommand("preference")]
    | Annotated[PlanConfig, tyro.conf.subcommand("plan")]
    | Annotated[GenerateConfig, tyro.conf.subcommand("generate")]
    | Annotated[AssembleConfig, tyro.conf.subcommand("assemble")]
    | Annotated[InterleavedConfig, tyro.conf.subcommand("interleaved")]
    | Annotated[AlignedConfig, tyro.conf.subcommand("interleaved-aligned")]
)


def main(argv: Sequence[str] | None = None) -> Any:
    """Run one job, print its counts as JSON and return them."""
    try:
        config = cli.parse(Job, argv, __doc__ or "")  # type: ignore[arg-type]
        result = JOBS[type(config)](config)
    except Submitted as submitted:
        print(submitted)
        return {"job_id": submitted.job_id}
    print(json_text(result, indent=2, default=asdict))
    return result


if __name__ == "__main__":
    cli.run(main, starts_over=not KEEPING & {*sys.argv[1:2]})
