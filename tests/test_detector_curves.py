"""Curves from measurements to probabilities: how they are fitted, kept and chosen, and what those
of numbers, colours and places are good for.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from halu import logistic, models
from halu.calibration import Source, detecting
from halu.calibration.cases import claimed, written
from halu.calibration.curve import auroc, fitted
from halu.calibration.statements import text, truth
from halu.claims import claims
from halu.detector import Detector, DetectorContext, detect, detectors, find, stated
from halu.errors import BadInput, Failed, Unsupported
from halu.grounding import Box
from halu.grounding.places import margin, named, opposite
from halu.labelling import Judge
from halu.logistic import Curve
from halu.scenes import NAMES, Scene, draw


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALU_CACHE", str(tmp_path / "cache"))


def every(name: str, **params: Any) -> Detector:
    return detectors.get(name).configured({"threshold": 0.0, **params})


def test_a_curve_has_the_least_loss_and_the_mean_of_the_truth() -> None:
    rng = np.random.default_rng(0)
    rows = [{"a": float(a), "b": float(b), "still": 1.0} for a, b in rng.normal(size=(300, 2))]
    wrong = [bool(rng.random() < 1 / (1 + np.exp(-2 * row["a"] + 1))) for row in rows]
    curve = fitted(rows, wrong, "somebody")
    assert (curve.fitted_for, curve.claims, set(curve.terms)) == ("somebody", 300, {"a", "b"})
    assert curve.terms["a"].weight > 5 * abs(curve.terms["b"].weight)

    def mean(of: Curve) -> float:
        return float(np.mean([of.probability(row) for row in rows]))

    def loss(of: Curve) -> float:
        p = np.array([of.probability(row) for row in rows])
        weights = sum(term.weight**2 for term in of.terms.values())
        return float(-np.log(np.where(wrong, p, 1 - p)).mean() + 1e-3 * weights)

    assert mean(curve) == pytest.approx(np.mean(wrong), abs=1e-4)
    for change in (-0.05, 0.05):
        assert loss(curve.model_copy(update={"bias": curve.bias + change})) > loss(curve)
        moved = {
            "a": curve.terms["a"].model_copy(update={"weight": curve.terms["a"].weight + change})
        }
        assert loss(curve.model_copy(update={"terms": {**curve.terms, **moved}})) > loss(curve)


def test_auroc_counts_pairs() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 5, 40).astype(float)
    wrong = rng.random(40) < 0.4
    pairs = [(a > b) + (a == b) / 2 for a in scores[wrong] for b in scores[~wrong]]
    assert auroc(scores, wrong) == pytest.approx(np.mean(pairs))
    assert np.isnan(auroc(scores, np.zeros(40, bool)))


def test_statements_know_what_is_true_of_a_scene() -> None:
    for seed in range(12):
        scene = draw(seed, "val")
        known = truth(scene)
        for name, count in scene.counts.items():
            plural = {"person": "people", "knife": "knives"}.get(name, name)
            (one,) = [c for c in claims(f"There are {count + 1} {plural}.") if c.kind == "count"]
            assert known(one) is True
        for one in claims("There is a red giraffe on the left. Two giraffes."):
            if "giraffe" not in scene.names:
                assert known(one) is None
    told = [known(one) for s in range(30) for known, said in [made(s)] for one in claims(said)]
    assert 0.3 < np.mean([one for one in told if one is not None]) < 0.7


def made(seed: int) -> tuple[Any, str]:
    import random

    scene = draw(seed, "val")
    return truth(scene), text(scene, random.Random(seed))


@pytest.mark.parametrize(
    ("boxes", "word", "others", "wanted"),
    [
        ([Box(0.0, 0.0, 0.2, 0.2)], "left", [], 0.3),
        ([Box(0.0, 0.0, 0.2, 0.2)], "right", [], -0.5),
        ([Box(0.0, 0.0, 0.2, 0.2), Box(0.8, 0.0, 1.0, 1.0)], "right", [], 0.3),
        ([Box(0.4, 0.0, 0.6, 0.2)], "middle", [], 0.1),
        ([Box(0.0, 0.0, 0.2, 0.2)], "top", [], 0.3),
        ([Box(0.0, 0.6, 0.2, 0.8)], "bottom", [Box(0.0, 0.0, 0.2, 0.2)], 0.6),
        ([Box(0.0, 0.6, 0.2, 0.8)], "left", [Box(0.4, 0.0, 0.6, 0.2)], 0.4),
    ],
)
def test_places_are_told_by_the_middles_of_boxes(
    boxes: list[Box], word: str, others: list[Box], wanted: float
) -> None:
    assert margin(boxes, word, others) == pytest.approx(wanted)
    assert opposite(opposite(word)) == word
    assert (margin(boxes[:1], named(boxes[0], word)) >= 0) is True


@pytest.mark.parametrize(
    ("name", "kind", "least"),
    [("objects", "count", 0.8), ("objects", "position", 0.95), ("clip", "color", 0.75)],
)
def test_numbers_colours_and_places_are_judged(name: str, kind: str, least: float) -> None:
    scores, wrong = [], []
    for case in claimed(draw(seed, "test") for seed in range(14 if name == "clip" else 30)):
        said = {(c.start, c.stop): c for c in claims(case.answer.text) if c.kind == kind}
        for one in every(name)(case.answer, case.images, DetectorContext()):
            made_up = (
                case.made_up(said[one.start, one.stop]) if one.evidence["kind"] == kind else None
            )
            if made_up is not None:
                scores.append(one.score)
                wrong.append(made_up)
    assert len(wrong) >= 10
    assert auroc(np.array(scores), np.array(wrong)) > least


def test_an_attribute_of_what_is_not_found_is_left_to_the_object() -> None:
    scene = draw(3, "test")
    judge, shown = every("objects"), [picture(scene)]
    gone = next(
        name
        for name in NAMES
        if (found := judge(stated(f"A {name}."), shown))
        and found[0].evidence["verdict"] == "hallucinated"
    )
    said = stated(f"Two {gone}s. A {gone} is on the left of a {gone}.")
    assert {one.evidence["kind"] for one in judge(said, shown)} == {"object"}


def test_blend_and_sentence_labels_weigh_objects_alone() -> None:
    scene = draw(3, "test")
    name = min(scene.names)
    text = f"There are nine red {name}s on the left."
    using = [every("objects"), every("clip")]
    found = find(stated(text), [picture(scene)], using)
    assert {one.evidence["kind"] for one in found} > {"object"}
    label = Judge(using, [picture(scene)], DetectorContext(), 0.5, 0.3)(text)
    objects = [one.score for one in found if one.evidence["kind"] == "object"]
    assert label.hallucinated == (max(objects) >= 0.5)
    blended = every("blend")(stated(text), [picture(scene)])
    assert [one.evidence["kind"] for one in blended] == ["object"]


# Curves of one's own


def picture(scene: Scene) -> Image.Image:
    return Image.fromarray(scene.image)


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures, each with two objects that are there and two that are not."""
    folder = tmp_path_factory.mktemp("captions")
    lines = []
    for number in range(8):
        scene = draw(number, "val", 112)
        picture(scene).save(folder / f"{number}.png")
        there, gone = sorted(scene.names)[:2], [n for n in NAMES if n not in scene.names][:2]
        said = " ".join(f"There is a {name}." for name in (*there, *gone))
        lines.append({"image": f"{number}.png", "text": said, "made_up": gone})
    file = folder / "captions.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_a_curve_of_ones_own_is_kept_and_goes_first(halu: Any, captions: Path) -> None:
    code, out, err = halu("calibrate", "tiny-llava", "objects", "--captions", captions, "--json")
    assert code == 0, err
    (told,) = json.loads(out)
    assert (told["detector"], told["kind"]) == ("objects", "object")
    assert told["curve"]["claims"] == 32
    assert told["auroc"] > 0.8
    file = Path(told["file"])
    assert Curve.model_validate_json(file.read_text()).model_dump() == told["curve"]
    swapped = {"bias": 3.0, "terms": {}}
    file.write_text(json.dumps({**told["curve"], **swapped}))
    (one,) = detect(captions.parent / "0.png", "A dog.", {"objects": {"threshold": 0.0}})
    assert one.score == pytest.approx(1 / (1 + np.exp(-3.0)))
    assert "guess" not in one.reason
    file.write_text("{")
    with pytest.raises(Failed, match="is damaged"):
        detect(captions.parent / "0.png", "A dog.", ["objects"])


