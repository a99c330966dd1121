"""Detectors on the built-in world: fits their curves, then measures them on other scenes.

    python benchmarks/detectors.py [-m MODEL]... [--fit N] [--scenes N]

Captions of drawn scenes are read by CHAIR's rules, which say of each named object whether it is
there. Curves are fitted on half of the `--fit` scenes of the split "val", the blend on the other
half, and everything is measured on `--scenes` scenes of the split "test". Writes
detectors/calibration.json, docs/results/detectors.json and its page and picture.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from curves import at, aupr, auroc, fitted, interval, reliability

import halu
from halu import logistic
from halu.detector import Asked, Detector, detectors, stated
from halu.eval import world
from halu.eval.benchmark import Mark
from halu.eval.chair import score_caption
from halu.eval.lexicon import words_rules
from halu.types import Answer, Request
from halu.vlm import asking

ROOT = Path(__file__).resolve().parent.parent
CURVES = ROOT / "detectors" / logistic.FILE
RESULTS = ROOT / "docs" / "results" / "detectors.json"
PROMPT = "Please describe this image in detail."
FIT_SPLIT, SEED = "val", 0
BATCH = 30
BLEND, PAIR = "blend", "attention + uncertainty"
PICTURE = {"clip": "tiny-clip", "objects": "tiny-towers"}
"""What the curves of those that look at the picture were fitted for."""
READER, SIGNS = "ocr", 40
"""Judges quoted words, not objects; of this many pictures."""


@dataclass(frozen=True, slots=True)
class Case:
    """A scene, its caption, what was asked, and which of its objects are made up."""

    scene: str
    answer: Answer
    asked: Asked
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class Fit:
    """A curve to fit: of a detector, for a model; `bare`: on answers without their tokens."""

    detector: str
    name: str
    bare: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Scores of claims: which scene each belongs to, whether it is wrong, and seconds a caption."""

    scores: Any
    wrong: Any
    owner: Any
    seconds: float


