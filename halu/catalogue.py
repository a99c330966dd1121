"""What there is to choose from: strategies, detectors, benchmarks, models."""

from typing import Any

from halu.errors import Unknown

KINDS = ("strategies", "detectors", "benchmarks", "models")


def available(kind: str) -> list[dict[str, Any]]:
    """Everything of one kind by name, as `halu list` prints it.

    Raises:
        Unknown: a kind that does not exist.
    """
    if kind not in KINDS:
        raise Unknown("kind", kind, KINDS)
    return {
        "strategies": _strategies,
        "detectors": _detectors,
        "benchmarks": _benchmarks,
        "models": _models,
    }[kind]()


def _strategies() -> list[dict[str, Any]]:
    from halu.strategy import strategies

    return [
        {
            "name": strategy.name,
            "kind": strategy.kind,
            "summary": (strategy.__doc__ or "").strip().split("\n")[0],
            "paper": {
                "short": strategy.paper.short,
                "arxiv": strategy.paper.arxiv,
                "venue": strategy.paper.venue,
            },
            "needs_image": strategy.needs_image,
            "params": strategy.Params.model_json_schema(),
        }
        for strategy in strategies
    ]


def _detectors() -> list[dict[str, Any]]:
    from halu.detector import detectors

    return [
        {
            "name": detector.name,
            "kind": detector.kind,
            "summary": (detector.__doc__ or "").strip().split("\n")[0],
            "paper": {"arxiv": detector.paper},
            "params": detector.Params.model_json_schema(),
        }
        for detector in detectors
    ]


def _benchmarks() -> list[dict[str, Any]]:
    from halu.eval.benchmark import benchmarks

    return [
        {
            "name": benchmark.name,
            "version": benchmark.version,
            "builtin": benchmark.builtin,
            "metrics": [metric.name for metric in benchmark.metrics],
            "summary": benchmark.about,
        }
        for benchmark in benchmarks
    ]


def _models() -> list[dict[str, Any]]:
    from halu.models import builtin

    return [{"name": name, "summary": "built-in trained model"} for name in builtin()]
