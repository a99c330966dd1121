"""A progress bar on a terminal, a plain line every tenth otherwise; both on stderr."""

import sys
from typing import Any


class Bar:
    """Shows how far long work is."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task("", total=None)
        self.tenth = -1
        self.done, self.total = 0, 0

    def __enter__(self) -> "Bar":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, done: int, total: int, what: str) -> None:
        """`done` of `total` things are done; `what` names them."""
        self.done, self.total = done, total
        self.bar.update(self.task, description=what, completed=done, total=total)
        tenth = 10 * done // max(total, 1)
        if not self.console.is_terminal and tenth > self.tenth:
            self.tenth = tenth
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

    def of_run(self, now: Any) -> None:
        """Takes a `halu.eval.run.Progress`."""
        self.show(now.done, now.total, f"{now.model} {now.benchmark} {now.strategy}".strip())