def main() -> None:
    """Fit, measure, write."""
    parser = argparse.ArgumentParser(description="Fit and measure detectors on drawn scenes.")
    parser.add_argument("-m", "--model", action="append", help="built-in models; all by default")
    parser.add_argument(
        "--fit", type=int, default=400, help="scenes to fit on; 0 keeps the curves that ship"
    )
    parser.add_argument("--scenes", type=int, default=100, help="scenes to measure on")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    models = asked.model or ["tiny-llava", "tiny-qwen"]
    fit_on = asked.fit or json.loads(RESULTS.read_text())["fit"]
    results: dict[str, Any] = {"fit": fit_on, "scenes": asked.scenes, "models": {}}
    for model in models:
        vlm = halu.load(model)
        if asked.fit:
            seen, _ = captions(vlm, world.images(asked.fit, SEED, FIT_SPLIT))
            for one, early in fits(model, first=model == models[0]):
                fit(one, seen[: len(seen) // 2] if early else seen[len(seen) // 2 :])
        cases, seconds = captions(vlm, world.images(asked.scenes, SEED))
        results["models"][model] = measured(cases, seconds)
        print(f"{model}: measured on {len(cases)} captions", flush=True)
    results["words"] = words(world.images(10 * SIGNS, SEED))
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    from detectors_page import write

    write(results, RESULTS)


def captions(vlm: Any, scenes: Sequence[str]) -> tuple[list[Case], float]:
    """Greedy captions with all evidence, and seconds for one in a batch."""
    cases: list[Case] = []
    start = time.perf_counter()
    for first in range(0, len(scenes), BATCH):
        part = scenes[first : first + BATCH]
        requests: list[Request] = [
            asking(world.picture(scene), PROMPT, evidence="map", max_new_tokens=128)
            for scene in part
        ]
        for scene, request, answer in zip(part, requests, vlm.generate(requests), strict=True):
            marks = score_caption(answer.text, world.truth(scene).names, words_rules()).marks
            cases.append(Case(scene, answer, Asked(request, vlm.generate_each, vlm.name), marks))
    return cases, (time.perf_counter() - start) / len(scenes)


def fits(model: str, first: bool) -> Iterator[tuple[Fit, bool]]:
    """Which curves there are to fit, and whether on the first half of the scenes: the blend, which
    reads the others' scores, comes last and on the second. What looks at the picture alone is
    fitted on the first model's captions.
    """
    for cls in detectors:
        if cls.name != BLEND and hasattr(cls, "measure") and (cls.kind == "trace" or first):
            yield Fit(cls.name, PICTURE.get(cls.name, model)), True
    if BLEND in detectors.names():
        yield Fit(BLEND, model), False
        if first:
            yield Fit(BLEND, "picture", bare=True), False


def fit(one: Fit, cases: Sequence[Case]) -> None:
    """Puts one curve into the file that ships."""
    measuring: Any = detectors.get(one.detector)()
    rows, wrong = [], []
    for case in cases:
        answer = case.answer.model_copy(update={"tokens": ()}) if one.bare else case.answer
        for found in measuring.measure(answer, [world.picture(case.scene)], case.asked):
            truth = names_wrong(case, found.claim.start, found.claim.stop)
            if truth is not None:
                rows.append(found.features)
                wrong.append(truth)
    table = json.loads(CURVES.read_text()) if CURVES.is_file() else {}
    table.setdefault(one.detector, {})[one.name] = fitted(rows, wrong, one.name).model_dump()
    CURVES.write_text(json.dumps(table, indent=1) + "\n")
    logistic.curves.cache_clear()
    print(f"{one.detector} for {one.name}: fitted on {len(rows)} claims", flush=True)


def names_wrong(case: Case, start: int, stop: int) -> bool | None:
    """Whether the object named there is made up; none if CHAIR's rules see no object there."""
    for mark in case.marks:
        if mark.start < stop and start < mark.stop:
            return mark.wrong
    return None


def words(scenes: Sequence[str]) -> dict[str, Any]:
    """The reader's figures: of each printed word, and of another in its place."""
    signs = [(scene, sign.text) for scene in scenes for sign in world.truth(scene).prints][:SIGNS]
    others = [text for _, text in signs[1:]] + [text for _, text in signs[:1]]
    reader = detectors.get(READER).configured({"threshold": 0.0})
    scores, wrong, owner, start = [], [], [], time.perf_counter()
    for number, ((scene, text), other) in enumerate(zip(signs, others, strict=True)):
        for said in (text, other):
            (found,) = reader(stated(f"A sign says {said}."), [world.picture(scene)])
            scores.append(found.score)
            wrong.append(said != text)
            owner.append(number)
    spent = (time.perf_counter() - start) / len(signs)
    return figures(Run(np.array(scores), np.array(wrong), np.array(owner), spent), 1.0)


def forget() -> None:
    """Whatever detectors keep of pictures, so that each is timed for itself."""
    for cls in detectors:
        for kept in vars(sys.modules[cls.__module__]).values():
            if hasattr(kept, "cache_clear"):
                kept.cache_clear()


def measured(cases: Sequence[Case], seconds: float) -> dict[str, Any]:
    """Figures of every detector, and of the two free ones together."""
    runs = {
        cls.name: run(cls.configured({"threshold": 0.0}), cases)
        for cls in detectors
        if cls.name != READER
    }
    free = runs["attention"], runs["uncertainty"]
    odds = [np.log(one.scores.clip(1e-6, 1 - 1e-6) / (1 - one.scores).clip(1e-6)) for one in free]
    both = 1 / (1 + np.exp(-(odds[0] + odds[1]) / 2))
    runs[PAIR] = Run(both, free[0].wrong, free[0].owner, free[0].seconds + free[1].seconds)
    return {
        "captions": len(cases),
        "claims": len(free[0].scores),
        "wrong": float(free[0].wrong.mean()),
        "seconds_a_caption": seconds,
        "detectors": {name: figures(one, seconds) for name, one in runs.items()},
    }


def run(detector: Detector, cases: Sequence[Case]) -> Run:
    """One detector on all captions: its score of every named object."""
    scores, wrong, owner, spent = [], [], [], 0.0
    forget()
    if detector.kind == "picture":  # its models are loaded before
        detector(stated("A dog."), [world.picture("test-1")])
    for number, case in enumerate(cases):
        picture = world.picture(case.scene)
        start = time.perf_counter()
        findings = detector(case.answer, [picture], case.asked)
        spent += time.perf_counter() - start
        for one in findings:
            truth = names_wrong(case, one.start, one.stop)
            if truth is not None:
                scores.append(one.score)
                wrong.append(truth)
                owner.append(number)
    print(f"{detector.name}: {len(scores)} claims in {spent:.1f} s", flush=True)
    return Run(np.array(scores), np.array(wrong, bool), np.array(owner), spent / len(cases))


def figures(one: Run, seconds: float) -> dict[str, Any]:
    """What the page shows of a detector."""
    return {
        "claims": len(one.scores),
        "auroc": auroc(one.scores, one.wrong),
        "auroc_ci": interval(auroc, one.scores, one.wrong, one.owner),
        "aupr": aupr(one.scores, one.wrong),
        "at_half": at(0.5, one.scores, one.wrong),
        "cost": one.seconds / seconds,
        "reliability": reliability(one.scores, one.wrong),
    }


if __name__ == "__main__":
    main()
