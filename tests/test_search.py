"""How rows become tokens: beams against transformers' own on a small language model, and picks."""

import math
from typing import Any

import pytest
import torch
import transformers as tf
from torch import Tensor

from halu.search import Beams, Pick, drawn, filtered
from halu.types import Sampling

VOCAB = 14


@pytest.fixture(scope="module")
def language() -> Any:
    """A tiny Llama with peaked rows, so that ends, ties of length and overtaking really happen."""

    def made(seed: int) -> Any:
        torch.manual_seed(seed)
        config = tf.LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            eos_token_id=None,
            bos_token_id=None,
            pad_token_id=0,
        )
        model = tf.LlamaForCausalLM(config).eval()
        with torch.no_grad():
            model.lm_head.weight.mul_(60)
            model.model.embed_tokens.weight.mul_(30)
        return model

    return made


@torch.inference_mode()
def searched(model: Any, search: Any, sampling: Sampling, ends: list[int]) -> list[int]:
    """Our search driven by full forwards."""
    prompt = (1, 2)
    search = search.start(sampling, frozenset(ends), prompt)
    live: list[list[int]] = [[]]
    while True:
        ids = torch.tensor([[*prompt, *hypothesis] for hypothesis in live])
        rows = model(ids).logits[:, -1].float()
        choices = search.advance(rows, live)
        live = [[*live[choice.parent], choice.token] for choice in choices]
        longest = max(map(len, live), default=sampling.max_new_tokens)
        best: list[int] | None = search.best(live, final=longest >= sampling.max_new_tokens)
        if best is not None:
            return best


def generated(model: Any, beams: int, new: int, ends: list[int], **own: Any) -> list[int]:
    """transformers' beams for the same."""
    prompt = torch.tensor([[1, 2]])
    own = {"early_stopping": False, **own}
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=new,
        num_beams=beams,
        do_sample=False,
        eos_token_id=ends or None,
        pad_token_id=0,
        **own,
    )[0, 2:].tolist()
    stop = next((n for n, token in enumerate(out) if token in ends), len(out) - 1)
    found: list[int] = out[: stop + 1]
    return found


@pytest.mark.parametrize("beams", [2, 4])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -1.0])
@pytest.mark.parametrize("ends", [[5], [5, 7, 9]])
def test_beams_find_what_transformers_finds(
    beams: int, length_penalty: float, ends: list[int], language: Any
) -> None:
    ended = 0
    for seed in range(5):
        model = language(seed)
        search = Beams(beams, length_penalty)
        mine = searched(model, search, Sampling(max_new_tokens=9), ends)
        theirs = generated(model, beams, 9, ends, length_penalty=length_penalty)
        assert mine == theirs
        ended += bool(theirs) and theirs[-1] in ends
    assert ended or length_penalty > 1, "no answer ends; long ones win where length is rewarded"


@pytest.mark.parametrize("ends", [[5], [5, 7, 9]])
def test_one_beam_is_greedy(ends: list[int], language: Any) -> None:
    for seed in range(8):
        model, sampling = language(seed), Sampling(max_new_tokens=9)
        greedy = searched(model, Pick(), sampling, ends)
        assert searched(model, Beams(1), sampling, ends) == greedy


def test_as_many_hypotheses_live_as_were_asked_for() -> None:
    """Each of 3 hypotheses can end in 3 ways, so the best (1 + 3) x 3 continuations have 3 that
    go on; transformers looks at that many.
    """
    ends = frozenset([0, 1, 2])
    search = Beams(3).start(Sampling(), ends, ())
    assert len(search.advance(torch.tensor([[-9.0, -9, -9, 3, 2, 1, 0, 0]]), [[]])) == 3
    rows = torch.tensor([[5.0, 5, 5, 6, 1, 0, 0, 0]]).expand(3, -1)
    choices = search.advance(rows, [[3], [4], [5]])
    assert [(choice.parent, choice.token) for choice in choices] == [(0, 3), (1, 3), (2, 3)]


def test_choices_name_their_parents() -> None:
    search = Beams(2).start(Sampling(), frozenset([3]), ())
    first = search.advance(torch.tensor([[2.0, 1.0, -5, -5]]), [[]])
    assert [(c.parent, c.token) for c in first] == [(0, 0), (0, 1)]
    logp = torch.log_softmax(torch.tensor([2.0, 1.0, -5, -5]), -1)
    assert search.totals == pytest.approx(logp[:2].tolist())
    rows = torch.tensor([[0.0, 0, 0, 0], [-9, 9, -9, -9]])
    second = search.advance(rows, [[0], [1]])
    assert (second[0].parent, second[0].token) == (1, 1)
    assert second[1].parent == 0


