"""A hub that is out of reach is noticed by one question, and only where the hub is needed."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from halu import hub
from halu.adapters.loading import load_adapter
from halu.errors import Unavailable, Unknown


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What the hub is asked; it is out of reach, and nothing was loaded from it before."""
    urls: list[str] = []

    def ask(url: str, **_: Any) -> None:
        urls.append(url)
        raise RuntimeError("Name or service not known")

    monkeypatch.setattr(hub, "get_hf_file_metadata", ask)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return urls


def test_a_model_that_only_the_hub_has_is_refused_after_one_question(asked: list[str]) -> None:
    with pytest.raises(Unavailable, match=r"'nobody/model' .* hub could not be reached"):
        load_adapter("nobody/model")
    assert len(asked) == 1
    assert "nobody/model" in asked[0]


def test_detectors_of_other_makers_ask_once(asked: list[str]) -> None:
    from halu.grounding.checkpoint import named

    with pytest.raises(Unavailable, match="hf download nobody/dino"), named("nobody/dino", "DINO"):
        pytest.fail("It was loaded.")
    assert len(asked) == 1


@pytest.mark.parametrize("weights", ["nobody/clip", "ViT-B-32:openai"])
def test_clip_asks_once(asked: list[str], weights: str) -> None:
    pytest.importorskip("open_clip")
    from halu.grounding import open_embedder

    with pytest.raises(Unavailable, match=f"CLIP weights '{weights}' cannot be loaded"):
        open_embedder(weights)
    assert len(asked) == 1


def test_what_is_here_is_not_asked_for(asked: list[str], tmp_path: Path) -> None:
    hub.reach(str(tmp_path))
    hub.reach("")
    kept = tmp_path / "models--nobody--kept" / "snapshots" / "1"
    kept.mkdir(parents=True)
    (kept / "config.json").write_text("{}")
    hub.reach("nobody/kept")
    assert asked == []


def test_a_hub_that_answers_is_left_to_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: Any, **__: Any) -> None:
        raise ValueError("Not an id.")

    monkeypatch.setattr(hub, "get_hf_file_metadata", wrong)
    with pytest.raises((Unavailable, Unknown), match="nobody/model"):
        load_adapter("nobody/model")
