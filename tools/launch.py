"""Start a training's processes: by torchrun, or watched, and restarted when one dies or hangs.

    python tools/launch.py --standalone --nproc-per-node 8 tools/pretrain.py lm-1.5b --save ...

Flags before the tool are the launcher's, those behind it the tool's. With nvidia-resiliency-ext
installed (`pip install -e '.[resiliency]'`) its ft_launcher is taken.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    import sys
    from collections.abc import Sequence
    from pathlib import Path
    from typing import NoReturn

    from megatron_speech.cluster.launch import LaunchConfig, launch
    from megatron_speech.errors import ConfigError
    from megatron_speech.jobs import cli


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the tool that the command line names."""
    words = list(sys.argv[1:] if argv is None else argv)
    place = next((n for n, word in enumerate(words) if word.endswith(".py")), len(words))
    config = cli.parse(LaunchConfig, words[:place], __doc__)
    if place == len(words):
        raise ConfigError("no tool to run; name one behind the flags, such as tools/pretrain.py")
    if not Path(words[place]).is_file():
        raise ConfigError(f"{words[place]} does not exist; name a tool such as tools/pretrain.py")
    launch(config, words[place:])


if __name__ == "__main__":
    cli.run(main)
