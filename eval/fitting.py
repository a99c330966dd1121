"""Tables as wide as they may be: cut into parts for a narrow terminal, whole for a pipe or file."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.table import Table

Column = TypeVar("Column")


def fitting(
    columns: Sequence[Column], build: Callable[[Sequence[Column]], Table], width: int | None
) -> list[Table]:
    """Build one table of all columns, or as many as it takes for each to fit into `width`.

    `build` gives each part what all have in common, such as names of rows. None is any width; a
    column that does not fit alone stays whole.
    """
    table = build(columns)
    if width is None or len(columns) <= 1 or needed(table) <= width:
        return [table]
    middle = (len(columns) + 1) // 2
    parts = (columns[:middle], columns[middle:])
    return [found for part in parts for found in fitting(part, build, width)]


def needed(table: Table) -> int:
    """Measure how many columns of a terminal a table needs to be whole."""
    return Console(width=10_000).measure(table).maximum


def show(tables: Callable[[int | None], Sequence[Table]]) -> None:
    """Print the tables laid out for this terminal, or for any width into a pipe or file."""
    console = Console()
    found = tables(console.width if console.is_terminal else None)
    if not console.is_terminal:
        console.width = max([console.width, *map(needed, found)])
    for table in found:
        console.print(table)
