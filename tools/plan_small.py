"""Say what fits on one GPU of 24, 48 or 80 GB: gigabytes by recipe. No GPU is touched.

    python tools/plan_small.py

Cells are the most a step needs, in 10^9 bytes, and what is computed again for it: nothing, the
feed-forward parts, so many whole layers (block), or all; `-` where nothing fits, with the least it
would take. 1 GiB of a card is left to workspaces and fragmentation. Windows are one by one
(--micro-batch-size 1). For other settings: tools/plan_run.py RECIPE --gpus 1 --gpu-memory-gb 24.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from dataclasses import dataclass
    from pathlib import Path

    from megatron_speech import cli
    from megatron_speech.cluster.small import table
    from megatron_speech.io.files import write_json


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Where the table goes."""

    output: Path | None = None
    """Also write its rows as JSON."""


def main(argv: Sequence[str] | None = None) -> list[list[str]]:
    """Print the table as Markdown and return its rows."""
    arguments = cli.parse(Arguments, argv, __doc__)
    rows = table()
    head, *body = rows
    for row in (head, ["---"] * len(head), *body):
        print("| " + " | ".join(row) + " |")
    if arguments.output is not None:
        write_json(arguments.output, rows)
    return rows


if __name__ == "__main__":
    cli.run(main, starts_over=True)
