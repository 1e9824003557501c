"""Draw the losses of one or more runs, over steps or tokens, into a picture.

    python tools/plot_run.py --runs runs/demo/lm runs/demo/control --output runs/losses.png
    python tools/plot_run.py --runs runs/lm --metrics "grad-norm" "learning-rate" --x tokens \\
        --output runs/lm.svg

Reads the `metrics.jsonl` of each run; lines are training, dots validation.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from pathlib import Path

    from megatron_speech import cli
    from megatron_speech.training.plotting import PlotConfig, draw


def main(argv: Sequence[str] | None = None) -> Path:
    """Write the picture and return its path."""
    path = draw(cli.parse(PlotConfig, argv, __doc__))
    print(f"wrote {path}")
    return path


if __name__ == "__main__":
    cli.run(main, starts_over=True)
