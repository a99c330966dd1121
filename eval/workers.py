"""Several batches at the same time, their rows in the order of the batches."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(work: Callable[[Item], Result], items: Iterable[Item], slots: int) -> Iterator[Result]:
    """Do `work` on items, up to `slots` at a time from threads; results come in the items' order.

    At most twice as many as are worked on are taken ahead. When one fails, or nobody wants more,
    those that have not begun never do.
    """
    if slots == 1:
        yield from map(work, items)
        return
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(slots, thread_name_prefix="halu-bench")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * slots:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
