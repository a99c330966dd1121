"""Detectors on the built-in world: fits their curves, then measures them on other scenes.

    python benchmarks/detectors.py [-m MODEL]... [--fit N] [--scenes N]

Captions of drawn scenes are read by CHAIR's rules, which say of each named object whether it is
there. Curves are fitted on half of the `--fit` scenes of the split "val", the blend on the other
half, and everything is measured on `--scenes` scenes of the split "test". Numbers, colours and
places are fitted and measured on statements about the same scenes, half of them false. Writes
detectors/calibration.json, docs/results/detectors.json and its page and picture.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from curves import at, aupr, interval, reliability

import halu
from halu import logistic
from halu.calibration import detecting
from halu.calibration.cases import Case, captioned, claimed
from halu.calibration.curve import auroc
from halu.calibration.labelled import Known
from halu.claims import ATTRIBUTES, claims
from halu.detector import detectors, stated
from halu.eval import world
from halu.types import Finding

ROOT = Path(__file__).resolve().parent.parent
CURVES = ROOT / "detectors" / logistic.FILE
RESULTS = ROOT / "docs" / "results" / "detectors.json"
FIT_SPLIT: Final = "val"
SEED = 0
SIZE = 224
BLEND, PAIR = "blend", "attention + uncertainty"
PARTS = "attention", "uncertainty", "clip", "objects"
READER, SIGNS = "ocr", 40
"""Judges quoted words, not objects; of this many pictures."""


@dataclass(frozen=True, slots=True)
class Run:
    """Scores of claims: of which case each is, whether it is wrong; processor seconds a case."""

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
    paces = []
    for model in models:
        vlm = halu.load(model)
        if asked.fit:
            fit_all(vlm, world.images(asked.fit, SEED, FIT_SPLIT), first=model == models[0])
        cases, seconds = captions(vlm, world.images(asked.scenes, SEED))
        results["models"][model] = measured(cases, seconds)
        paces.append(seconds)
        print(f"{model}: measured on {len(cases)} captions", flush=True)
    results["attributes"] = attributes(world.images(asked.scenes, SEED))
    results["words"] = words(world.images(10 * SIGNS, SEED), paces[0])
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    from detectors_page import write

    write(results, RESULTS)


def captions(vlm: Any, scenes: Sequence[str]) -> tuple[list[Case], float]:
    """Greedy captions with all evidence, and processor seconds for one in a batch."""
    known = [Known(world.picture(scene), world.truth(scene).names) for scene in scenes]
    start = time.process_time()
    cases = list(captioned(vlm, known, lambda done, total: None))
    return cases, (time.process_time() - start) / len(scenes)


def statements(scenes: Sequence[str]) -> list[Case]:
    """Of numbers, colours and places."""
    return list(claimed(world.scene(scene, SIZE) for scene in scenes))


def fit_all(vlm: Any, scenes: Sequence[str], first: bool) -> None:
    """Every curve; what looks at the picture alone is fitted on the first model's captions. The
    blend, which reads the others' scores, comes last and on other scenes.
    """
    seen, _ = captions(vlm, scenes)
    half = len(seen) // 2
    parts = [name for name in detecting.calibrated() if name != BLEND]
    looking = [name for name in parts if detectors.get(name).kind == "picture"] if first else []
    for name in parts:
        if name in looking or detectors.get(name).kind == "trace":
            fit(name, seen[:half])
    for name in looking:
        fit(name, statements(scenes[:half]))
    fit(BLEND, seen[half:])
    if first:
        fit(BLEND, [bare(case) for case in seen[half:]])


def bare(case: Case) -> Case:
    """The case without what is known of the answer's tokens."""
    return Case(case.images, stated(case.answer.text), case.asked, case.made_up)


def fit(name: str, cases: Sequence[Case]) -> None:
    """Puts curves into the file that ships."""
    for kind, (curve, ranks) in detecting.fit(detectors.get(name)(), cases).items():
        table = json.loads(CURVES.read_text()) if CURVES.is_file() else {}
        key = f"{name} {kind}" if kind in ATTRIBUTES else name
        table.setdefault(key, {})[curve.fitted_for] = curve.model_dump()
        CURVES.write_text(json.dumps(table, indent=1) + "\n")
        logistic.curves.cache_clear()
        print(f"{key} for {curve.fitted_for}: {curve.claims} claims, {ranks:.3f}", flush=True)