@pytest.mark.parametrize("only", [0, 3])
def test_beams_cope_with_rows_that_leave_one_token(only: int) -> None:
    """A cutoff of 1 leaves the best token alone; if that is an end, the search is over."""
    row = torch.full((1, 4), -math.inf)
    row[0, only] = 2.0
    search = Beams(3).start(Sampling(), frozenset([3]), ())
    choices = search.advance(row, [[]])
    if only == 3:
        assert choices == []
        assert search.best([], final=False) == [3]
        return
    assert [(c.parent, c.token) for c in choices] == [(0, 0)]
    assert search.best([[0]], final=False) is None
    assert [c.token for c in search.advance(row, [[0]])] == [0]
    assert search.best([[0, 0]], final=True) == [0, 0]


def test_a_search_keeps_its_state_for_one_request() -> None:
    shared = Beams(2)
    rows = torch.tensor([[1.0, 0.5, 0.2]])
    first, second = (shared.start(Sampling(), frozenset(), ()) for _ in range(2))
    first.advance(rows, [[]])
    assert second.totals == [0.0]
    assert shared.totals == [0.0]
    pick = Pick()
    draws = [
        [pick.start(Sampling(temperature=1.0, seed=seed), frozenset(), ()) for seed in (1, 1, 2)]
        for _ in range(2)
    ]
    flat = torch.zeros(1, 1000)
    taken = [[one.advance(flat, [[]])[0].token for one in row] for row in draws]
    assert taken[0] == taken[1]
    assert taken[0][0] == taken[0][1] != taken[0][2]


def test_a_pick_is_the_best_token_or_a_draw_of_what_is_left() -> None:
    row = torch.tensor([[0.0, 3.0, -math.inf, 2.9]])
    pick = Pick().start(Sampling(), frozenset([1]), ())
    (choice,) = pick.advance(row, [[]])
    assert (choice.parent, choice.token) == (0, 1)
    assert pick.best([[1]], final=False) == [1]
    assert pick.best([[0]], final=False) is None
    assert pick.best([[0]], final=True) == [0]
    drawing = Pick().start(Sampling(temperature=1.0), frozenset(), ())
    drawn = {drawing.advance(row, [[]])[0].token for _ in range(300)}
    assert drawn == {0, 1, 3}


def test_the_prompts_tokens_count_as_said() -> None:
    row = torch.tensor([[3.0, 2.9, 0, 0]])
    sampling = Sampling(repetition_penalty=2.0)
    for prompt, seen, wanted in (((), [], 0), ((0,), [], 1), ((), [0], 1), ((0, 1), [], 0)):
        pick = Pick().start(sampling, frozenset(), prompt)
        assert pick.advance(row, [seen])[0].token == wanted
        beams = Beams(2).start(sampling, frozenset(), prompt)
        assert beams.advance(row, [seen])[0].token == wanted


def test_filters_leave_the_row_they_were_given() -> None:
    row = torch.randn(20, generator=torch.Generator().manual_seed(0))
    before = row.clone()
    sampling = Sampling(temperature=0.5, top_k=3, top_p=0.5, repetition_penalty=2.0)
    found: Tensor = filtered(row, sampling, [1, 2, 3])
    assert torch.equal(row, before)
    assert 1 <= int(found.isfinite().sum()) <= 3
    assert filtered(row, Sampling(top_k=3, top_p=0.5), []) is row


def test_a_draw_takes_each_token_for_its_share_of_the_mass() -> None:
    p = torch.tensor([0.0, 0.2, 0.0, 0.5, 0.3, 0.0])
    row = p.log()
    shares = torch.arange(1000) / 1000
    counts = torch.bincount(torch.tensor([int(drawn(row, float(u))) for u in shares]), minlength=6)
    assert (counts / 1000 - p).abs().max() < 2e-3
    assert counts[[0, 2, 5]].sum() == 0
    assert int(drawn(row, 0.0)) == 1
    assert int(drawn(row, 1 - 2**-53)) == 4
    assert int(drawn(torch.tensor([0.0, -200.0]), 0.9999999)) == 0
