"""What every registered detector owes its users, and what single ones find."""

import html
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import halu
from halu import models
from halu.claims import claims
from halu.claims.vocabulary import plural
from halu.detector import Detector, DetectorContext, chosen, detect, detectors, find, stated
from halu.errors import BadImage, BadInput, Unavailable, Unknown, Unsupported
from halu.examining import prepared
from halu.grounding import Box, Sighting
from halu.labelling import Judge
from halu.scenes import draw
from halu.types import Answer, Finding, Request
from halu.vlm import VLM, asking

NAMES = detectors.names()
PICTURE = [name for name in NAMES if detectors.get(name).kind == "picture"]
TRACE = [name for name in NAMES if detectors.get(name).kind == "trace"]
PROMPT = "Please describe this image in detail."

on_each = pytest.mark.parametrize("name", NAMES)


def every(name: str) -> Detector:
    """The detector, telling whatever it measures."""
    return detectors.get(name).configured({"threshold": 0.0})


@pytest.fixture(scope="module")
def scene() -> Image.Image:
    return Image.fromarray(draw(3, "test").image)


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return halu.load("tiny-llava")


@pytest.fixture(scope="module")
def told(vlm: VLM, scene: Image.Image) -> tuple[Answer, DetectorContext]:
    """A caption with its evidence."""
    request = asking(scene, PROMPT, evidence="map", max_new_tokens=60)
    (answer,) = vlm.generate([request])
    return answer, DetectorContext(request, vlm.generate_each, vlm.name)


@on_each
def test_findings_lie_in_the_text_and_explain_themselves(
    name: str, told: Any, scene: Image.Image
) -> None:
    answer, asked = told
    found = every(name)(answer, [scene], asked)
    if name != "ocr":
        assert found
    for one in found:
        assert 0 <= one.start < one.stop <= len(answer.text)
        assert answer.text[one.start : one.stop].strip()
        assert 0 <= one.score <= 1
        assert one.detector == name
        assert len(one.reason) > 20
        assert one.evidence
        assert Finding.model_validate_json(one.model_dump_json()) == one
    assert found == every(name)(answer, [scene], asked)
    kept = detectors.get(name).configured({"threshold": 0.6})(answer, [scene], asked)
    assert kept == [one for one in found if one.score >= 0.6]


@on_each
@pytest.mark.parametrize("text", ["", " \n", "It is a sunny day.", "一只狗", "Der Hund ist da."])
def test_silence_where_nothing_is_claimed(
    name: str, text: str, told: Any, scene: Image.Image
) -> None:
    assert every(name)(stated(text), [scene], told[1]) == []


@on_each
def test_parameters_are_bounded_and_described(name: str) -> None:
    cls = detectors.get(name)
    assert cls.name == name
    for key, schema in cls.Params.model_json_schema()["properties"].items():
        assert schema.get("description"), key
    with pytest.raises(Unknown, match="threshold"):
        cls.configured({"treshold": 0.1})
    with pytest.raises(BadInput, match="threshold=2"):
        cls.configured({"threshold": 2})


@pytest.mark.parametrize("name", PICTURE)
def test_ten_thousand_words(name: str, scene: Image.Image) -> None:
    text = "There is a dog near two cars on the left. " * 1000
    text += 'A sign says "EXIT". '
    start = time.perf_counter()
    found = every(name)(stated(text), [scene], DetectorContext())
    assert time.perf_counter() - start < 60  # other work may share the core
    assert found
    assert all(one.stop <= len(text) for one in found)


@pytest.mark.parametrize("name", PICTURE)
def test_a_picture_is_needed(name: str) -> None:
    with pytest.raises(Unsupported, match=f"{name}.*picture"):
        every(name)(stated("A dog."), [], DetectorContext())


@pytest.mark.parametrize("name", TRACE)
def test_evidence_is_needed(name: str, scene: Image.Image) -> None:
    with pytest.raises(Unsupported, match=f"{name}.*token"):
        every(name)(stated("A dog."), [scene], DetectorContext())


