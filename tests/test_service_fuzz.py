"""The intake of pictures under generated and damaged inputs; the long form is a benchmark."""

import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client")


def test_every_input_ends_as_a_picture_or_a_known_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    import service_fuzz

    seen: Counter[str] = Counter()
    service_fuzz.fuzz(400, seen)
    assert sum(seen.values()) >= 400
    assert {"picture", "invalid_image", "unsupported_image_media_type"} <= set(seen)
    sys.modules.pop("service_fuzz")
