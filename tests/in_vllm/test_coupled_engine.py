"""Branches in one engine with others: who comes in, who makes room, who is too large."""

import math
from typing import Any

import pytest
from test_submission import no_words
from vllm_requests import counted, request

from halu.errors import HaluError
from halu.vllm.submission import Submission

SMALL = {"num_gpu_blocks_override": 14, "max_num_seqs": 5, "max_model_len": 256}
"""13 blocks of 32 tokens; vLLM keeps one."""


def scheduler_of(vlm: Any) -> Any:
    return vlm.engine.engine_core.engine_core.scheduler


def answers(batch: Any, runs: list[Any], steps: int, each: Any = lambda: None) -> list[str]:
    """What these runs of a batch come to, within so many steps."""
    told: dict[Any, str] = {}
    for _ in range(steps):
        each()
        for run, event in batch.step():
            assert not isinstance(event, Exception), event
            if event.answer is not None:
                told[run] = event.answer.text
        if all(run in told for run in runs):
            break
    return [told[run] for run in runs if run in told]


def test_a_pair_comes_in_under_steady_plain_traffic(serve: Any, stock: Any) -> None:
    """Two slots, which fall free one at a time, and always somebody who needs only one."""
    vlm = serve("tiny-llava", max_num_seqs=2, max_model_len=256)
    scheduler, batch = scheduler_of(vlm), vlm.batch()
    plain = request("greedy", tokens=6)
    (expected,) = stock("tiny-llava").generate([request("vcd", 1, tokens=6)])
    batch.add([plain])
    for _ in range(3):
        batch.step()
    runs = batch.add([plain, request("vcd", 1, tokens=6)])

    def more_arrive() -> None:
        while len(scheduler.waiting) < 6:
            batch.add([plain])

    assert answers(batch, runs[1:], 60, more_arrive) == [expected.text]
    batch.close()


def test_halves_whose_partners_have_no_memory_make_room(
    serve: Any, stock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = serve("tiny-llava")
    scheduler, batch = scheduler_of(vlm), vlm.batch()
    made = counted(vlm, monkeypatch, "_make_room", lambda: len(scheduler.running))
    asked = [request("vcd", n, tokens=12) for n in (0, 3)]
    expected = [one.text for one in stock("tiny-llava").generate(asked)]
    runs = batch.add(asked)
    for _ in range(4):
        batch.step()
    assert len(scheduler.running) == 4
    halves = [one for one in scheduler.running if "-ruined" in one.request_id]
    assert len(halves) == 2
    for half in halves:
        scheduler.running.remove(half)
        scheduler._preempt_request(half, 0.0)
    pool = scheduler.kv_cache_manager.block_pool
    held = pool.get_new_blocks(pool.get_num_free_blocks())
    try:
        assert answers(batch, runs, 100) == expected
    finally:
        pool.free_blocks(held)
    assert made == [2]  # two halves ran, and one of them made room


def lengths(vlm: Any, strategy: str) -> tuple[int, int]:
    """Tokens of the prompts of a request's two branches, the longer first."""
    one = Submission(vlm.adapter, request(strategy), no_words, vlm.context)
    longer, shorter = sorted((len(each.prompt.ids) for each in one.branches), reverse=True)
    return longer, shorter


def test_branches_that_fit_together_only_by_their_own_lengths_run(serve: Any, stock: Any) -> None:
    vlm = serve("tiny-llava", **SMALL)
    longer, shorter = lengths(vlm, "m3id")
    tokens = 7 * 32 - longer
    assert 7 + math.ceil((shorter + tokens) / 32) <= 13 < 2 * 7
    one = request("m3id", tokens=tokens)
    (got,), (wanted,) = vlm.generate([one]), stock("tiny-llava").generate([one])
    assert got.text == wanted.text


def test_branches_that_fit_one_by_one_only_are_refused(serve: Any) -> None:
    vlm = serve("tiny-llava", **SMALL)
    tokens = 7 * 32 - lengths(vlm, "vcd")[0]
    with pytest.raises(HaluError, match=r"2 branches of up to 224 tokens need 14 blocks.*has 13"):
        vlm.generate([request("vcd", tokens=tokens)])
    assert not vlm.engine.has_unfinished_requests()
