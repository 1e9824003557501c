"""Show documents of an indexed dataset, speech in colour, and its counts.

python tools/inspect_dataset.py data/interleaved --vocab runs/vocab --documents 3
python tools/inspect_dataset.py data/interleaved --vocab runs/vocab --html look.html
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from megatron_speech import cli
from megatron_speech.corpus.inspect import (
    InspectConfig,
    Inspection,
    inspect,
    print_inspection,
    write_page,
)


@dataclass(frozen=True, kw_only=True)
class Arguments(InspectConfig):
    """A dataset and what to show of it."""

    prefix: tyro.conf.Positional[Path]
    """The dataset: its path without .bin or .idx."""


def main(argv: Sequence[str] | None = None) -> Inspection:
    """Show the documents and return them."""
    config = cli.parse(Arguments, argv, __doc__ or "")
    inspection = inspect(config.prefix, config)
    print_inspection(inspection, config)
    if config.html is not None:
        write_page(inspection, config.prefix.name, config)
        print(f"page: {config.html}")
    return inspection


if __name__ == "__main__":
    cli.run(main)
