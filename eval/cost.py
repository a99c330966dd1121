"""What answers cost, next to what they are worth: time, forwards, memory, and the Pareto front."""

from collections.abc import Sequence

from halu.eval.store import Row
from halu.types import Record


class Cost(Record):
    """Time and memory, without each process's first batch. `time_vs_greedy` is a sample's time
    relative to greedy's on the same samples.
    """

    tokens_per_second: float | None
    seconds_per_sample: float | None
    forwards_per_token: float | None
    peak_memory_mb: float | None
    time_vs_greedy: float | None = None


def cost(rows: Sequence[Row], greedy: Sequence[Row]) -> Cost:
    """Add up what the answers of a strategy took; cached ones took no time that says anything."""
    warm = _timed(rows)
    tokens, seconds = sum(row.tokens for row in warm), sum(row.seconds for row in warm)
    forwards = sum(row.forwards for row in warm)
    peaks = [row.memory_mb for row in rows if row.memory_mb is not None]
    plain = _timed(greedy)
    both = _places(warm) & _places(plain)
    own, base = (_seconds([r for r in some if _place(r) in both]) for some in (warm, plain))
    return Cost(
        tokens_per_second=tokens / seconds if seconds else None,
        seconds_per_sample=_seconds(warm),
        forwards_per_token=forwards / tokens if tokens and forwards else None,
        peak_memory_mb=max(peaks, default=None),
        time_vs_greedy=own / base if own is not None and base else None,
    )


def front(costs: Sequence[float], qualities: Sequence[float]) -> list[int]:
    """Places of the Pareto front, the cheapest first: nothing costs no more and is better, nor
    costs less and is as good. A higher quality is better.
    """
    order = sorted(range(len(costs)), key=lambda place: (costs[place], -qualities[place]))
    found: list[int] = []
    for place in order:
        last = found[-1] if found else None
        same = last is not None and (costs[last], qualities[last]) == (
            costs[place],
            qualities[place],
        )
        if last is None or qualities[place] > qualities[last] or same:
            found.append(place)
    return found


def _timed(rows: Sequence[Row]) -> list[Row]:
    timed = [row for row in rows if not row.cached]
    return [row for row in timed if not row.cold] or timed


def _place(row: Row) -> tuple[str, int]:
    return row.id, row.repeat


def _places(rows: Sequence[Row]) -> set[tuple[str, int]]:
    return {_place(row) for row in rows}


def _seconds(rows: Sequence[Row]) -> float | None:
    return sum(row.seconds for row in rows) / len(rows) if rows else None
