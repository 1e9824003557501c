"""Walk through a run of a thousand processes on this one: groups, batches, epochs.

    python tools/rehearse.py lm-9b --gpus 1024
    python tools/rehearse.py lm-9b --gpus 512 --pipeline-model-parallel-size 4

Takes pretrain's flags. Proves that every window is read once per epoch by one replica whose
processes agree. No weights, no GPU.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from dataclasses import replace

    from megatron_speech import cli
    from megatron_speech.cluster.rehearsal import RehearsalConfig, rehearse
    from megatron_speech.data.config import DataConfig
    from megatron_speech.recipes.lm_recipes import RECIPES, LMConfig
    from megatron_speech.recipes.megatron_flags import PRETRAIN_FLAGS


def main(argv: Sequence[str] | None = None) -> None:
    """Rehearse a recipe and print what held."""
    arguments = cli.translate(argv, PRETRAIN_FLAGS, "Megatron-LM")
    _, config = cli.parse_recipe(RECIPES, arguments, __doc__, _pretended)
    print(rehearse(config))


def _pretended(run: LMConfig) -> RehearsalConfig:
    """With windows that need no datasets."""
    data = DataConfig(seq_length=run.data.seq_length, mock_data=True)
    return RehearsalConfig(run=replace(run, data=data))


if __name__ == "__main__":
    cli.run(main, starts_over=True)
