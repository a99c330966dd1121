"""Detectors through the service: after answers, in streams, on other people's texts."""

import json
from typing import Any

import httpx2
import pytest

pytest.importorskip("prometheus_client")
pytest.importorskip("open_clip")

from live import chat, live, uri

from halu.claims.vocabulary import plural
from halu.engine import load
from halu.errors import HaluError
from halu.scenes import draw
from halu.service.deployment import deployment
from halu.service.settings import read_settings

DESCRIBE = "Please describe this image in detail."
SURE = {"threshold": 0.05}
"""Woodpecker then corrects what a detector doubts but little."""
CLAIM = "There is a dog, a surfboard and an elephant in the image."


def test_findings_come_with_the_answer_and_after_the_stream(served: Any, scene: Any) -> None:
    halu = {"detectors": ["clip", "uncertainty"]}
    body = chat(scene, DESCRIBE, max_tokens=30, halu=halu)
    whole = served.post("/v1/chat/completions", **body).json()
    text = whole["choices"][0]["message"]["content"]
    findings = whole["halu"]["findings"]
    assert all(0 <= one["start"] < one["stop"] <= len(text) for one in findings)
    assert {one["detector"] for one in findings} <= {"clip", "uncertainty"}
    assert whole["halu"]["tokens"] is None  # not asked for, though a detector read it
    with httpx2.stream(
        "POST",
        f"{served.url}/v1/chat/completions",
        json={**body, "stream": True},
        trust_env=False,
        timeout=60,
    ) as reply:
        lines = [line[6:] for line in reply.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    last = json.loads(lines[-2])
    assert last["choices"] == []
    assert [one["start"] for one in last["halu"]["findings"]] == [one["start"] for one in findings]


def test_what_a_strategy_changed_comes_with_the_answer(served: Any, scene: Any) -> None:
    known = load("tiny-llava").ask(
        scene, DESCRIBE, strategy="woodpecker", params=SURE, max_new_tokens=60
    )
    wanted = [one.model_dump(mode="json") for one in known.findings]
    assert wanted, "the test needs a caption with something to change"
    own = {"strategy": "woodpecker", "params": SURE}
    body = chat(scene, DESCRIBE, max_tokens=60, halu=own)
    assert served.post("/v1/chat/completions", **body).json()["halu"]["findings"] == wanted
    told = served.post("/v1/chat/completions", **body, stream=True).text.splitlines()
    last = json.loads([line for line in told if line.startswith("data: {")][-1][6:])
    assert last["halu"]["findings"] == wanted


def test_a_text_that_somebody_wrote(served: Any, scene: Any) -> None:
    body = {"image": uri(scene), "text": CLAIM, "detectors": ["clip"]}
    reply = served.post("/v1/detect", **body)
    assert reply.status_code == 200, reply.text
    words = [CLAIM[one["start"] : one["stop"]] for one in reply.json()["findings"]]
    assert "elephant" in " ".join(words)
    assert served.post("/v1/detect", **{**body, "text": ""}).json()["findings"] == []


@pytest.mark.parametrize("number", ["99999999999999999999", "9" * 5000])
def test_a_number_that_no_picture_shows(served: Any, scene: Any, number: str) -> None:
    body = {"image": uri(scene), "detectors": ["objects:threshold=0", "clip:threshold=0"]}
    for name in sorted(draw(3, "test", 112).names):
        reply = served.post("/v1/detect", **body, text=f"{number} {plural(name)}.")
        assert reply.status_code == 200, reply.text
        assert {one["evidence"]["kind"] for one in reply.json()["findings"]} == {"object"}


@pytest.mark.parametrize("text", [" ", "It is a sunny day.", "一只狗", "Der Hund ist da."])
def test_silence_where_nothing_is_claimed(served: Any, scene: Any, text: str) -> None:
    body = {"image": uri(scene), "text": text, "detectors": ["clip", "objects"]}
    reply = served.post("/v1/detect", **body)
    assert (reply.status_code, reply.json()["findings"]) == (200, [])


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"detectors": ["clipp"]}, "detectors"),
        ({"detectors": []}, "detectors"),
        ({"detectors": ["clip", "clip"]}, "detectors"),
        ({"detectors": ["uncertainty"]}, "detectors"),
        ({"text": "x" * 20_000}, "text"),
        ({"text": "A dog. " * 5_000}, "text"),
        ({"image": "data:image/png;base64,AAAA"}, "image"),
        ({"detectors": ["objects:finders=open"]}, "detectors"),
        ({"detectors": ["clip:weights=/etc"]}, "detectors"),
        ({"detectors": ["clip:threshold=2"]}, "detectors.threshold"),
        ({"detectors": ["clip:treshold=0.2"]}, "detectors.treshold"),
        ({"detectors": ["clip:0.2"]}, "detectors"),
        ({"detectors": ["clip", "clip:threshold=0.2"]}, "detectors"),
        ({"detectors": [{"clip": {}}]}, "detectors.0"),
        ({"image": "https://example.com/a.png"}, "image"),
        ({"more": 1}, "more"),
    ],
)
def test_what_cannot_be_checked(
    served: Any, scene: Any, change: dict[str, Any], param: str | None
) -> None:
    body = {"image": uri(scene), "text": CLAIM, "detectors": ["clip"], **change}
    reply = served.post("/v1/detect", **body)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"] == param