def test_the_order_of_detectors_plays_no_part(told: Any, scene: Image.Image) -> None:
    answer, asked = told
    using = {name: {"threshold": 0.0} for name in NAMES}
    backwards = dict(reversed(using.items()))
    one, other = (find(answer, [scene], chosen(own), asked) for own in (using, backwards))
    assert one == other
    assert {finding.detector for finding in one} >= {*NAMES} - {"ocr"}


def test_detectors_are_chosen_by_name() -> None:
    assert [one.name for one in chosen(["clip", "attention"])] == ["clip", "attention"]
    (clip,) = chosen({"clip": {"threshold": 0.2}})
    assert clip.params.threshold == 0.2
    assert chosen([clip]) == (clip,)
    for wrong, error in ((["clp"], Unknown), (["clip", "clip"], BadInput), ("clip", BadInput)):
        with pytest.raises(error):
            chosen(wrong)


def test_evidence_is_asked_for_where_it_is_read(vlm: VLM, scene: Image.Image) -> None:
    request: Request = asking(scene, PROMPT)
    assert prepared(request, chosen(["clip"])) is request
    assert prepared(request, chosen(["attention"])).evidence == "map"
    assert prepared(request, chosen(["blend"])).evidence == "map"


def test_the_blend_reads_the_trace_where_there_is_one(vlm: VLM, scene: Image.Image) -> None:
    blend = {"blend": {"threshold": 0.0}}
    asked = vlm.ask(scene, PROMPT, detectors=blend, max_new_tokens=40).findings
    assert asked
    assert all({"attention", "uncertainty", "clip", "objects"} <= {*one.evidence} for one in asked)
    read = detect(scene, "A dog.", blend)
    assert [one.evidence.get("attention") for one in read] == [None]


def test_what_the_blends_parts_look_with_is_passed_on(scene: Image.Image, tmp_path: Path) -> None:
    shutil.copytree(Path(models.__file__).parent / "tiny-clip", tmp_path / "mine")
    text = "A dog and a giraffe."
    same = {"threshold": 0.0, "weights": str(tmp_path / "mine")}
    for one, other in zip(
        detect(scene, text, {"blend": same}),
        detect(scene, text, {"blend": {"threshold": 0.0}}),
        strict=True,
    ):
        assert one.evidence["clip"] == pytest.approx(other.evidence["clip"])
        assert one.score == pytest.approx(other.score)
        assert "fitted for picture, not for this model" in one.reason
        assert "fitted for" not in other.reason
    refused = [({"weights": str(tmp_path)}, BadInput), ({"dino": "x"}, BadInput)]
    for params, error in [*refused, ({"finders": "open", "dino": "./gone"}, Unavailable)]:
        with pytest.raises(error, match=r"open_clip_config|finders=open|gone"):
            detect(scene, text, {"blend": params})


def test_a_search_that_takes_tokens_back_has_no_evidence(scene: Image.Image) -> None:
    for strategy in ("sentinel", "woodpecker", "beam"):
        request = asking(scene, PROMPT, strategy=strategy)
        with pytest.raises(Unsupported, match=f"'attention'.*'{strategy}'") as refused:
            prepared(request, chosen(["blend", "attention"]))
        assert "clip" in str(refused.value.hint)
        assert prepared(request, chosen(["blend", "clip"])) is request
    plain = asking(scene, PROMPT)
    assert prepared(plain, chosen(["blend"]), told=False) is plain
    with pytest.raises(Unsupported, match=r"'attention'.*this backend does not"):
        prepared(plain, chosen(["clip", "attention"]), told=False)


def test_strategies_that_take_tokens_back_say_so(vlm: VLM, scene: Image.Image) -> None:
    from halu.strategy import strategies

    for cls in strategies:
        if cls.takes_back:
            with pytest.raises(Unsupported, match="take tokens back"):
                vlm.ask(scene, "What?", strategy=cls.name, evidence="map", max_new_tokens=2)
    assert [cls.name for cls in strategies if cls.kind == "control" and not cls.takes_back] == []


def test_a_curve_of_another_model_says_so(told: Any, scene: Image.Image) -> None:
    answer, asked = told
    other = DetectorContext(asked.request, asked.generate, "llava-1.5-7b")
    for name in ("attention", "uncertainty", "blend"):
        for one in every(name)(answer, [scene], other):
            assert "fitted for tiny-llava, not for this model" in one.reason
        assert all("fitted for" not in one.reason for one in every(name)(answer, [scene], asked))