def made_up(case: Case, finding: Finding) -> bool | None:
    """Whether the claim that is found is made up; none if nobody knows."""
    place = (finding.start, finding.stop, finding.evidence["kind"])
    said = claims(case.answer.text, case.asked.question)
    return next(
        (case.made_up(one) for one in said if (one.start, one.stop, one.kind) == place), None
    )


def words(scenes: Sequence[str], pace: float) -> dict[str, Any]:
    """The reader's figures: of each printed word, and of another in its place. `pace` is what its
    time is told in: processor seconds of a caption.
    """
    signs = [(scene, sign.text) for scene in scenes for sign in world.truth(scene).prints][:SIGNS]
    pictures = [world.picture(scene) for scene, _ in signs]
    others = [text for _, text in signs[1:]] + [text for _, text in signs[:1]]
    reader = detectors.get(READER).configured({"threshold": 0.0})
    reader(stated("A sign says A."), [world.picture("val-0")])  # its models are loaded before
    scores, wrong, owner, start = [], [], [], time.process_time()
    for number, ((_, text), picture, other) in enumerate(zip(signs, pictures, others, strict=True)):
        for said in (text, other):
            (found,) = reader(stated(f"A sign says {said}."), [picture])
            scores.append(found.score)
            wrong.append(said != text)
            owner.append(number)
    spent = (time.process_time() - start) / len(signs)
    return figures(Run(np.array(scores), np.array(wrong), np.array(owner), spent), pace)


def measured(cases: Sequence[Case], seconds: float) -> dict[str, Any]:
    """Figures of every detector, and of the two free ones together."""
    runs = {name: one["object"] for name, one in run(names(), cases).items()}
    free = runs["attention"], runs["uncertainty"]
    odds = [np.log(one.scores.clip(1e-6, 1 - 1e-6) / (1 - one.scores).clip(1e-6)) for one in free]
    both = 1 / (1 + np.exp(-(odds[0] + odds[1]) / 2))
    runs[PAIR] = Run(both, free[0].wrong, free[0].owner, free[0].seconds + free[1].seconds)
    return {
        "captions": len(cases),
        "claims": len(free[0].scores),
        "wrong": float(free[0].wrong.mean()),
        "detectors": {name: figures(one, seconds) for name, one in runs.items()},
    }


def attributes(scenes: Sequence[str]) -> dict[str, Any]:
    """Figures of the kinds of claims that have curves of their own."""
    curves = [name.split() for name in logistic.curves() if " " in name]
    runs = run(sorted({name for name, _ in curves}), statements(scenes))
    return {f"{name} {kind}": figures(runs[name][kind], 1.0) for name, kind in curves}


def names() -> list[str]:
    """Detectors of objects, the blend after its parts."""
    return sorted((cls.name for cls in detectors if cls.name != READER), key=lambda n: n == BLEND)


def run(using: Sequence[str], cases: Sequence[Case]) -> dict[str, dict[str, Run]]:
    """Detectors on all cases, by name and kind of claim: scores of every claim. Of a picture that
    the blend's parts have seen it computes nothing again; its time is theirs and its own.
    """
    rows: dict[tuple[str, str], list[tuple[float, bool, int]]] = {}
    spent = dict.fromkeys(using, 0.0)
    every = {name: detectors.get(name).configured({"threshold": 0.0}) for name in using}
    for detector in every.values():
        if detector.kind == "picture":  # its models are loaded before
            detector(stated("A dog."), [world.picture("test-0")])
    for number, case in enumerate(cases):
        for name, detector in every.items():
            start = time.process_time()
            findings = detector(case.answer, case.images, case.asked)
            spent[name] += time.process_time() - start
            for one in findings:
                truth = made_up(case, one)
                if truth is not None:
                    kept = rows.setdefault((name, str(one.evidence["kind"])), [])
                    kept.append((one.score, truth, number))
    if BLEND in spent:
        spent[BLEND] += sum(spent[part] for part in PARTS if part in spent)
    found: dict[str, dict[str, Run]] = {name: {} for name in using}
    for (name, kind), own in rows.items():
        scores, wrong, owner = map(np.array, zip(*own, strict=True))
        found[name][kind] = Run(scores, wrong, owner, spent[name] / len(cases))
        print(f"{name} {kind}: {len(own)} claims", flush=True)
    return found


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