def test_a_folder_is_the_same_model_by_any_path(
    halu: Any, captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(Path(models.__file__).parent / "tiny-clip", tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert logistic.place("clip", "mine") == logistic.place("clip", str(tmp_path / "mine"))
    assert logistic.place("clip", "mine") != logistic.place("clip", "other")
    given = ("clip:weights=mine", "--captions", captions, "--json")
    code, out, err = halu("calibrate", "tiny-llava", *given)
    assert code == 0, err
    (told,) = json.loads(out)
    assert told["curve"]["fitted_for"] == str(tmp_path / "mine")
    for weights in ("mine", "./mine", str(tmp_path / "mine")):
        own = {"clip": {"threshold": 0.0, "weights": weights}}
        (one,) = detect(captions.parent / "0.png", "A dog.", own)
        assert one.evidence["fitted_for"] == str(tmp_path / "mine")
        assert "guess" not in one.reason


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"image": "0.png", "text": "A dog."}, "made_up"),
        ({"image": "0.png", "text": "A dog.", "made_up": "dog"}, "made_up"),
        ({"image": "0.png", "text": "A dog.", "made_up": ["do"]}, "'do' is not in the text"),
        ({"image": "0.png", "made_up": []}, "'text'"),
        ({"text": "A dog.", "made_up": []}, "'image'"),
        ({"image": "gone.png", "text": "A dog.", "made_up": []}, "gone.png"),
    ],
)
def test_wrong_lines_are_named(
    line: dict[str, Any], message: str, tmp_path: Path, halu: Any
) -> None:
    picture(draw(0, "val")).save(tmp_path / "0.png")
    (tmp_path / "c.jsonl").write_text(json.dumps(line))
    code, _, err = halu("calibrate", "tiny-llava", "clip", "--captions", tmp_path / "c.jsonl")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "source", "error"),
    [
        ("attention", {"captions": Path("c.jsonl")}, Unsupported),
        ("clip", {"data": Path()}, BadInput),
        ("clip", {"images": Path()}, BadInput),
        ("clip", {"annotations": Path("i.json")}, BadInput),
        ("clip", {"annotations": Path("i.json"), "captions": Path("c.jsonl")}, BadInput),
        ("clip", {"n": 0}, BadInput),
    ],
)
def test_options_that_do_not_fit(name: str, source: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        detecting.check(every(name), Source(**source))


def test_what_has_no_curve_is_not_calibrated(halu: Any) -> None:
    code, _, err = halu("calibrate", "tiny-llava", "ocr")
    assert code == 2
    assert "nothing to calibrate" in err
    assert "clip" in err


def test_too_few_claims_make_no_curve(captions: Path) -> None:
    with pytest.raises(Failed, match="10 of each"):
        detecting.fit(every("objects"), written(captions, None, 2))


def test_a_detector_of_detectors_gets_other_pictures(captions: Path) -> None:
    def never() -> Any:
        pytest.fail("no model is needed")

    given = Source(n=5, captions=captions)
    told = list(detecting.cases(every("blend"), given, never, lambda a, b: None))
    assert [case.answer for case in told] == [
        case.answer for case in written(captions, None, 8)[5:]
    ]
    with pytest.raises(BadInput, match="All 8"):
        list(detecting.cases(every("blend"), Source(n=8, captions=captions), never, print))


@pytest.mark.slow
def test_the_trace_is_calibrated_on_the_models_own_captions(halu: Any) -> None:
    code, out, err = halu("calibrate", "tiny-llava", "uncertainty", "--n", 40)
    assert code == 0, err
    assert "uncertainty for tiny-llava, object claims" in out
    assert logistic.place("uncertainty", "tiny-llava").is_file()
