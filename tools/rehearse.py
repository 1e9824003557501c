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
    from megatron_speech.cluster.rehearsal import Rehearsal, RehearsalConfig, rehearse
    from megatron_speech.data.config import DataConfig
    from megatron_speech.recipes.lm_recipes import RECIPES, LMConfig


def main(argv: Sequence[str] | None = None) -> Rehearsal:
    """Rehearse a recipe, print what held and return it."""
    recipes = {name: _pretending(recipe) for name, recipe in RECIPES.items()}
    _, config = cli.parse_recipe(recipes, argv, __doc__ or "")
    found = rehearse(config)
    print(_words(found))
    return found


def _pretending(recipe: Callable[[], LMConfig]) -> Callable[[], RehearsalConfig]:
    """The recipe with windows that need no datasets."""

    def defaults() -> RehearsalConfig:
        run = recipe()
        data = DataConfig(seq_length=run.data.seq_length, mock_data=True)
        return RehearsalConfig(run=replace(run, data=data))

    defaults.__doc__ = recipe.__doc__
    return defaults


def _words(found: Rehearsal) -> str:
    sizes = ", ".join(f"{kind} {size}" for kind, size in found.group_sizes.items())
    within = "" if found.tensor_groups_within_nodes else "; TENSOR PARALLEL GROUPS CROSS NODES"
    passes = ", ".join(f"{name} {count:.2f}" for name, count in found.epochs.items())
    return "\n".join(
        [
            f"{found.processes:,} processes, each once in its groups of {sizes}{within}",
            f"{found.steps:,} steps, {found.windows_read:,} windows, each read by one replica; "
            f"passes: {passes}; in each, every window once",
            f"micro-batches of a replica in a step: {found.micro_batches}",
        ]
    )


if __name__ == "__main__":
    cli.run(main)