def test_weights_that_would_not_be_used_are_refused() -> None:
    for key in ("dino", "owl"):
        with pytest.raises(BadInput, match=f"{key}='x'.*finders=open"):
            detectors.get("objects").configured({key: "x"})
        assert detectors.get("objects").configured({"finders": "open", key: "x"})


def test_an_answer_carries_its_findings(vlm: VLM, scene: Image.Image) -> None:
    own = {name: {"threshold": 0.0} for name in TRACE}
    answer = vlm.ask(scene, PROMPT, detectors=own, max_new_tokens=40)
    plain = vlm.ask(scene, PROMPT, max_new_tokens=40)
    assert answer.text == plain.text
    assert plain.findings == ()
    assert {one.detector for one in answer.findings} == set(TRACE)


def test_clip_doubts_what_is_not_there() -> None:
    ranks = []
    for seed in range(8):
        shown = draw(seed, "test")
        image = Image.fromarray(shown.image)
        real = shown.things[0].name
        made_up = next(name for name in ("giraffe", "toilet", "pizza") if name not in shown.names)
        text = f"A {real}. A {made_up}."
        own = detect(image, text, {"clip": {"threshold": 0.0}})
        scores = {text[one.start : one.stop]: one.score for one in own}
        ranks.append(scores[made_up] > scores[real])
    assert sum(ranks) >= 7


@pytest.mark.parametrize("image", [b"", b"no picture", "nowhere.png", Image.new("RGB", (2, 2))])
def test_bad_pictures(image: Any) -> None:
    with pytest.raises(BadImage):
        detect(image, "A dog.")


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, scene: Image.Image) -> None:
    from halu.grounding import open_matcher

    open_matcher.cache_clear()
    monkeypatch.delitem(sys.modules, "halu.grounding.clip", raising=False)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    other = Image.new("RGB", (30, 30), "green")
    with pytest.raises(Unavailable, match=r"\[clip\]"):
        detect(other, "A dog.", ["clip"])
    open_matcher.cache_clear()


def test_a_missing_reader_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from halu.detectors import ocr

    ocr._reader.cache_clear()
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(Unavailable, match=r"ocr.*\[ocr\]"):
        detect(Image.new("RGB", (40, 40), "red"), 'A sign says "OPEN".', ["ocr"])
    ocr._reader.cache_clear()


def test_ocr_knows_printed_words_from_others() -> None:
    shown = next(s for s in (draw(seed, "test", 224) for seed in range(20)) if s.prints)
    text = f"A sign says {shown.prints[0].text}. Another says CLOSED."
    found = detect(Image.fromarray(shown.image), text, {"ocr": {"threshold": 0.0}})
    right, wrong = found
    assert (right.score, text[wrong.start : wrong.stop]) == (0.0, "CLOSED")
    assert wrong.score > 0.5
    assert right.evidence["read"]


@pytest.mark.parametrize(
    ("text", "lines", "read"),
    [
        ("OPEN", ["open"], True),
        ("OPEN", ["REOPENED"], False),
        ("cat", ["CATALOG"], False),
        ("NO ENTRY", ["please", "NOENTRY"], True),
        ("no entry", ["NO", "ENTRY"], True),
        ("there", ["the", "re"], False),
        ("23", ["123"], False),
        ("23", ["number 23"], True),
        ("7:30", ["at 7:30"], True),
        ("730", ["7", "30"], False),
        ("Route 66", ["ROUTE 68"], False),
        ("Route 66", ["Route 66 North"], True),
    ],
)
def test_ocr_matches_whole_words_and_exact_numbers(text: str, lines: list[str], read: bool) -> None:
    from halu.detectors.ocr import Line, likest

    share, best = likest(text, [Line(line, [0, 0, 1, 1], 1.0) for line in lines])
    assert best is not None
    assert (share == 1.0) is read
    assert read or share < 0.85
    assert not text.isdecimal() or share in (0, 1)


