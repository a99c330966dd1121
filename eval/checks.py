"""Checks that stop a run which cannot give useful figures, while it runs.

Users have reported each of these after days of work: a model that always says yes (MME then gives
exactly 50 a task), captions cut off by a forgotten token limit, one picture under two names. The
answers of plain decoding are judged; what a strategy does to them is a finding, and is reported.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from halu.errors import BadInput, Failed
from halu.eval.benchmark import Sample
from halu.eval.plan import Suite
from halu.eval.store import Row

ENOUGH = 50
"""Answers to a split before they are judged."""

CUT = 0.5
"""Share of answers at the token limit that is too much."""


@dataclass(slots=True)
class _Seen:
    """What is known of a model's plain answers to one split."""

    answers: int = 0
    said: set[str] = field(default_factory=set)
    wanted: set[str] = field(default_factory=set)
    cut: int = 0


class Watch:
    """Looks at rows as they come.

    Args:
        baseline: label of plain decoding.
        chosen_limit: whether the token limit is the user's own, who then wants answers cut.
    """

    def __init__(self, baseline: str, chosen_limit: bool = False) -> None:
        self._baseline = baseline
        self._chosen_limit = chosen_limit
        self._seen: dict[tuple[str, str, str], _Seen] = {}
        self._names: dict[tuple[str, str, str], str] = {}  # (benchmark, split, picture) -> id

    def look(self, rows: Iterable[Row]) -> None:
        """Take rows in.

        Raises:
            Failed: if the run is not worth going on with; the rows so far are kept.
        """
        for row in rows:
            self._same_picture(row)
            if row.arm != self._baseline:
                continue
            seen = self._seen.setdefault((row.model, row.benchmark, row.split), _Seen())
            seen.answers += 1
            seen.cut += row.finish_reason == "length"
            if isinstance(row.parsed, str) and isinstance(row.label, str):
                seen.said.add(row.parsed)
                seen.wanted.add(row.label)
            self._judge(row, seen)

    def _same_picture(self, row: Row) -> None:
        if row.picture is None or row.image_id is None:
            return
        name = self._names.setdefault((row.benchmark, row.split, row.picture), row.image_id)
        if name != row.image_id:
            raise _stopped(f"{row.benchmark}: {name} and {row.image_id} are the same picture")

    def _judge(self, row: Row, seen: _Seen) -> None:
        where = f"{row.benchmark}, {row.split}, {row.model}"
        if seen.answers < ENOUGH:
            return
        if len(seen.said) == 1 and len(seen.wanted) > 1:
            said = next(iter(seen.said))
            raise _stopped(f"{where}: all {seen.answers} answers so far are read as {said!r}")
        if not self._chosen_limit and seen.cut > CUT * seen.answers:
            raise _stopped(f"{where}: {seen.cut} of {seen.answers} answers hit the token limit")


def distinct(samples: Sequence[Sample], benchmark: str) -> None:
    """Check, before anything is asked, that no two samples share an id.

    Raises:
        BadInput: naming the first id that occurs twice.
    """
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise BadInput(f"Benchmark {benchmark!r} has two samples called {sample.id!r}.")
        seen.add(sample.id)


def undoubted(suites: Iterable[Suite]) -> None:
    """Check, before anything is asked, that the samples are the published ones.

    Raises:
        BadInput: with what is not as published.
    """
    for suite in suites:
        if suite.doubts:
            raise BadInput(
                f"{suite.name}: {' '.join(suite.doubts)}",
                hint="Get today's files, or ask these with --keep-going.",
                param="data",
            )


def _stopped(reason: str) -> Failed:
    return Failed(f"Stopped: {reason}.", hint="--resume --keep-going goes on all the same.")
