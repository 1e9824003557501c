"""Walk through a run of a thousand processes on this one: groups, batches, epochs, checkpoints.

    python tools/rehearse.py lm-9b --gpus 1024
    python tools/rehearse.py lm-9b --gpus 512 --pipeline-model-parallel-size 4 --output r.json

Takes pretrain's flags. Proves that every window is read once per epoch by one replica whose
processes agree, and counts what would wait, be sent and be written. No weights, no GPU.
"""

from megatron_speech.starting import starting

with starting(__name__):
    from collections.abc import Callable, Sequence
    from dataclasses import asdict, replace
    from pathlib import Path

    from megatron_speech import cli
    from megatron_speech.cluster.rehearsal import Rehearsal, RehearsalConfig, rehearse
    from megatron_speech.data.config import DataConfig
    from megatron_speech.files import write_json
    from megatron_speech.recipes.lm_recipes import RECIPES, LMConfig


def main(argv: Sequence[str] | None = None) -> Rehearsal:
    """Rehearse a recipe, print what held and return it."""
    recipes = {name: _pretending(recipe) for name, recipe in RECIPES.items()}
    _, config = cli.parse_recipe(recipes, argv, __doc__ or "")
    found = rehearse(config)
    print(_words(found))
    if config.output is not None:
        write_json(Path(config.output), asdict(found))
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
    sent = {
        "tensor": found.tensor_parallel_bytes,
        "pipeline": found.pipeline_bytes,
        "context": found.context_parallel_bytes,
        "data": found.data_parallel_bytes,
    }
    volumes = ", ".join(f"{kind} {size / 1e9:.2f} GB" for kind, size in sent.items() if size)
    written = ", ".join(f"{size / 1e9:.2f}" for size in dict.fromkeys(found.written_bytes))
    return "\n".join(
        [
            f"{found.processes:,} processes, each once in its groups of {sizes}{within}",
            f"{found.steps:,} steps, {found.windows_read:,} windows, each read by one replica; "
            f"passes: {passes}; in each, every window once",
            f"micro-batches of a replica in a step: {found.micro_batches}, bubble "
            f"{100 * found.bubble:.1f}%",
            f"sent by a process in a step: {volumes or 'nothing'}",
            f"checkpoint: a process writes {written} GB on average, and a node gathers up to "
            f"{found.gathered_bytes_per_node / 2**30:,.0f} GiB of the optimizer for it",
        ]
    )


if __name__ == "__main__":
    cli.run(main)
