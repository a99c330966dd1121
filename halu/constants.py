"""Facts about single models that methods need and papers or code give: one table, with the source
of each.

A model is recognised by its family and sizes, so that a local copy or a fine-tune finds its row.
"""

from dataclasses import dataclass

from halu.errors import Unsupported
from halu.strategy import ModelFacts


@dataclass(frozen=True, slots=True)
class Sinks:
    """VAR's massive-activation dimensions, and the threshold tau that a sink's normalised value
    exceeds.
    """

    dimensions: tuple[int, ...]
    tau: float
    source: str


SINKS: dict[tuple[str, int, int], Sinks] = {
    ("llava", 4096, 32): Sinks((1415, 2533), 20.0, "seilk/VisAttnSink, LLaMA-2-7B base"),
    ("llava", 5120, 40): Sinks((2100, 4743), 20.0, "seilk/VisAttnSink, LLaMA-2-13B base"),
    ("qwen2_vl", 3584, 28): Sinks((458, 2570), 20.0, "second-hand, VAR paper appendix"),
}


def sinks(model: ModelFacts) -> Sinks:
    """The sink dimensions of a model.

    Raises:
        Unsupported: if nobody has published or calibrated them.
    """
    found = SINKS.get((model.family, model.hidden, model.layers))
    if found is None:
        raise Unsupported(
            f"VAR's sink dimensions are not known for {model.name!r}.",
            hint="Pass them: -p dimensions=I,J -p tau=T.",
            param="strategy",
        )
    return found
