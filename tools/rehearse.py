"""Walk through a run of a thousand processes on this one: groups, batches, epochs.

    python tools/rehearse.py lm-9b --gpus 1024
    python tools/rehearse.py lm-9b --gpus 512 --pipeline-model-parallel-size 4

Takes pretrain's flags. Proves that every window is read once per epoch by one replica whose
processes agree. No weights, no GPU.
"""

from megatron_speech.starting import starting

with starting(__name__):
    from collections.abc import Callable, Sequence
    from dataclasses import replace

    from megatron_speech import cli
    from megatron_speech.cluster.rehearsal import RehearsalConfig, rehearse
    from megatron_speech.data.config import DataConfig
    from megatron_speech.recipes.lm_recipes import RECIPES, LMConfig


def main(argv: Sequence[str] | None = None) -> None:
    """Rehearse a recipe and print what held."""
    recipes = {name: _pretending(recipe) for name, recipe in RECIPES.items()}
    _, config = cli.parse_recipe(recipes, argv, __doc__ or "")
    print(rehearse(config))


def _pretending(recipe: Callable[[], LMConfig]) -> Callable[[], RehearsalConfig]:
    """The recipe with windows that need no datasets."""

    def defaults() -> RehearsalConfig:
        run = recipe()
        data = DataConfig(seq_length=run.data.seq_length, mock_data=True)
        return RehearsalConfig(run=replace(run, data=data))

    defaults.__doc__ = recipe.__doc__
    return defaults


if __name__ == "__main__":
    cli.run(main)
