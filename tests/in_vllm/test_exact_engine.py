"""Every strategy in vLLM gives token for token what it gives under transformers."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
from vllm_requests import (
    BRANCHED,
    REFUSED,
    SUMS,
    TAPPED,
    compared,
    counted,
    mixed,
    request,
    runnable,
)

from halu.errors import HaluError

MODELS = ("tiny-llava", "tiny-qwen")
FAR = ("vhr", "var", "pai", "spin", "adhh")
"""Strategies of each way to steer attention."""
AT_ONCE = ("act", "eah", "glc", "sid", "var", "vhr")
"""Strategies that must see a prompt at once; all others take it in pieces."""
LONG = {
    "tiny-llava": "There is a dog, a cat and a bird. A man is on the left.",
    "tiny-qwen": "There is a dog, a cat and a bird. A man is on the left. It is red.",
}
"""Prompts that end just before a block of the cache does, so that answers soon need another."""


def _dropped(scheduled: Any, output: Any) -> int:
    return len(getattr(output, "halu_dropped", ()))


@pytest.mark.parametrize("model", MODELS)
def test_every_strategy_in_one_batch_with_plain_requests(
    serve: Any, stock: Any, model: str
) -> None:
    names = [*runnable(stock(model)), *SUMS]
    assert len(names) > 20
    requests = mixed([request(name, number) for number, name in enumerate(names)])
    assert compared(serve(model), stock(model), requests) == []


@pytest.mark.parametrize("model", MODELS)
def test_draws_are_those_of_the_seed(serve: Any, stock: Any, model: str) -> None:
    requests = [
        request(name, seed=seed, temperature=1.0, top_p=0.9, repetition_penalty=1.2)
        for name in ("sample", "vcd", "vhr")
        for seed in (3, 4)
    ]
    assert compared(serve(model), stock(model), requests) == []


def test_log_probabilities_are_those_of_the_rule(serve: Any, stock: Any) -> None:
    drawn = {"temperature": 1.0, "top_p": 0.9}
    requests = [
        request("greedy", logprobs=0),
        request("vcd", logprobs=3),
        request("var", logprobs=2),
        request("sample", logprobs=3, **drawn),
    ]
    answers = serve("tiny-llava").generate(requests)
    for got, wanted in zip(answers, stock("tiny-llava").generate(requests), strict=True):
        assert len(got.tokens) == len(wanted.tokens) > 1
        for one, other in zip(got.tokens, wanted.tokens, strict=True):
            assert one.id == other.id
            assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
            tops = ([each.id for each in of.top or ()] for of in (one, other))
            assert next(tops) == next(tops)


def test_a_stop_string_ends_all_branches(serve: Any, stock: Any) -> None:
    requests = [request("vcd", stop=(" a",)), request("greedy", stop=(" a",))]
    assert compared(serve("tiny-llava"), stock("tiny-llava"), requests) == []
    assert not serve("tiny-llava").engine.has_unfinished_requests()


@pytest.mark.parametrize("model", MODELS)
def test_a_plain_request_leaves_steered_ones_alone(serve: Any, stock: Any, model: str) -> None:
    vlm, hf = serve(model), stock(model)
    for name in ("greedy", *FAR, "greedy", *BRANCHED, *FAR):  # each after all others' keys
        assert compared(vlm, hf, [request(name, 1)]) == []


@pytest.mark.parametrize("model", MODELS)
def test_pieces_of_prompts(
    serve: Any, stock: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = serve(model, max_num_batched_tokens=48)
    dropped = counted(vlm, monkeypatch, "update_from_output", _dropped)
    known = runnable(stock(model))
    assert set(AT_ONCE) < set(known)
    names = [*(name for name in known if name not in AT_ONCE), "vcd+ritual"]
    requests = mixed([request(name, n) for n, name in enumerate(names)])
    assert compared(vlm, stock(model), requests) == []
    assert sum(dropped) > 0  # rows that came without their partners'
    for name in AT_ONCE:
        with pytest.raises(HaluError, match=r"at once.*--max-num-batched-tokens"):
            vlm.generate([request(name)])
    assert not vlm.engine.has_unfinished_requests()


def test_prompts_that_are_read_at_once_wait_for_room(
    serve: Any, stock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = serve("tiny-llava", max_num_batched_tokens=128)
    full = counted(vlm, monkeypatch, "_has_room", lambda *_: 1)
    names = ("var", "vhr", "act", "eah", "glc", "sid", "pai", "var+vcd") * 2
    requests = mixed([request(name, n) for n, name in enumerate(names)])
    assert compared(vlm, stock("tiny-llava"), requests) == []
    assert sum(full) > len(names)


@pytest.mark.parametrize("slots", [5, 16])
@pytest.mark.parametrize("model", MODELS)
def test_memory_that_is_given_to_others(
    serve: Any, stock: Any, model: str, slots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = serve(model, num_gpu_blocks_override=14, max_num_seqs=slots, max_model_len=256)
    names = (*BRANCHED, *FAR, *TAPPED, "sparc", "sid")
    asked = {"tokens": 30, "more": LONG[model]}
    requests = mixed([request(name, 3 * n, **asked) for n, name in enumerate(names)], **asked)
    preempted = counted(vlm, monkeypatch, "_preempt_request", lambda *_: 1)
    assert compared(vlm, stock(model), requests) == []
    assert sum(preempted) > 3


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_branches_in_any_order(
    serve: Any, stock: Any, model: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Branches of different requests come between each other, the main one seldom first."""
    vlm, held = serve(model), list[Any]()
    submit, step = vlm.submit, vlm.step

    def shuffled() -> None:
        random.Random(seed).shuffle(held)
        while held:
            submit(*held.pop())
        step()

    def keep(sent: Sequence[Any], params: Any) -> None:
        held.extend(([one], params) for one in sent)

    monkeypatch.setattr(vlm, "submit", keep)
    monkeypatch.setattr(vlm, "step", shuffled)
    requests = mixed([request(name, n) for n, name in enumerate(BRANCHED * 3)])
    assert compared(vlm, stock(model), requests) == []


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_does_not_run_says_why(serve: Any, stock: Any, name: str) -> None:
    with pytest.raises(HaluError, match=f"{REFUSED[name]}|needs open_clip|scipy"):
        serve("tiny-llava").generate([request(name)])
    assert compared(serve("tiny-llava"), stock("tiny-llava"), [request("vcd")]) == []
