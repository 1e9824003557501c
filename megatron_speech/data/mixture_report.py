"""A planned mixture made visible: a table for the terminal, a chart for the eye."""

from pathlib import Path

from ..io.files import atomic_path
from .mixture import Mixture, format_count

_COLOURS = {"text": "#8a8f98", "speech": "#2a9db5"}


def print_mixture(mixture: Mixture) -> None:
    """Print what is read of every dataset, and of text and speech in all."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("dataset", overflow="fold")
    table.add_column("rule", no_wrap=True)
    for name in ("text", "speech", "epochs", "read", "windows", "weight"):
        table.add_column(name, justify="right", no_wrap=True)
    for draw in mixture.draws:
        table.add_row(
            draw.holding.name,
            str(draw.rule),
            format_count(draw.holding.text_tokens) if draw.holding.text_tokens else "-",
            format_count(draw.holding.speech_tokens) if draw.holding.speech_tokens else "-",
            f"{draw.epochs:.3g}",
            format_count(draw.tokens),
            f"{draw.samples:,}",
            f"{draw.weight:.4g}",
        )
    table.add_section()
    total = [format_count(mixture.tokens), f"{mixture.samples:,}", "1"]
    table.add_row("all", "", "", "", "", *total)
    console = Console()
    console.print(table)
    console.print(
        f"reads {format_count(mixture.tokens_of('text'))} text and "
        f"{format_count(mixture.tokens_of('speech'))} speech tokens in windows of "
        f"{mixture.seq_length:,}"
    )


def draw_mixture(mixture: Mixture, path: Path) -> None:
    """Write bars of the tokens read, by dataset and modality, to a .png, .svg or .pdf."""
    from matplotlib.figure import Figure

    draws = list(reversed(mixture.draws))
    figure = Figure(figsize=(8, 1.4 + 0.5 * len(draws)), layout="constrained")
    axes = figure.subplots()
    names = [Path(draw.holding.name).name for draw in draws]
    left = [0.0] * len(draws)
    for modality, colour in _COLOURS.items():
        widths = [draw.epochs * getattr(draw.holding, f"{modality}_tokens") for draw in draws]
        axes.barh(range(len(draws)), widths, left=left, color=colour, label=modality, height=0.6)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(draws)), names)
    for place, draw in enumerate(draws):
        share = 100 * draw.tokens / mixture.tokens
        note = f" {format_count(draw.tokens)}, {share:.3g}%, {draw.epochs:.2g} x"
        axes.text(draw.tokens, place, note, va="center", fontsize=9)
    axes.set_xlim(0, 1.35 * max(left))
    axes.xaxis.set_major_formatter(lambda value, _: format_count(value) if value else "0")
    axes.set_xlabel("tokens read, share of the run, times each dataset is read")
    axes.set_title(f"{format_count(mixture.tokens)} tokens", loc="left")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    kind = path.suffix.lstrip(".") or "png"
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=150)
