"""`halu calibrate`: facts about a model, found on pictures and kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from halu import calibrated, calibration, constants
from halu.attention.steered import Steered
from halu.calibration import influence, labelled, profile, sinks
from halu.constants import hallucination_heads
from halu.constants import sinks as known_sinks
from halu.engine import Local, load
from halu.errors import BadInput, Failed, Unsupported
from halu.scenes.files import write
from halu.types import question
from halu.vlm import asking


def quiet(done: int, total: int) -> None:
    """Nobody is told."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALU_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tiny() -> Local:
    return load("tiny-llava", device="cpu")


def test_planted_sinks_are_found(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two dimensions of one token are made massive; they and the published threshold come out."""
    read = sinks.Peaks.read

    def planted(self: Any, layer: int, hidden: Tensor) -> None:
        massive = hidden.clone()
        massive[0, 5], massive[0, 40] = 900 * hidden.abs().max(), -800 * hidden.abs().max()
        read(self, layer, massive)

    monkeypatch.setattr(sinks.Peaks, "read", planted)
    mine = Local(adapter("llava"))
    params, details = sinks.find(mine, labelled.pictures(None, 2), quiet)
    assert params["dimensions"] == [5, 40]
    assert not details["massive"]  # one row of width 64: |r| / rms is at most 8
    assert 0 < params["tau"] < 8


def test_sinks_of_the_built_in_model(tiny: Local) -> None:
    params, details = sinks.find(tiny, labelled.pictures(None, 12), quiet)
    assert len(set(params["dimensions"])) == 2
    assert set(map(str, params["dimensions"])) <= set(details["largest value by dimension"])
    assert params["tau"] == pytest.approx(
        details["quantiles of tokens in the two that lead"]["0.95"], abs=0.13
    )


def test_silencing_is_exactly_one_head_of_one_forward(tiny: Local) -> None:
    """Against a slow run of each head, from the prompt on."""
    (one,) = labelled.scenes(1)
    prompt = tiny.adapter.encode(question(influence.QUESTION, one.picture))
    (answer,) = tiny.generate([asking(one.picture, influence.QUESTION, max_new_tokens=12)])
    tokens = [token.id for token in answer.tokens]
    words = [influence.Word(place, True) for place in (3, 9)]
    facts = tiny.adapter.facts
    got = list(influence.changes(tiny.adapter, prompt, tokens, words))
    for word, change in zip(words, got, strict=True):
        plain = after(tiny, prompt, tokens, word.place, None)
        for layer in range(facts.layers):
            for head in range(facts.heads):
                silent = influence.Silent(layer, head, facts.heads)
                slow = plain - after(tiny, prompt, tokens, word.place, silent)
                assert float(change[layer * facts.heads + head]) == pytest.approx(slow, abs=1e-5)
    assert torch.stack(got).abs().max() > 1e-3


def after(vlm: Local, prompt: Any, tokens: list[int], place: int, policy: Any) -> float:
    """P(tokens[place]) when the policy acts in the last forward alone."""
    from halu.adapters.cache import RowCache

    cache = RowCache(vlm.adapter.facts.layers)
    row = vlm.adapter.runner.read([prompt], [Steered(prompt.layout)], cache)[0]
    for done in range(place):
        steered = Steered(prompt.layout, (policy,) if policy and done == place - 1 else ())
        length, position = len(prompt.ids) + done, prompt.next_position + done
        row = vlm.adapter.runner.step([tokens[done]], [length], [position], [steered], cache)[0]
    return float(torch.softmax(row, -1)[tokens[place]])


def test_words_are_placed_on_their_first_token(tiny: Local) -> None:
    (one,) = labelled.scenes(1)
    (answer,) = tiny.generate([asking(one.picture, influence.QUESTION)])
    found = influence.words(answer, one.names)
    assert found
    for word in found:
        token = answer.tokens[word.place]
        assert answer.text[token.start : token.stop].strip().isalpha()
    real = influence.words(answer, frozenset())
    assert not any(word.real for word in real)


def test_heads_that_read_the_picture_have_influence(tiny: Local) -> None:
    params, details = influence.find(tiny, labelled.scenes(10), quiet)
    facts = tiny.adapter.facts
    assert len(params["heads"]) == 2
    scores = torch.tensor(details["score by layer and head"])
    assert scores.shape == (facts.layers, facts.heads)
    best = divmod(int(scores.flatten().argmax()), facts.heads)
    assert list(best) == params["heads"][0]
    nothing = [labelled.Known(k.picture, frozenset()) for k in labelled.scenes(1)]
    with pytest.raises(Failed, match="0 true ones"):
        influence.find(tiny, nothing, quiet)


def test_a_profile_keeps_heads_that_gain(tiny: Local) -> None:
    asked = labelled.questions(None, 12)
    assert {one.yes for one in asked} == {True, False}
    params, details = profile.find(tiny, "zerotuning", "pairs", asked, quiet)
    gains = torch.tensor(details["gain by layer and head"])
    for layer, head in params["pairs"]:
        assert gains[layer, head] >= profile.LEAST * gains.max() - 1e-4
    assert list(divmod(int(gains.argmax()), 6)) in params["pairs"]


def test_what_is_kept_is_used(tiny: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HALLUCINATION_HEADS", {})
    facts = tiny.adapter.facts
    with pytest.raises(Unsupported, match="halu calibrate tiny-llava adhh"):
        hallucination_heads(facts)
    before = known_sinks(facts)
    for strategy, params in (
        ("adhh", {"heads": [[0, 1], [3, 2]]}),
        ("var", {"dimensions": [7, 9], "tau": 1.5}),
    ):
        found = calibrated.Calibration(
            model="tiny-llava", shape=facts.shape, strategy=strategy, params=params,
            pictures="3 pictures", command="halu calibrate tiny-llava adhh",
        )  # fmt: skip
        assert calibration.keep(found, facts).is_file()
        assert calibrated.load(facts, strategy) == found
    assert hallucination_heads(facts).pairs == ((0, 1), (3, 2))
    assert (known_sinks(facts).dimensions, known_sinks(facts).tau) == ((7, 9), 1.5)
    assert before.dimensions != (7, 9)
    picture = labelled.scenes(1)[0].picture
    assert tiny.ask(picture, "Is there a dog?", strategy="adhh", max_new_tokens=2).text
    calibrated.path(facts, "adhh").write_text('{"model": 3}')
    with pytest.raises(Failed, match=r"damaged.*halu calibrate"):
        hallucination_heads(facts)


def test_a_users_pictures_with_coco_annotations(tmp_path: Path, tiny: Local) -> None:
    written = write(tmp_path / "scenes", 4, 0)
    instances = next(tmp_path.rglob("*instances*.json"))
    found = labelled.annotated(tmp_path / "scenes", instances, 3)
    assert len(found) == 3
    assert all(one.names for one in found)
    assert written.images
    (tmp_path / "else").mkdir()
    with pytest.raises(BadInput, match="no pictures"):
        labelled.pictures(tmp_path / "else", 3)
    found[0].picture.save(tmp_path / "else" / "other_99999999.png")
    with pytest.raises(BadInput, match="annotates no picture"):
        labelled.annotated(tmp_path / "else", instances, 3)


def test_the_command(halu: Any) -> None:
    code, out, err = halu("calibrate", "tiny-llava", "var", "--n", "4", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["strategy"] == "var"
    assert found["pictures"] == "4 pictures of built-in scenes"
    assert "4 of 4" in err
    code, out, _ = halu("calibrate", "tiny-llava", "var", "--n", "4")
    assert code == 0
    assert "-p dimensions=[" in out
    for words, says in (
        (("tiny-llava", "vcd"), "'vcd' has nothing to calibrate"),
        (("tiny-llava", "ocr"), "'ocr' has nothing to calibrate"),
        (("tiny-llava", "paint"), "'paint' has nothing to calibrate"),
        (("tiny-llava", "vra"), "Unknown strategy or detector 'vra'. Did you mean var"),
        (("tiny-llava", "var", "--n", "0"), "at least 1"),
        (("tiny-llava", "var", "--data", "x"), "--images"),
        (("tiny-llava", "adhh", "--images", "x"), "together"),
        (("tiny-llava", "zerotuning", "--images", "x"), "--data"),
        (("tiny-llava", "var", "--annotations", "x"), "adhh"),
        (("no-such-model", "var"), "no-such-model"),
    ):
        code, out, err = halu("calibrate", *words)
        assert (code, out) == (2, "")
        assert says in err
        assert err.count("\n") == 1


def test_true_answers_are_scored_against_the_other(tiny: Local) -> None:
    """Yes and no are two sides: their probabilities add up to one."""
    asked = labelled.questions(None, 4)
    requests = [asking(one.picture, one.text) for one in asked]
    prompts = [tiny.adapter.encode(r.messages) for r in requests]
    tokens = profile.answer_tokens(tiny, requests)
    from halu.planning import choose

    plans = [choose(r).plan(tiny.adapter, r)[0] for r in requests]
    both = [
        profile.true_log_probability(
            tiny.adapter, prompts, plans, tokens, torch.tensor([yes] * len(asked))
        )
        for yes in (True, False)
    ]
    assert torch.allclose(both[0].exp() + both[1].exp(), torch.ones(len(asked)), atol=1e-5)
