"""What a second row of a batch costs the largest products of a model: the time of two rows times
weights to that of one.

    python benchmarks/two_rows.py

The matrices are those of the feed-forward layers of the 300 M model of `shapes.py`, one after
another, so that none is still in a cache. A decoding step of a strategy of two branches has two
rows where greedy has one.
"""

import statistics
import time

import torch
from shapes import ON_CPU, SAVED
from torch.nn.functional import linear

ROUNDS = 9


def seconds(rows: int, weights: list[torch.Tensor]) -> float:
    """Time of all products."""
    x = torch.randn(rows, weights[0].shape[1])
    start = time.perf_counter()
    for weight in weights:
        linear(x, weight)
    return time.perf_counter() - start


def main() -> None:
    """Prints the ratio: median, least and largest of several rounds."""
    _, size = ON_CPU[SAVED]
    weights = [torch.randn(size.mlp, size.hidden) for _ in range(3 * size.layers)]
    seconds(1, weights)
    ratios = sorted(seconds(2, weights) / seconds(1, weights) for _ in range(ROUNDS))
    middle = statistics.median(ratios)
    print(f"{middle:.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f}), {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
