"""Detectors through the service: after answers, in streams, on other people's texts."""

import json
from typing import Any

import httpx2
import pytest

pytest.importorskip("prometheus_client")
pytest.importorskip("open_clip")

from live import chat, uri

DESCRIBE = "Please describe this image in detail."
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


def test_a_text_that_somebody_wrote(served: Any, scene: Any) -> None:
    body = {"image": uri(scene), "text": CLAIM, "detectors": ["clip"]}
    reply = served.post("/v1/detect", **body)
    assert reply.status_code == 200, reply.text
    words = [CLAIM[one["start"] : one["stop"]] for one in reply.json()["findings"]]
    assert "elephant" in " ".join(words)
    assert served.post("/v1/detect", **{**body, "text": ""}).json()["findings"] == []


@pytest.mark.parametrize("text", [" ", "It is a sunny day.", "一只狗", "Der Hund ist da."])
def test_silence_where_nothing_is_claimed(served: Any, scene: Any, text: str) -> None:
    body = {"image": uri(scene), "text": text, "detectors": ["clip", "objects"]}
    reply = served.post("/v1/detect", **body)
    assert (reply.status_code, reply.json()["findings"]) == (200, [])


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"detectors": ["clipp"]}, "detector"),
        ({"detectors": []}, "detectors"),
        ({"detectors": ["clip", "clip"]}, "detectors"),
        ({"detectors": ["uncertainty"]}, "detectors"),
        ({"text": "x" * 20_000}, "text"),
        ({"text": "A dog. " * 5_000}, "text"),
        ({"image": "data:image/png;base64,AAAA"}, None),
        ({"detectors": ["objects:finders=open"]}, "detector"),
        ({"image": "https://example.com/a.png"}, None),
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


def test_what_there_is(served: Any) -> None:
    names = {one["name"] for one in served.get("/v1/detectors").json()["data"]}
    assert {"attention", "clip", "uncertainty"} <= names
