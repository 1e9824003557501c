"""Plan what a run reads of each dataset, from a token budget; write it for --data-args-path.

    python tools/plan_mixture.py --tokens 1T --seq-length 8192 --output blend.txt --data-path \\
        30% data/text 1epoch data/speech 1epoch data/pairs-asr,data/pairs-tts rest data/interleaved
    python tools/pretrain.py lm-9b --data-args-path blend.txt ...

A rule stands before each dataset: a share of the budget (30%), epochs (1epoch), tokens (300B) or
the rest. For a dataset that is yet to be made give its counts: interleaved:455Bspeech+279Btext.
"""

from megatron_speech.jobs.starting import starting

with starting(__name__):
    from collections.abc import Sequence
    from dataclasses import dataclass
    from pathlib import Path

    from megatron_speech import cli
    from megatron_speech.data.mixture import Mixture, parse_count, parse_groups, plan_mixture
    from megatron_speech.data.mixture_report import draw_mixture, print_mixture
    from megatron_speech.errors import ConfigError
    from megatron_speech.io.files import write_text


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Datasets, rules and a budget to the weights of a blend."""

    data_path: tuple[str, ...]
    """Rule and dataset in turn; several datasets under one rule are joined by commas."""
    tokens: str | None = None
    """The budget: 1T, 300B, 3M. Without it, rules in epochs and tokens add up to one."""
    seq_length: int
    """Tokens in a window, as the run will have it."""
    global_batch_size: int | None = None
    """Windows in a step, to say how many steps that makes."""
    most_epochs: float = 4.0
    """Refuse to read a dataset more often than this."""
    output: Path | None = None
    """File to write for --data-args-path."""
    chart: Path | None = None
    """Also draw the mixture: .png, .svg or .pdf."""

    def __post_init__(self) -> None:
        for name in ("seq_length", "global_batch_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; give at least 1")
        if self.chart is not None and self.chart.suffix not in (".png", ".svg", ".pdf"):
            raise ConfigError(f"--chart {self.chart}: the name must end in .png, .svg or .pdf")


def main(argv: Sequence[str] | None = None) -> Mixture:
    """Plan, print and write the mixture and return it."""
    config = cli.parse(Arguments, argv, __doc__ or "")
    budget = None if config.tokens is None else parse_count(config.tokens)
    groups = parse_groups(config.data_path, config.seq_length)
    mixture = plan_mixture(groups, budget, config.seq_length, config.most_epochs)
    print_mixture(mixture)
    if config.global_batch_size is not None:
        steps = -(-mixture.samples // config.global_batch_size)
        print(f"--train-iters {steps} --global-batch-size {config.global_batch_size}")
    if config.output is not None:
        write_text(config.output, mixture.blend())
        print(f"for --data-args-path: {config.output}")
    if config.chart is not None:
        draw_mixture(mixture, config.chart)
        print(f"chart: {config.chart}")
    return mixture


if __name__ == "__main__":
    cli.run(main, starts_over=True)