def test_ocr_forgives_a_letter_misread() -> None:
    from halu.detectors.ocr import Line, likest

    share, _ = likest("PARKING", [Line("no PARKlNG at any time", [0, 0, 1, 1], 1.0)])
    assert 0.8 < share < 1


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (7, 6)])
def test_a_finding_runs_forward(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match=r"begins|greater"):
        Finding(start=start, stop=stop, score=0.5, reason="x", detector="y")


def test_objects_has_a_verdict_of_two_finders() -> None:
    shown = draw(5, "test")
    real = max(shown.things, key=lambda one: one.box[2] - one.box[0]).name
    made_up = next(name for name in ("giraffe", "toilet", "pizza") if name not in shown.names)
    text = f"A {real}. A {made_up}. A hair drier."
    image = Image.fromarray(shown.image)
    found = detect(image, text, {"objects": {"threshold": 0.0}})
    told = {text[one.start : one.stop]: one for one in found}
    assert set(told) == {real, made_up}  # hair driers are not known here
    assert told[real].evidence["verdict"] == "real"
    assert told[made_up].evidence["verdict"] == "hallucinated"
    assert told[made_up].score > 0.5 > told[real].score
    assert told[real].evidence["boxes"]
    missed = detect(image, text, {"objects": {"threshold": 0.0, "missed_by": "both"}})
    assert [text[one.start : one.stop] for one in missed] == [made_up]


def seen_in(seed: int) -> tuple[Image.Image, str, str]:
    """A scene's picture, its widest object, and one that it lacks."""
    shown = draw(seed, "test")
    real = max(shown.things, key=lambda one: one.box[2] - one.box[0]).name
    made_up = next(name for name in ("giraffe", "toilet", "pizza") if name not in shown.names)
    return Image.fromarray(shown.image), real, made_up


@pytest.mark.parametrize(
    ("number", "judged"),
    [("999999", True), ("1000000", False), ("99999999999999999999", False), ("9" * 5000, False)],
)
def test_a_number_that_no_picture_shows_is_not_compared(number: str, judged: bool) -> None:
    image, real, _ = seen_in(5)
    text = f"{number} {plural(real)}."
    assert [one.kind for one in claims(text)] == ["count", "object"]
    found = detect(image, text, {"objects": {"threshold": 0.0}})
    assert [one.evidence["kind"] for one in found] == ["count"] * judged + ["object"]


def test_finders_look_for_an_object_of_a_picture_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from halu.grounding import spotted

    asked: list[tuple[str, ...]] = []

    class Looking:
        def spot(self, image: Image.Image, phrases: list[str], least: float) -> list[Any]:
            asked.append(tuple(phrases))
            return [[Sighting(Box(0, 0, 1, 1), 0.9)] for _ in phrases]

    spotted._kept.cache_clear()
    monkeypatch.setattr(spotted, "open_finder", lambda weights, kind: Looking())
    image, other = Image.new("RGB", (40, 40), "red"), Image.new("RGB", (40, 40), "blue")
    judge = Judge([every("objects")], [image], DetectorContext(), 0.5, 0.3)
    judge("There is a dog.")
    assert asked == [("dog",)] * 2  # each of the two finders
    judge("The dog sleeps on the left.")
    assert len(asked) == 2
    judge("A cat is to the right of the dog.")
    assert asked[2:] == [("cat",)] * 2
    labels = [judge(text) for text in ("Two dogs and a cat.", "A cat.")]
    assert len(asked) == 4
    assert [one.names for one in labels] == [{"dog", "cat"}, {"cat"}]
    detect(other, "A dog.", ["objects"])
    assert asked[4:] == [("dog",)] * 2
    monkeypatch.setattr(spotted, "MOST", 2)
    assert len(detect(image, "A cup, a dog and a bed.", {"objects": {"threshold": 0.0}})) == 3
    assert asked[6:] == [("cup", "bed")] * 2
    detect(image, "A dog.", ["objects"])
    assert asked[8:] == [("dog",)] * 2  # no more than so many are kept
    spotted._kept.cache_clear()


def test_clip_knows_two_spellings_of_gray(scene: Image.Image) -> None:
    clip = {"clip": {"threshold": 0.0}}
    one, other = (detect(scene, f"A {shade} bird.", clip)[0] for shade in ("gray", "grey"))
    assert one.evidence["kind"] == other.evidence["kind"] == "color"
    assert (one.score, one.evidence) == (other.score, other.evidence)
    others = [detect(scene, f"A {shade} bird.", clip)[0].evidence for shade in clip_colors()]
    assert sum(shown["instead"] is None for shown in others) == 1


