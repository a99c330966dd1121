"""Facts about single models that methods need and papers or code give: one table, with the source
of each.

A model is recognised by its family and sizes, so that a local copy or a fine-tune finds its row.
"""

from dataclasses import dataclass
from typing import Literal

from halu import calibrated
from halu.errors import Unsupported
from halu.strategy import ModelFacts

Shape = tuple[str, int, int, int]
"""Family, hidden size, layers, key heads (`ModelFacts.shape`): tells LLaMA-2 from Llama-3 too."""


@dataclass(frozen=True, slots=True)
class Sinks:
    """VAR's massive-activation dimensions, and the threshold tau that a sink's normalised value
    exceeds.
    """

    dimensions: tuple[int, ...]
    tau: float
    source: str


# Models this small have no massive activations; the threshold is the 95th percentile.
_FOUND = "halu calibrate, 95th percentile on 100 built-in scenes"

SINKS: dict[Shape, Sinks] = {
    ("llava", 4096, 32, 32): Sinks((1415, 2533), 20.0, "seilk/VisAttnSink, LLaMA-2-7B base"),
    ("llava", 5120, 40, 40): Sinks((2100, 4743), 20.0, "seilk/VisAttnSink, LLaMA-2-13B base"),
    ("llava", 192, 4, 3): Sinks((22, 105), 3.0, f"tiny-llava, {_FOUND}"),
    ("qwen2_5_vl", 192, 4, 3): Sinks((29, 121), 3.25, f"tiny-qwen, {_FOUND}"),
    ("qwen2_vl", 3584, 28, 4): Sinks((458, 2570), 20.0, "second-hand, VAR paper appendix"),
}


def sinks(model: ModelFacts) -> Sinks:
    """The sink dimensions of a model: calibrated here, else published.

    Raises:
        Unsupported: if nobody has published or calibrated them.
    """
    own = calibrated.load(model, "var")
    if own is not None:
        return Sinks(tuple(own.params["dimensions"]), own.params["tau"], own.command)
    found = SINKS.get(model.shape)
    if found is None:
        raise Unsupported(
            f"VAR's sink dimensions are not known for {model.name!r}.",
            hint=f"Find them with: halu calibrate {model.name} var."
            " Or pass them: -p dimensions=I,J -p tau=T.",
            param="strategy",
        )
    return found


@dataclass(frozen=True, slots=True)
class Heads:
    """AD-HH's hallucination heads, or those that ACT calibrates, as pairs (layer, head)."""

    pairs: tuple[tuple[int, ...], ...]
    source: str


def _pairs(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(index) for index in pair.split(",")) for pair in text.split())


_ADHH = "TianyunYoung/Hallucination-Attribution@841fc1b"

HALLUCINATION_HEADS: dict[Shape, Heads] = {
    ("llava", 192, 4, 3): Heads(
        _pairs("0,2 1,1"), "tiny-llava, halu calibrate, 100 built-in scenes"
    ),
    ("qwen2_5_vl", 192, 4, 3): Heads(
        _pairs("0,2 1,1"), "tiny-qwen, halu calibrate, 60 built-in scenes"
    ),
    ("llava", 4096, 32, 32): Heads(
        _pairs(
            "16,29 26,9 13,31 15,10 20,12 30,9 19,18 17,0 18,9 26,28 19,27 18,26 15,25 14,16"
            " 31,26 15,24 31,3 22,20 27,29 17,28"
        ),
        f"{_ADHH}, LLaVA-1.5-7B",
    ),
    ("llava", 5120, 40, 40): Heads(
        _pairs(
            "0,8 29,27 23,18 20,11 36,26 19,37 22,16 22,34 21,31 20,34 37,11 17,25 35,10 17,5"
            " 15,26 0,22 19,5 19,0 14,1 23,20 21,6 30,24 26,27 21,32 15,28 15,31 19,30 20,8"
            " 19,14 14,9 39,26 25,1 18,32 17,27 39,32"
        ),
        f"{_ADHH}, LLaVA-1.5-13B",
    ),
    ("llava_next", 7168, 60, 8): Heads(
        _pairs("45,34 43,4 43,48 44,29 35,47 40,27 54,34 37,48 43,2 41,34"),
        f"{_ADHH}, LLaVA-v1.6-34B",
    ),
}


def hallucination_heads(model: ModelFacts) -> Heads:
    """The hallucination heads of a model: calibrated here, else published.

    Raises:
        Unsupported: if nobody has published or calibrated them.
    """
    own = calibrated.load(model, "adhh")
    if own is not None:
        return Heads(tuple(tuple(pair) for pair in own.params["heads"]), own.command)
    found = HALLUCINATION_HEADS.get(model.shape)
    if found is None:
        raise Unsupported(
            f"AD-HH's hallucination heads are not known for {model.name!r}.",
            hint=f"Find them with: halu calibrate {model.name} adhh."
            " Or pass them: -p heads=[[LAYER,HEAD],[LAYER,HEAD]].",
            param="strategy",
        )
    return found


ACTList = Literal["classification", "multiple_choice"]
_ACT = "GATECH-EIC/ACT@a267af7, models/augment_index.py, Llama-2-7B-chat"


def _from_two(text: str) -> tuple[tuple[int, ...], ...]:
    """Heads of layer 2, of layer 3 and so on, separated by bars."""
    return tuple(
        (layer, int(head))
        for layer, heads in enumerate(text.split("|"), 2)
        for head in heads.split()
    )


ACT_HEADS: dict[ACTList, Heads] = {
    "classification": Heads(
        _from_two(
            "2 8 12 13 16 17 20 25|0 1 2 10 24 28|1 3 4 9 10 11 15 19 23 25 27 30|0 1 3 8 9 12 13"
            " 14 19 22|1 11 13 15 17 18 20 21 22 25 28 31|7 8 18 24 25|0 2 5 6 7 8 26|0 6 7 10 11"
            " 15 17 20 21 29|1 4 19 22 23 25 26 27 31|6 8 10 12 14 15 17 18 21 26 27 28|0 4 6 11"
            " 21 24 25 27|1 4 9 21 25 26 27|0 1 4 7 9 12 13 15 19 21 24|6 9 12 17 19 21 24 25 26|"
            "0 29|0 15 19 24 29 30|7 12 22 23|2 15 16 21 30|1 2 5 9 10 15 20 27 29|17 20 24 29|"
            "2 3 5 6 13 15 25|5 6 16|1 3 5 13 20|17 24|9 14 19 20|2 29||2 14 15 25|2"
        ),
        _ACT,
    ),
    "multiple_choice": Heads(
        _from_two(
            "8 13 17 20|1|23 27 30|0 1 9 10 13 17 27|1 11 22 31||2 6|0 7 10 15 20|19 22 23 25 26|"
            "8 10 12 14 15 17 18 26|0 6 31|8 9 21 26|0 13 15|12 21 24|31|24 30|7 17|30|15 29|20|"
            "2 6||18 20||6 14 19|29|13|2 15||4 31"
        ),
        _ACT,
    ),
}


def act_heads(kind: ACTList, model: ModelFacts) -> Heads:
    """The authors' calibrated heads.

    Raises:
        Unsupported: if the model is not of the size that they were found for.
    """
    if (model.hidden, model.layers, model.heads) != (4096, 32, 32):
        raise Unsupported(
            f"ACT's published heads are Llama-2-7B's, {model.name!r} is of another size.",
            hint=f"Find its own with: halu calibrate {model.name} act."
            " Or pass them: -p pairs=[[LAYER,HEAD],[LAYER,HEAD]].",
            param="params.published",
        )
    return ACT_HEADS[kind]
