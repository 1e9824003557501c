"""Pre-train a language model on indexed datasets, or continue a run.

    python tools/pretrain.py lm-debug --vocab runs/vocab --save runs/lm \\
        --data-path 0.3 data/text 0.7 data/interleaved --valid-data-path data/valid
    torchrun --nproc-per-node 8 tools/pretrain.py lm-9b --tensor-model-parallel-size 4 \\
        --pretrained-checkpoint runs/base ...

Other flags of Megatron-LM's are taken or answered with what to give instead (docs/training.md).
A run found in --save is continued. Checkpoints, `metrics.jsonl`, TensorBoard scalars, the
resolved `run_config.yaml` and the vocabulary are written there.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence

    from megatron_speech import cli
    from megatron_speech.recipes import lm
    from megatron_speech.recipes.megatron_flags import PRETRAIN_FLAGS
    from megatron_speech.training.loop import LoopResult


def main(argv: Sequence[str] | None = None) -> LoopResult:
    """Train by a recipe and return how the run ended."""
    arguments = cli.translate(argv, PRETRAIN_FLAGS, "Megatron-LM")
    recipe, config = cli.parse_recipe(lm.RECIPES, arguments, __doc__ or "")
    return lm.pretrain(config, recipe, cli.flags_given(arguments))


if __name__ == "__main__":
    cli.run(main)
