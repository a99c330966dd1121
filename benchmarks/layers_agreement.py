"""Would the agreement of the model's layers help the detectors that read the trace?

    python benchmarks/layers_agreement.py [-m MODEL] [--fit N] [--scenes N] [--out FILE]

While a model captions drawn scenes, the output head also reads the residual stream that enters each
later layer. Of each named object: the largest Jensen-Shannon divergence of each layer's row from
the final one over the object's tokens, and `late`, the largest share of layers up to the last that
has another favourite than the final row. One logistic curve of what `attention` and `uncertainty`
measure, one of this, and one of both are fitted on scenes of the split "val" and ranked on scenes
of the split "test". Writes benchmarks/results/layers-agreement.json, which the page of
`benchmarks/detectors.py` tells of.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from curves import interval
from torch import Tensor

import halu
from halu.calibration.cases import Case, captioned
from halu.calibration.curve import auroc, fitted
from halu.calibration.labelled import Known
from halu.claims import Claim, claims
from halu.detector import detectors
from halu.eval import world
from halu.grounding.pixels import Pixels
from halu.rules import jensen_shannon
from halu.strategy import Context, Paper, Plan, Step, Strategy, Tap, strategies

RESULTS = Path(__file__).resolve().parent / "results" / "layers-agreement.json"
PAIR = "attention", "uncertainty"
FIT_SPLIT: Final = "val"
SEED = 0

seen: dict[Pixels, dict[int, dict[str, float]]] = {}
"""By picture and step, how far the layers were from the final row."""


class Row(NamedTuple):
    """Of one named object: its picture's number, both kinds of measurements, the truth."""

    owner: int
    pair: dict[str, float]
    layers: dict[str, float]
    made_up: bool


@strategies.register("layers-watched")
class Watched(Strategy):
    """Plain decoding that notes what each layer would have said."""

    name = "layers-watched"
    kind = "decoding"
    paper = Paper(short="Plain decoding", arxiv="", venue="")

    def plan(self, ctx: Context) -> Plan:
        """The main branch as it is, every later layer tapped."""
        taps = tuple(Tap(layer) for layer in range(1, ctx.model.layers))
        noted = seen.setdefault(Pixels(ctx.request.images[0]), {})

        def rule(step: Step) -> Tensor:
            early = torch.stack([step.early[tap] for tap in taps])
            apart = jensen_shannon(step.main, early).tolist()
            agreed = (early.argmax(-1) == step.main.argmax()).flip(0).cumprod(0).sum()
            noted[step.index] = {
                "late": 1 - float(agreed) / len(taps),
                **{f"layer {tap.layer}": own for tap, own in zip(taps, apart, strict=True)},
            }
            return step.main

        return Plan(ctx.main, rule=rule, taps=taps)


class Watching:
    """A model that answers every request under `Watched`."""

    def __init__(self, vlm: Any) -> None:
        self.vlm, self.name, self.generate_each = vlm, vlm.name, vlm.generate_each

    def generate(self, requests: Sequence[Any]) -> list[Any]:
        """See `halu.vlm.VLM.generate`."""
        watched = [one.model_copy(update={"strategy": Watched.name}) for one in requests]
        answers: list[Any] = self.vlm.generate(watched)
        return answers


def main() -> None:
    """Caption, fit, rank, write."""
    parser = argparse.ArgumentParser(description="Rank made-up objects by layers' agreement.")
    parser.add_argument("-m", "--model", default="tiny-llava", help="a built-in model")
    parser.add_argument("--fit", type=int, default=120, help="scenes to fit on")
    parser.add_argument("--scenes", type=int, default=90, help="scenes to measure on")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    vlm: Any = Watching(halu.load(asked.model))
    fit = list(rows(vlm, world.images(asked.fit, SEED, FIT_SPLIT)))
    held_out = list(rows(vlm, world.images(asked.scenes, SEED)))
    results = {
        "model": asked.model,
        "fit": asked.fit,
        "scenes": asked.scenes,
        **ranked(fit, held_out),
    }
    asked.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results))


def rows(vlm: Any, scenes: Sequence[str]) -> Iterator[Row]:
    """Of every object named in captions of these scenes."""
    known = [Known(world.picture(scene), world.truth(scene).names) for scene in scenes]
    for number, case in enumerate(captioned(vlm, known, lambda done, total: None)):
        pair = measured(case)
        for claim in claims(case.answer.text, case.asked.question):
            made_up = case.made_up(claim)
            if made_up is not None:
                yield Row(number, pair[claim], agreement(case, claim), made_up)


def measured(case: Case) -> dict[Claim, dict[str, float]]:
    """What both detectors read of each claim's trace."""
    found: dict[Claim, dict[str, float]] = {}
    for name in PAIR:
        detector: Any = detectors.get(name)()
        for one in detector.measure(case.answer, case.images, case.asked):
            own = {f"{name} {key}": value for key, value in one.features.items()}
            found.setdefault(one.claim, {}).update(own)
    return found


def agreement(case: Case, claim: Claim) -> dict[str, float]:
    """The largest of each measurement over the claim's tokens."""
    noted = seen[Pixels(case.images[0])]
    own = [
        noted[step]
        for step, token in enumerate(case.answer.tokens)
        if token.stop > token.start and token.start < claim.stop and claim.start < token.stop
    ]
    return {key: max(one[key] for one in own) for key in own[0]}


def ranked(fit: Sequence[Row], held_out: Sequence[Row]) -> dict[str, Any]:
    """AUROC of the three curves on held-out scenes, and what the layers add."""
    wrong = np.array([one.made_up for one in held_out])
    owner = np.array([one.owner for one in held_out])
    scores = {
        "pair": curve([one.pair for one in fit], fit, [one.pair for one in held_out]),
        "layers": curve([one.layers for one in fit], fit, [one.layers for one in held_out]),
        "both": curve([both(one) for one in fit], fit, [both(one) for one in held_out]),
    }
    two = np.stack([scores["both"], scores["pair"]], -1)
    return {
        "claims": len(held_out),
        "wrong": float(wrong.mean()),
        "auroc": {name: auroc(own, wrong) for name, own in scores.items()},
        "gain": gain(two, wrong),
        "gain_ci": interval(gain, two, wrong, owner),
    }


def both(one: Row) -> dict[str, float]:
    """All measurements of an object."""
    return {**one.pair, **one.layers}


def curve(
    train: list[dict[str, float]], fit: Sequence[Row], test: list[dict[str, float]]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Probabilities of the test's objects by a curve fitted on the others."""
    found = fitted(train, [one.made_up for one in fit], "")
    return np.array([found.probability(features) for features in test])


def gain(two: Any, wrong: Any) -> float:
    """By how much the first column of scores [N, 2] ranks better than the second."""
    return auroc(two[:, 0], wrong) - auroc(two[:, 1], wrong)


if __name__ == "__main__":
    main()