def clip_colors() -> tuple[str, ...]:
    from halu.detectors.clip import COLORS

    return COLORS


def test_clip_has_no_opinion_on_colours_that_it_does_not_compare(scene: Image.Image) -> None:
    from halu.claims.vocabulary import COLORS

    strange = sorted(COLORS - {*clip_colors(), "grey"})
    assert {"golden", "silver", "tan"} <= {*strange}
    for shade in strange:
        text = f"A {shade} bird."
        assert {one.kind for one in claims(text)} == {"color", "object"}
        (found,) = detect(scene, text, {"clip": {"threshold": 0.0}})
        assert found.evidence["kind"] == "object"


def test_clip_compares_an_object_with_others_alone() -> None:
    better = []
    for seed in range(8):
        image, real, _ = seen_in(seed)
        (one,) = detect(image, f"A {real}.", {"clip": {"threshold": 0.0}})
        assert one.evidence["others"] == 79
        assert f"{one.evidence['better']} of 79 other everyday objects" in one.reason
        better.append(one.evidence["better"])
    assert min(better) == 0
    own = {"clip": {"threshold": 0.0, "vocabulary": "open"}}
    (one,) = detect(image, "A lantern.", own)
    assert one.evidence["others"] == 80


def test_consistency_needs_a_model(scene: Image.Image) -> None:
    with pytest.raises(Unsupported, match="asks the model again"):
        detect(scene, "A dog.", ["consistency"])


def test_consistency_counts_the_answers_that_are_silent(scene: Image.Image) -> None:
    others = iter(["A cat.", "A dog and a cat.", "A dog.", "A zebra."])

    def generate(requests: list[Request]) -> Any:
        assert all(one.sampling.temperature == 1.0 for one in requests)
        assert len({one.sampling.seed for one in requests}) == len(requests)
        return ((number, stated(next(others))) for number in range(len(requests)))

    own = detectors.get("consistency").configured({"samples": 4, "threshold": 0.0})
    request = asking(scene, PROMPT)
    found = own(stated("A dog and a cup."), [scene], DetectorContext(request, generate))
    assert [one.score for one in found] == [0.5, 1.0]


# The command line