def test_parameters_are_written_as_on_the_command_line(served: Any, scene: Any) -> None:
    import halu

    body = {"image": uri(scene), "text": CLAIM, "detectors": ["objects:threshold=0.01"]}
    reply = served.post("/v1/detect", **body)
    assert reply.status_code == 200, reply.text
    own = halu.detect(scene, CLAIM, {"objects": {"threshold": 0.01}})
    assert reply.json()["findings"] == [one.model_dump(mode="json") for one in own]
    strict = served.post("/v1/detect", **{**body, "detectors": ["objects:threshold=1"]})
    assert len(strict.json()["findings"]) < len(own)
    asked = served.chat(scene, DESCRIBE, halu={"detectors": ["clip:threshold=0"]}, max_tokens=20)
    assert asked.json()["halu"]["findings"]


OPERATORS = [
    *("clip:weights=x/y", "objects:finders=open", "objects:dino=x/y", "objects:owl=x/y"),
    *("blend:weights=x/y", "blend:finders=open", "blend:dino=x/y", "blend:owl=x/y"),
]  # fmt: skip


@pytest.mark.parametrize("detector", OPERATORS)
def test_weights_are_named_by_the_operator(served: Any, scene: Any, detector: str) -> None:
    reply = served.chat(scene, DESCRIBE, halu={"detectors": [detector]})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["param"], error["code"]) == ("halu.detectors", "invalid_value")
    assert "set by the operator" in error["message"]


def test_no_other_parameter_of_a_detector_names_files() -> None:
    from halu.detector import detectors

    for detector in detectors:
        for name, field in detector.Params.model_fields.items():
            if "str" in str(field.annotation) and "Literal" not in str(field.annotation):
                assert field.json_schema_extra == {"operator": True}, f"{detector.name}.{name}"


def test_further_answers_have_the_limit_of_choices(served: Any, scene: Any) -> None:
    halu = {"detectors": ["consistency:samples=9"]}
    reply = served.chat(scene, DESCRIBE, halu=halu)
    assert reply.status_code == 400
    assert "at most 8" in reply.json()["error"]["message"]


def test_what_the_operator_sets_of_a_detector(scene: Any) -> None:
    body = {"image": uri(scene), "text": CLAIM}
    with live(detector_params={"clip": {"threshold": 1.0}}) as server:
        assert server.post("/v1/detect", **body, detectors=["clip"]).json()["findings"] == []
        found = server.post("/v1/detect", **body, detectors=["clip:threshold=0.1"])
        assert found.json()["findings"]
    with pytest.raises(HaluError, match="threshhold"):
        deployment(read_settings({"detector_params": {"clip": {"threshhold": 1}}}))


def test_what_there_is(served: Any) -> None:
    names = {one["name"] for one in served.get("/v1/detectors").json()["data"]}
    assert {"attention", "clip", "uncertainty"} <= names


def test_a_text_may_answer_a_question(served: Any, scene: Any) -> None:
    import halu

    body = {"image": uri(scene), "text": "Yes.", "detectors": ["objects:threshold=0"]}
    asked = "Is there an elephant in the image?"
    assert served.post("/v1/detect", **body).json()["findings"] == []
    (found,) = served.post("/v1/detect", **body, question=asked).json()["findings"]
    known = {"objects": {"threshold": 0.0}}
    (here,) = halu.detect(scene, "Yes.", known, question=asked)
    assert found == here.model_dump(mode="json")
    long = served.post("/v1/detect", **body, question="x" * 20_000)
    assert long.status_code == 400
