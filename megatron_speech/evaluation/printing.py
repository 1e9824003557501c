"""Tables of figures on a terminal."""

from collections.abc import Sequence

_WIDEST = 400  # columns
_WORDS = ("task", "benchmark", "direction", "system", "model", "kind", "mode", "source")


def print_rows(title: str, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table that wraps no figure: it may be wider than the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=None, padding=(0, 1, 0, 0), pad_edge=False)  # 80 columns do
    for name in names:
        table.add_column(name, justify="left" if name in _WORDS else "right")
    for row in rows:
        table.add_row(*row)
    needed = Console(width=_WIDEST).measure(table).maximum
    Console(width=max(Console().width, needed)).print(table)
