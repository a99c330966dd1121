"""Methods that act on sentences and answers: SENTINEL's search and its pairs, Woodpecker's
corrections, and how objects are taken out of a text.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from PIL import Image

import halu
from halu import preferences
from halu.claims import claims
from halu.claims.editing import without
from halu.detector import Detector, detectors, lookers
from halu.errors import BadInput, Failed, HaluError, Unknown, Unsupported
from halu.eval import world
from halu.eval.chair import score_caption
from halu.eval.lexicon import words_rules
from halu.grounding import Box, Sighting
from halu.grounding.boxes import distinct, overlap
from halu.labelling import Label
from halu.strategy import strategies
from halu.types import Answer, Finding
from halu.vlm import VLM, asking

DATA = Path(__file__).resolve().parent.parent.parent / "shared" / "data" / "parity"
PROMPT = "Please describe this image in detail."


def case(name: str) -> dict[str, Any]:
    """A stored vector of a released program."""
    if not DATA.is_dir():
        pytest.skip("the vectors are not here")
    rows = json.loads((DATA / "manifest.json").read_text())
    rows = rows["cases"] if isinstance(rows, dict) else rows
    found: dict[str, Any] = next(row for row in rows if row["id"] == name)
    return found


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return halu.load("tiny-llava")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [world.picture(image) for image in world.images(6, 3)]


# Taking objects out of a text


@pytest.mark.parametrize(
    ("text", "gone", "wanted"),
    [
        ("There is a cat, a bird and a dog.", {"dog"}, "There is a cat and a bird."),
        ("There is a cat, a bird and a dog.", {"cat"}, "There is a bird and a dog."),
        ("There is a cat and a dog.", {"cat", "dog"}, ""),
        ("There are two cars and a dog.", {"car"}, "There is a dog."),
        ("There is a dog and two cars.", {"dog"}, "There are two cars."),
        ("A bed, a pair of scissors and a cup.", {"scissors"}, "A bed and a cup."),
        ("The image shows a cow and a dog on a farm.", {"dog"}, "The image shows a cow on a farm."),
        ("A cat on the left and a dog.", {"cat"}, "A dog."),
        ("A dog is on the left and a cat is on the right.", {"cat"}, "A dog is on the left."),
        ("A dog is on the left and a cat is on the right.", {"dog"}, "A cat is on the right."),
        ("A dog sleeps. It is late.\n\nA cat eats.", {"dog"}, "It is late.\n\nA cat eats."),
        ("A  dog — here!  A cat.", {"cat"}, "A  dog — here!"),
        ("A cat and a dog are playing.", {"dog"}, "A cat is playing."),
        ("A cat and a dog have fun.", {"cat"}, "A dog has fun."),
        ("A cat, a cow and a dog are playing.", {"dog"}, "A cat and a cow are playing."),
        ("Two cats and a dog are playing.", {"dog"}, "Two cats are playing."),
        ("A cat and a dog sleep here. A cow.", {"dog"}, "A cow."),
        ("A cow. A man is holding a dog.", {"dog"}, "A cow."),
        ("A man is holding a dog near a couch.", {"dog"}, "A man near a couch."),
        ("A man with a dog is on a couch.", {"dog"}, "A man is on a couch."),
        ("A cat sleeps on a couch.", {"couch"}, "A cat sleeps."),
        ('A dog. A sign says "a cat and a dog".', {"dog"}, 'A sign says "a cat and a dog".'),
    ],
)
def test_objects_are_taken_out_of_their_sentences(text: str, gone: set[str], wanted: str) -> None:
    places = [(c.start, c.stop) for c in claims(text) if c.kind == "object" and c.subject in gone]
    edited = without(text, places)
    assert edited.text == wanted
    assert len(edited.places) == len(places)
    assert all(0 <= start <= stop <= len(wanted) for start, stop in edited.places)


def test_a_text_from_which_nothing_goes_stays_letter_by_letter() -> None:
    text = "  A dog,and\ta  cat... (Really?)\n\nYes "
    assert without(text, []).text == text.lstrip()


# SENTINEL


class Says(Detector):
    """Finds the objects that it is told about."""

    name = "says"
    kind = "picture"
    score: Callable[[str], float] = staticmethod(lambda subject: 0.0)

    def judge(self, answer: Answer, images: Any, asked: Any) -> Iterator[Finding]:
        for one in claims(answer.text):
            if one.kind == "object":
                score = type(self).score(one.subject)
                yield Finding(
                    start=one.start, stop=one.stop, score=score, reason="told", detector="says"
                )


@contextmanager
def saying(score: Callable[[str], float]) -> Iterator[None]:
    """A detector `says` with these scores, for a while."""
    detectors.get("clip")  # all are loaded
    cls = type("Saying", (Says,), {"score": staticmethod(score)})
    detectors.register("says")(cls)
    try:
        yield
    finally:
        del detectors._things["says"]


SAYS = {"detectors": ("says",)}


def test_sentences_that_stand_are_plain_decoding(vlm: VLM, pictures: list[Image.Image]) -> None:
    plain = vlm.ask(pictures[0], PROMPT, max_new_tokens=60)
    with saying(lambda subject: 0.0):
        mine = vlm.ask(pictures[0], PROMPT, strategy="sentinel", params=SAYS, max_new_tokens=60)
    assert [token.id for token in mine.tokens] == [token.id for token in plain.tokens]
    assert mine.findings == ()
    assert mine.usage.forwards == plain.usage.forwards


def test_one_sampled_candidate_that_always_stands_is_plain_sampling(
    vlm: VLM, pictures: list[Image.Image]
) -> None:
    own = {**SAYS, "first": "sampled", "candidates": 1, "rounds": 1, "finish": 1.0}
    with saying(lambda subject: 0.0):
        mine = vlm.ask(pictures[1], PROMPT, strategy="sentinel", params=own, max_new_tokens=60)
    plain = vlm.ask(pictures[1], PROMPT, temperature=0.7, max_new_tokens=60)
    assert mine.text == plain.text


def test_a_forbidden_object_is_avoided(vlm: VLM, pictures: list[Image.Image]) -> None:
    changed = 0
    for image in pictures[:3]:
        plain = vlm.ask(image, PROMPT, max_new_tokens=60)
        first = next(one.subject for one in claims(plain.text) if one.kind == "object")
        with saying(lambda subject, first=first: float(subject == first)):
            mine = vlm.ask(
                image, PROMPT, strategy="sentinel", params=SAYS, max_new_tokens=60, seed=4
            )
        named = {one.subject for one in claims(mine.text) if one.kind == "object"}
        assert mine.findings
        for one in mine.findings:
            assert 0 <= one.start <= one.stop <= len(mine.text)
            assert one.evidence["candidates"]
        changed += first not in named
    assert changed >= 2


def test_the_built_in_detectors_lower_chair(vlm: VLM) -> None:
    ids = world.images(6, 3)
    wrong = {}
    for name in ("greedy", "sentinel", "woodpecker"):
        params = {"first": "sampled", "candidates": 4} if name == "sentinel" else {}
        asked = [
            asking(world.picture(i), PROMPT, strategy=name, params=params, max_new_tokens=80)
            for i in ids
        ]
        scores = [
            score_caption(answer.text, world.truth(i).names, words_rules()).counts
            for i, answer in zip(ids, vlm.generate(asked), strict=True)
        ]
        wrong[name] = sum(one["mentions_wrong"] for one in scores)
    assert wrong["greedy"] > 3
    assert wrong["sentinel"] < wrong["greedy"]
    assert wrong["woodpecker"] < wrong["greedy"]


@pytest.mark.parametrize("name", ["sentinel", "woodpecker"])
def test_detectors_of_sentences_must_look_at_the_picture(
    name: str, vlm: VLM, pictures: list[Image.Image]
) -> None:
    for wrong, says in (("attention", "attention"), ("clp", "clip")):
        with pytest.raises(HaluError, match=says):
            vlm.ask(pictures[0], PROMPT, strategy=name, params={"detectors": (wrong,)})


def test_detectors_of_a_strategy_bring_parameters_along() -> None:
    (one,) = lookers(("objects:finders=open:missed_by=both",), "woodpecker")
    assert (one.params.finders, one.params.missed_by) == ("open", "both")
    assert one.params.threshold == 0
    with pytest.raises(BadInput, match="thresholds of its own"):
        lookers(("clip:threshold=0.2",), "sentinel")
    with pytest.raises(Unknown, match="finders"):
        lookers(("objects:finder=open",), "sentinel")


@pytest.mark.parametrize("name", ["sentinel", "woodpecker"])
def test_one_detector_needs_no_list(name: str) -> None:
    made = strategies.get(name).configured({"detectors": "objects:missed_by=both"})
    assert made.params.detectors == ("objects:missed_by=both",)


def test_a_silent_end_is_marked_inside_the_text() -> None:
    from halu.detector import DetectorContext
    from halu.drafting import Candidate, Manner, Sentences
    from halu.labelling import Judge

    judge = Judge([], [], DetectorContext(), 0.5, 0.3)
    manner = Manner(10, 2, False, 0.7, 0.5, 80)
    search = Sentences(manner, lambda ids: "".join(map(chr, ids)), judge)
    search.before = list(map(ord, "A dog. "))
    search.lanes = [Candidate([*search.before, 32])]
    search._remark(search.lanes[0])
    (found,) = search.findings
    assert (found.start, found.stop) == (6, 6)


def test_the_longest_answer_is_kept_to(vlm: VLM, pictures: list[Image.Image]) -> None:
    with saying(lambda subject: 1.0):
        for most in (1, 7, 20):
            mine = vlm.ask(
                pictures[2], PROMPT, strategy="sentinel", params=SAYS, max_new_tokens=most
            )
            assert len(mine.tokens) <= most


def test_labels_are_ranked_as_the_paper_has_it() -> None:
    def label(names: str, wrong: int = 0, unsure: int = 0) -> Label:
        return Label(frozenset(names.split()), wrong, unsure)

    known = {"man"}
    order = [
        label("dog man"),
        label("man"),
        label(""),
        label("cup", unsure=1),
        label("cup", wrong=1),
        label("cup bus", wrong=2),
    ]
    ranks = [one.rank(known) for one in order]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == len(ranks)


@pytest.mark.parametrize("name", ["sentinel-pairs", "sentinel-pairs-fallback"])
def test_pairs_and_the_next_sentence_are_the_released_programs(name: str) -> None:
    row = case(name)
    asked, wanted = row["json_inputs"], row["json_outputs"]
    labels = [
        Label(frozenset(names), len(wrong), sum(one in asked["uncertain"] for one in names))
        for names, wrong in zip(asked["objects"], asked["hallu_per_sentence"], strict=True)
    ]
    texts = asked["sentences"]
    found = preferences.paired(labels, asked["context_objects"])
    assert [(texts[a], texts[b]) for a, b in found] == [
        (pair["y_win"], pair["y_lose"]) for pair in wanted["pairs"]
    ]
    best = min(range(len(labels)), key=lambda i: labels[i].rank(asked["context_objects"]))
    assert best in wanted["possible_next"]


def test_verdicts_are_the_released_programs() -> None:
    from halu.detectors.objects import Found, verdict

    row = case("sentinel-verdict")
    asked, wanted = row["json_inputs"], row["json_outputs"]
    sure = Sighting(Box(0, 0, 1, 1), 1.0)
    labels = set(asked["yolo_labels"])
    for word in {word for names in asked["objects"] for word in names}:
        lemma = asked["lemmas"].get(word, word)
        name = asked["synonyms"].get(lemma, lemma)
        one = Found("grounding-dino", [sure] if lemma in asked["dino_labels"] else [])
        seen = [sure] if name in asked["yolo_found"] else []
        other = Found("owlv2", seen if name in labels else None)
        told = {"real": "real", "hallucinated": "hallu", "uncertain": "uncertain"}
        assert lemma in wanted[told[verdict((one, other))]]


# Preference pairs


def test_pairs_are_written_for_three_programs(
    vlm: VLM, pictures: list[Image.Image], tmp_path: Path
) -> None:
    with saying(lambda subject: float(len(subject) % 2)):
        own = {**SAYS, "first": "sampled", "candidates": 8, "rounds": 1, "temperature": 1.0}
        found = [
            pair
            for seed, image in enumerate([*pictures, *pictures])
            for pair in preferences.pairs(
                vlm.ask(
                    image,
                    PROMPT,
                    strategy="sentinel",
                    params=own,
                    max_new_tokens=80,
                    seed=seed,
                ),
                "scene.png",
                PROMPT,
            )
        ]
    assert found
    for pair in found:
        assert pair.chosen != pair.rejected
        assert all(len(name) % 2 == 0 for name in pair.chosen_objects)
        assert any(len(name) % 2 for name in pair.rejected_objects)
        assert not set(pair.chosen_objects) - {
            one.subject for one in claims(pair.context) if one.kind == "object"
        }
        llava = preferences.written(pair, "llava")
        assert llava["conversations"][0] == {"from": "human", "value": f"<image>\n{PROMPT}"}
        factory = preferences.written(pair, "llama-factory")
        assert factory["images"] == ["scene.png"]
        assert factory["instruction"].startswith("<image>")
        assert (factory["chosen"], llava["chosen"]) == (pair.chosen, pair.chosen)
        assert preferences.Pair.model_validate(preferences.written(pair, "sentinel")) == pair


def test_pairs_are_kept_when_writing_is_interrupted(tmp_path: Path) -> None:
    pair = preferences.Pair(
        image="a.png",
        question="?",
        context="",
        chosen="A.",
        rejected="B.",
        chosen_objects=(),
        rejected_objects=(),
    )

    def found() -> Iterator[preferences.Pair]:
        yield pair
        raise KeyboardInterrupt

    path = tmp_path / "pairs.jsonl"
    with pytest.raises(KeyboardInterrupt):
        preferences.kept(found(), path, "sentinel")
    assert preferences.Pair.model_validate_json(path.read_text()) == pair


# Woodpecker


def test_nothing_is_rewritten_where_nothing_is_found(vlm: VLM, pictures: list[Image.Image]) -> None:
    plain = vlm.ask(pictures[0], PROMPT, max_new_tokens=60)
    with saying(lambda subject: 0.2):
        mine = vlm.ask(pictures[0], PROMPT, strategy="woodpecker", params=SAYS, max_new_tokens=60)
    assert [token.id for token in mine.tokens] == [token.id for token in plain.tokens]
    assert mine.findings == ()


@pytest.mark.parametrize("model", ["tiny-llava", "tiny-qwen"])
def test_every_change_is_listed(model: str, pictures: list[Image.Image]) -> None:
    vlm = halu.load(model)
    plain = vlm.ask(pictures[0], PROMPT, max_new_tokens=80)
    gone = [one.subject for one in claims(plain.text) if one.kind == "object"][-1]
    with saying(lambda subject: float(subject == gone)):
        mine = vlm.ask(pictures[0], PROMPT, strategy="woodpecker", params=SAYS, max_new_tokens=80)
    assert gone not in {one.subject for one in claims(mine.text)}
    assert mine.text
    assert mine.findings
    for one in mine.findings:
        assert one.detector == "woodpecker"
        assert "taken out" in one.reason
        assert one.evidence["before"] == plain.text.strip()
        assert 0 <= one.start <= one.stop <= len(mine.text)
    places = [token.stop for token in mine.tokens]
    assert places == sorted(places)
    assert places[-1] == len(mine.text)


class Reply(BaseHTTPRequestHandler):
    """Answers every chat completion with `text`, keeping what was asked."""

    text = "Only a cat. [0.1, 0.2, 0.5, 0.75]"
    asked: list[dict[str, Any]] = []

    def do_POST(self) -> None:
        size = int(self.headers["Content-Length"])
        type(self).asked.append(json.loads(self.rfile.read(size)))
        message = {"role": "assistant", "content": self.text}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
        data = json.dumps({**body, "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


@pytest.fixture
def corrector() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Reply)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_endpoint_may_correct(corrector: str, vlm: VLM, pictures: list[Image.Image]) -> None:
    own = {**SAYS, "corrector": "endpoint", "url": corrector, "model": "m"}
    Reply.asked.clear()
    with saying(lambda subject: 1.0):
        mine = vlm.ask(pictures[0], PROMPT, strategy="woodpecker", params=own, max_new_tokens=40)
    assert mine.text == "Only a cat."
    assert mine.findings
    (asked,) = Reply.asked
    assert "There is no" in asked["messages"][0]["content"]
    assert PROMPT in asked["messages"][0]["content"]


def test_wrong_correctors_are_refused(
    vlm: VLM, pictures: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BadInput, match="needs a url"):
        vlm.ask(pictures[0], PROMPT, strategy="woodpecker", params={"corrector": "endpoint"})
    monkeypatch.setattr(Reply, "text", "  ")
    own = {**SAYS, "corrector": "model", "wish": "x"}
    with saying(lambda subject: 1.0), monkeypatch.context() as patch:
        patch.setattr("halu.planning.RequestContext.say", lambda *_, **__: Empty)
        with pytest.raises(Failed, match="wrote nothing"):
            vlm.ask(pictures[0], PROMPT, strategy="woodpecker", params=own, max_new_tokens=20)


class Empty:
    """What a model says that says nothing."""

    text = " "


@pytest.mark.parametrize(
    ("reply", "wanted", "how"),
    [
        ("A dog and a cow.", "A dog and a cow.", "was taken out"),
        ("A dog and a cow, no cat.", "A dog and a cow, no cat.", "was taken out"),
        ("A dog, a cow and a cat.", "A dog, a cow and a cat.", "is still said"),
        ("A dog.", "A dog, a cow and a cat.", "dropped 'cow'"),
    ],
)
def test_what_a_corrector_wrote_is_read_again(reply: str, wanted: str, how: str) -> None:
    new, (change,) = corrected("A dog, a cow and a cat.", PROMPT, reply)
    assert new == wanted
    assert how in change.reason
    assert 0 <= change.start < change.stop <= len(new)


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("Yes", "No."),
        ("Yes, there is a cat.", "No."),
        ("Yes. There is a cat.", "No."),
        ("No.", "No."),
    ],
)
def test_yes_to_what_is_not_there_becomes_no(said: str, wanted: str) -> None:
    new, changes = corrected(said, "Is there a cat in the image?")
    assert new == wanted
    assert len(changes) == (said != wanted)
    assert corrected("Yes", "Is there a dog in the image?") == ("Yes", ())


def corrected(
    text: str, question: str, reply: str | None = None
) -> tuple[str, tuple[Finding, ...]]:
    """The text without its cat, by rules, or as a corrector with this reply has it."""
    from halu.correcting import Corrector
    from halu.detector import DetectorContext

    class Cats(Says):
        def judge(self, answer: Answer, images: Any, asked: DetectorContext) -> Iterator[Finding]:
            for one in claims(answer.text, asked.question):
                if one.kind == "object":
                    score = float(one.subject == "cat")
                    place = {"start": one.start, "stop": one.stop}
                    yield Finding(**place, score=score, reason="told", detector="says")

    request = asking(Image.new("RGB", (40, 40)), question)
    rewrite = None if reply is None else lambda _text, _facts: reply
    return Corrector(request, [Cats()], 0.5, "detectors", str, rewrite)(text)


def test_woodpecker_corrects_no_quoted_words(vlm: VLM, pictures: list[Image.Image]) -> None:
    with pytest.raises(Unsupported, match=r"corrects objects.*'ocr'"):
        vlm.ask(pictures[0], PROMPT, strategy="woodpecker", params={"detectors": ("ocr",)})


def test_the_model_itself_may_correct(vlm: VLM, pictures: list[Image.Image]) -> None:
    own = {**SAYS, "corrector": "model", "wish": "What do you see in this image?"}
    with saying(lambda subject: 1.0):
        mine = vlm.ask(pictures[0], PROMPT, strategy="woodpecker", params=own, max_new_tokens=40)
    wanted = vlm.ask(pictures[0], "What do you see in this image?", max_new_tokens=40)
    assert mine.text == wanted.text
    assert mine.findings


def test_boxes_are_kept_as_the_released_program_keeps_them() -> None:
    row = case("woodpecker-detections")
    asked, wanted = row["json_inputs"], row["json_outputs"]
    boxes = []
    for x, y, w, h in asked["boxes_cxcywh"]:
        edges = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
        boxes.append(Box(*(round(min(max(edge, 0.0), 1.0), 3) for edge in edges)))
    kept = distinct(boxes, row["params"]["area_threshold"], row["params"]["iou_threshold"])
    assert sorted(map(list, kept)) == sorted(
        box for entity in wanted.values() for box in entity["bbox"]
    )


def test_overlap_is_the_released_programs() -> None:
    row = case("woodpecker-iou")
    data = np.load(DATA / row["file"])
    found = [
        overlap(Box(*a), Box(*b))
        for a, b in zip(data["in_a"].tolist(), data["in_b"].tolist(), strict=True)
    ]
    assert np.allclose(found, data["out_iou"], atol=1e-9)