def test_detect_prints_findings_or_json(halu: Any, tmp_path: Any, scene: Image.Image) -> None:
    path = tmp_path / "scene.png"
    scene.save(path)
    text = "A giraffe and a toilet."
    code, out, err = halu("detect", path, text, "-d", "clip:threshold=0", "--json")
    document = json.loads(out)
    assert (code, err, document["text"]) == (0, "", text)
    assert [text[one["start"] : one["stop"]] for one in document["findings"]] == [
        "giraffe",
        "toilet",
    ]
    code, out, _ = halu("detect", path, text, "-d", "clip:threshold=0")
    assert (code, out.count("\n")) == (0, 2)
    code, out, _ = halu("detect", path, "")
    assert (code, out) == (0, "No findings.\n")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("-d", "clp"), "Did you mean clip"),
        (("-d", "clip", "-d", "clip"), "twice"),
        (("-d", "clip:threshold=2"), "threshold=2"),
        (("-d", "attention"), "halu ask -d attention"),
        (("-d", "uncertainty"), "halu ask -d uncertainty"),
        (("-d", "consistency"), "consistency"),
        (("-d", "clip:threshold"), "'threshold' is not KEY=VALUE. Write clip:KEY=VALUE."),
        (("-d", "objects:dino=here"), "dino='here': it is used with finders=open alone"),
        (("-d", "clip:weights=nothing"), "a folder, a hub id, MODEL:TAG or MODEL:FILE"),
    ],
)
def test_wrong_calls_are_one_line(
    args: tuple[str, ...], says: str, halu: Any, tmp_path: Any, scene: Image.Image
) -> None:
    path = tmp_path / "scene.png"
    scene.save(path)
    code, out, err = halu("detect", path, "A dog.", *args)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("objects:finders=open:dino=./gone", "'./gone' cannot be loaded. There is no such folder"),
        ("objects:finders=open:dino=some/finder", "'hf download some/finder' fetches them"),
        ("clip:weights=some/clip", "'hf download some/clip' fetches them"),
        ("clip:weights=ViT-B-99:openai", "'ViT-B-99:openai' cannot be loaded. Model config for"),
    ],
)
def test_weights_that_are_not_here_are_one_line(
    name: str,
    says: str,
    halu: Any,
    tmp_path: Any,
    scene: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    scene.save("scene.png")
    code, out, err = halu("detect", "scene.png", "A dog.", "-d", name)
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1
    assert "value error" not in err.lower()


@pytest.mark.parametrize("text", ["", " ", "It is a sunny day.", "一只狗", "Der Hund ist da."])
def test_detect_prints_nothing_found_where_nothing_is_claimed(
    text: str, halu: Any, tmp_path: Any, scene: Image.Image
) -> None:
    path = tmp_path / "scene.png"
    scene.save(path)
    assert halu("detect", path, text, "-d", "objects") == (0, "No findings.\n", "")


def test_detect_reads_ten_thousand_words(halu: Any, tmp_path: Any, scene: Image.Image) -> None:
    path = tmp_path / "scene.png"
    scene.save(path)
    text = "There is a dog near two cars on the left. " * 1000
    code, out, err = halu("detect", path, text, "-d", "objects:threshold=0", "--json")
    assert (code, err) == (0, "")
    assert len(json.loads(out)["findings"]) >= 2000


@pytest.mark.parametrize("content", [None, b"", b"no picture"])
def test_detect_refuses_bad_pictures_in_one_line(
    content: bytes | None, halu: Any, tmp_path: Any
) -> None:
    path = tmp_path / "scene.png"
    if content is not None:
        path.write_bytes(content)
    code, out, err = halu("detect", path, "A dog.")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


def test_no_progress_bars(tmp_path: Any, scene: Image.Image) -> None:
    path = tmp_path / "scene.png"
    scene.save(path)
    command = [sys.executable, "-m", "halu", "detect", str(path), "A dog.", "-d", "objects"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_ask_shows_what_a_strategy_changed(halu: Any, tmp_path: Any, scene: Image.Image) -> None:
    path = tmp_path / "scene.png"
    scene.save(path)
    own = ("-s", "woodpecker", "-p", "threshold=0.05", "-p", 'detectors=["clip"]')
    code, out, _ = halu("ask", path, PROMPT, *own, "--max-new-tokens", 60)
    assert code == 0
    assert "woodpecker: " in out
    code, _, err = halu("ask", path, PROMPT, "-s", "sentinel", "-d", "attention", "-m", "nowhere")
    assert code == 2
    assert "'attention'" in err


def test_list_names_every_detector(halu: Any) -> None:
    code, out, _ = halu("list", "detectors", "--json")
    assert code == 0
    assert [one["name"] for one in json.loads(out)] == NAMES


def test_ask_with_detectors_shows_and_traces(
    halu: Any, vlm: VLM, tmp_path: Any, scene: Image.Image
) -> None:
    path, page = tmp_path / "scene.png", tmp_path / "trace.html"
    scene.save(path)
    own = ("-d", "uncertainty:threshold=0", "--max-new-tokens", 30)
    code, out, _ = halu("ask", path, PROMPT, *own, "--trace", page)
    assert code == 0
    assert "uncertainty: The model gave" in out
    same = vlm.ask(scene, PROMPT, detectors={"uncertainty": {"threshold": 0.0}}, max_new_tokens=30)
    doubted, others = [], []
    for word in re.finditer(r"\S+", same.text):
        hit = any(one.start < word.end() and word.start() < one.stop for one in same.findings)
        (doubted if hit else others).append(word[0])
    buttons = re.findall(r"<button type=\"button\"([^>]*)>([^<]*)</button>", page.read_text())
    marked, plain = (
        [html.unescape(text) for kind, text in buttons if ('class="doubted"' in kind) is doubt]
        for doubt in (True, False)
    )
    assert (marked, plain) == (doubted, others)
    assert marked
    assert plain
