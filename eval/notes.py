"""What makes a run's figures worth less than they look, one sentence each."""

from collections.abc import Iterator, Sequence

from halu.eval import words
from halu.eval.paired import Table

FEW = 30
"""Images below which even a widened interval of a share covers less than it says."""

_CUT = 0.1
"""Share of answers at the token limit that is worth a word."""


def notes(tables: Sequence[Table]) -> Iterator[str]:
    """Look at each table; a model is named only where there are several."""
    several = len({table.model for table in tables}) > 1
    few: dict[str, int] = {}
    for table in tables:
        name, images = table.benchmark.name, len(_images(table))
        few[name] = min(images, few.get(name, images))
    for name, images in few.items():
        if images < FEW:
            pictures = f"{words.count(images, 'picture')} {'is' if images == 1 else 'are'} few"
            yield f"{name}: {pictures}; intervals are too narrow below about {FEW}."
    for table in tables:
        where = f"{table.benchmark.name}, {table.split}"
        where += f", {table.model}" if several else ""
        for label, rows in table.arms.items():
            if len(rows) > 10 and len({row.answer for row in rows}) == 1:
                yield f"{where}: {label} always gives the same answer."
            cut = sum(row.finish_reason == "length" for row in rows)
            if cut > _CUT * len(rows):
                yield f"{where}: {cut} of {len(rows)} answers of {label} hit the token limit."


def _images(table: Table) -> set[str]:
    return {row.unit for row in next(iter(table.arms.values()))}
