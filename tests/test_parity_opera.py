"""OPERA: the released implementation's tokens, and the same search once more, slow and obvious.

The vectors (tests/data/parity/opera) were made by running the authors' package on tiny random
language models, whose prompts are words only: what they call the picture is a range of these. Here
the real loop runs on them, with the words' embeddings as the picture's.
"""

from collections import Counter
from functools import cache
from typing import Any

import oracles
import pytest
import torch
from recorder import PARAMS, counted, ending, full_rows, record
from test_parity import Stored, prompt_of
from torch import Tensor
from vectors import Vectors

from halu.adapters.runner import Features
from halu.attention.columns import Columns
from halu.decode import Decoder
from halu.decoders.opera import OPERA, Moment, Retrospective
from halu.engine import Local
from halu.errors import BadInput, Unsupported
from halu.prompt import Prompt
from halu.search import Ended
from halu.testing.random_models import FAMILIES
from halu.types import Answer, Request, Sampling, question
from halu.vlm import asking as ask_for

VECTORS = Vectors("opera")
stored = VECTORS.stored
CHECKED = ("llava", "qwen2_5_vl")
on_each_case = VECTORS.of()
on_two_families = pytest.mark.parametrize("family", CHECKED)


def found(adapter: Any, request: Request) -> tuple[list[int], Any]:
    """The answer's tokens and the search that found them."""
    decoder = Decoder(adapter)
    (job,) = decoder.add([request])
    while decoder.jobs:
        decoder.step()
    assert job.answer is not None
    return [token.id for token in job.answer.tokens], job.search


# The released code


class Words(Stored):
    """A stored Llama whose picture is a range of words."""

    def __init__(self, case: dict[str, Any]) -> None:
        p, data = case["params"], stored(case)
        image = [p["image_start"], p["image_end_inclusive"] + 1]
        data.in_image_main = data.in_prompt_ids[0, slice(*image)]
        super().__init__(data, {"config": p["config"], "image": image})
        self.model.generation_config.eos_token_id = [p["eos"]]

    def look(self, pixels: Any) -> Features:
        ids = pixels["pixel_values"].long()
        return Features(self.model.get_input_embeddings()(ids))


def asked(case: dict[str, Any], strategy: str, **params: Any) -> Request:
    sampling = Sampling(max_new_tokens=case["params"]["max_new_tokens"])
    return Request(messages=question("stored"), strategy=strategy, params=params, sampling=sampling)


def test_every_vector_is_used_and_every_file_is_there() -> None:
    VECTORS.assert_complete()
    assert VECTORS.tasks == {"opera.generate"}


@pytest.mark.parametrize("mode", ["paper", "official"])
@on_each_case
def test_opera(case: dict[str, Any], mode: str) -> None:
    data, p = stored(case), case["params"]
    params = {
        "beams": p["num_beams"],
        "candidates": p["num_attn_candidates"],
        "scale": p["scale_factor"],
        "threshold": p["threshold"],
        "penalty": p["penalty_weights"],
    }
    tokens, search = found(Words(case), asked(case, "opera", mode=mode, **params))
    assert tokens == data.out_sequences[1:].tolist()  # begins with a start token
    assert search.visits.total() == int(data.out_rollbacks)
    plain, _ = found(Words(case), asked(case, "beam", beams=p["num_beams"]))
    assert plain == data.out_beam_search[1:].tolist()
    assert plain != tokens


# Whole models, slow and obvious


class Slow:
    """OPERA from its description: every hypothesis is read anew, whole, without a cache."""

    def __init__(self, model: Any, prompt: Prompt, ends: set[int], p: OPERA.Params) -> None:
        self.model, self.prompt, self.ends, self.p = model, prompt, ends, p
        self.read = cache(self._read)
        self.visits: Counter[int] = Counter()
        self.excluded: dict[int, list[tuple[int, int]]] = {}
        self.again: int | None = None

    def _read(self, tokens: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """The row of scores [V], and the last layer's rows of the generated tokens [n, T + n]."""
        maps: dict[int, Tensor] = {}

        def keep(layer: int, maps_of_heads: Tensor, v: Tensor) -> Tensor:
            maps[layer] = maps_of_heads
            return maps_of_heads @ v

        row = oracles.oracle_rows(self.model, self.prompt, tokens, keep)[-1]
        most = maps[max(maps)].max(0).values
        return row, (most / most.sum(-1, keepdim=True))[len(self.prompt.ids) :]

    def leant(self, tokens: tuple[int, ...]) -> list[float]:
        """S_j for each generated token j."""
        start, rows = len(self.prompt.ids), self.read(tokens)[1]
        columns = []
        for j in range(len(tokens)):
            product = 1e-7
            for i in range(j, len(tokens)):
                product *= self.p.scale * float(rows[i, start + j])
            columns.append(float(torch.tensor(product).half()))
        return columns

    def seen(self, tokens: tuple[int, ...]) -> float:
        """What the last token sees of the picture."""
        row = self.read(tokens)[1][-1]
        return sum(float(row[j]) for j, here in enumerate(self.prompt.layout.is_image()) if here)

    def run(self, new: int) -> list[int]:
        p = self.p
        states: list[dict[str, Any]] = [{"beams": [((), 0.0)], "ended": []}]
        while True:
            now = states[-1]
            length = len(now["beams"][0][0]) + 1
            rows = [self.read(ids)[0] for ids, _ in now["beams"]]
            if self.again is None:
                scores = self.judged(states, rows, length)
                if self.again is not None:
                    del states[min(self.again, length - 2) + 1 :]
                    continue
            else:
                scores = [row.tolist() for row in rows]
                for beam, token in self.excluded[self.again]:
                    scores[beam][token] = float(rows[beam].min())
                self.again = None
            logp = [torch.tensor(row).double().log_softmax(-1).tolist() for row in scores]
            every = [
                (total + logp[beam][token], beam, token)
                for beam, (_, total) in enumerate(now["beams"])
                for token in range(len(logp[beam]))
            ]
            every.sort(key=lambda one: -one[0])
            ended, beams, chosen = list(now["ended"]), [], []
            for rank, (total, beam, token) in enumerate(every):
                ids = (*now["beams"][beam][0], token)
                if token in self.ends:
                    if rank < p.beams:
                        ended.append((total / length, ids))
                elif len(beams) < p.beams:
                    beams.append((ids, total))
                    chosen.append((beam, token))
            ended = sorted(ended, key=lambda one: -one[0])[: p.beams]
            now["chosen"] = chosen
            states.append({"beams": beams, "ended": ended})
            full = len(ended) == p.beams and every[0][0] / (length + 1) <= ended[-1][0]
            if full or length == new:
                last = ended + [(total / (length + 1), ids) for ids, total in beams]
                return list(max(last, key=lambda one: one[0])[1])

    def judged(self, states: list[Any], rows: list[Tensor], length: int) -> list[list[float]]:
        """Scores of all tokens for each beam; or `again` is set."""
        p, now = self.p, states[-1]
        scores, now["places"] = [], []
        for (ids, _), row in zip(now["beams"], rows, strict=True):
            scores.append([-999.0] * len(row))
            places = []
            for token in row.topk(p.candidates).indices.tolist():
                tried = (*ids, token)
                columns = self.leant(tried)
                places.append(columns.index(max(columns)))
                charge = min(float((p.penalty * torch.tensor(max(columns))).half()), 900)
                if length <= 10:
                    charge = -p.penalty * self.seen(tried)
                scores[-1][token] = float(row[token]) - charge
            now["places"].append(mode(places))
        self.again = self.place(states, length)
        return scores

    def place(self, states: list[Any], length: int) -> int | None:
        now, p = states[-1], self.p
        place = mode(now["places"])
        for beam in range(len(now["beams"])):
            times = [s for s in states if beam < len(s["places"]) and s["places"][beam] == place]
            if p.threshold is None or len(times) <= p.threshold:
                return None
        if place < 10:
            return None
        for wanted in (place + 1, place):
            if self.visits[wanted] < p.candidates:
                self.visits[wanted] += 1
                wanted = max(wanted, 1, length - p.history - 1)
                self.excluded = {k: v for k, v in self.excluded.items() if k <= wanted}
                dropped = states[min(wanted, length - 2)]["chosen"]
                self.excluded.setdefault(wanted, []).extend(dropped)
                return wanted
        return None


def mode(values: list[int]) -> int:
    return min(values, key=lambda value: (-values.count(value), value))


def slow_and_real(
    family: str, adapter: Any, stock: Any, image: Any, new: int, ends: list[int], **params: Any
) -> tuple[Slow, Any]:
    mine = adapter(family)
    asking = ask_for(image, "what", strategy="opera", params=params, max_new_tokens=new)
    with ending(mine, ends):
        tokens, search = found(mine, asking)
    prompt = mine.encode(asking.messages)
    slow = Slow(stock(family), prompt, set(ends), OPERA.Params(**params))
    assert tokens == slow.run(new)
    assert search.visits == slow.visits
    return slow, search


LEANING = {
    "llava": {"scale": 38.0, "beams": 1, "candidates": 3},
    "llava_next": {"scale": 50.0},
    "qwen2_vl": {"scale": 60.0},
    "qwen2_5_vl": {"scale": 50.0},
    "qwen3_vl": {"scale": 55.0},
}
"""Scales at which the beams of a random model lean on one token again and again."""
NARROW = {"beams": 2, "candidates": 2, "threshold": 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_opera_equals_a_slow_search(family: str, adapter: Any, stock: Any, picture: Any) -> None:
    own = NARROW | LEANING[family]
    slow, _ = slow_and_real(family, adapter, stock, picture(40, 40), 30, [], **own)
    assert slow.visits.total() > 1


@on_two_families
@pytest.mark.parametrize(
    "own",
    [
        {"beams": 3, "candidates": 4, "scale": 300.0, "penalty": 3.0},
        {"beams": 1, "candidates": 3, "threshold": 2},
        {"beams": 3, "candidates": 3, "threshold": None},
        NARROW | {"history": 2},
    ],
)
def test_opera_equals_a_slow_search_that_ends(
    family: str, own: dict[str, Any], adapter: Any, stock: Any, picture: Any
) -> None:
    """The end is a token that a beam says."""
    image = picture(40, 40, seed=1)
    own = {**LEANING[family], **own}
    asking = ask_for(image, "what", strategy="opera", params=own)
    asking = asking.model_copy(update={"sampling": Sampling(max_new_tokens=18)})
    tokens, _ = found(adapter(family), asking)
    slow_and_real(family, adapter, stock, image, 18, [tokens[12]], **own)
    slow_and_real(family, adapter, stock, image, 18, [], **own)


# The rules of going back


def searched(places: list[list[int]], **params: Any) -> Retrospective:
    """A search whose beams had these places so far, whatever they said."""
    p = OPERA.Params(beams=len(places[0]), **params)
    search = Retrospective(p).start(Sampling(), frozenset(), ())
    search.moments = [
        Moment([(0,) * n] * p.beams, [0.0] * p.beams, Ended(p.beams), of, [(0, n), (1, n)])
        for n, of in enumerate(places)
    ]
    return search


def test_all_beams_must_lean_on_the_place_often_enough() -> None:
    early = [[0, 0]] * 12
    for later, threshold, wanted in (
        ([[11, 11]] * 4, 3, 12),
        ([[11, 11]] * 4, 4, None),
        ([[11, 11]] * 4, None, None),
        ([[11, 11], [11, 0], [11, 11], [11, 11]], 3, None),
        ([[11, 0], [0, 11], [11, 11], [11, 12]], 1, 12),  # the smaller of equally many
    ):
        assert searched(early + later, threshold=threshold)._place(16) == wanted
    assert searched([[9, 9]] * 16, threshold=1)._place(16) is None  # among the first ten


def test_a_place_is_gone_back_to_as_often_as_there_are_candidates() -> None:
    visits: list[int | None] = []
    search = searched([[11, 11]] * 16, threshold=3, candidates=2)
    moments = list(search.moments)
    for _ in range(5):
        search.moments = list(moments)
        visits.append(search._place(16))
        if visits[-1] is not None:
            assert len(search.moments) == visits[-1] + 1
    assert visits == [12, 12, 11, 11, None]


def test_going_back_has_a_limit() -> None:
    search = searched([[11, 11]] * 30, threshold=3, history=5)
    assert search._place(30) == 24
    assert len(search.moments) == 25
    assert search.excluded == {24: {(0, 24), (1, 24)}}


@pytest.mark.parametrize("mode", ["paper", "official"])
def test_what_going_back_forgets(mode: str) -> None:
    """Exclusions after the place; official: those of the next place alone, and the second visit
    finds what has ended since the first.
    """
    search = searched([[11, 11]] * 16, threshold=3, mode=mode)
    search.excluded = {n: {(1, n)} for n in (4, 12, 13, 14)}
    assert search._place(16) == 12
    assert search.excluded[12] == {(0, 12), (1, 12)}
    assert set(search.excluded) == ({4, 12, 14} if mode == "official" else {4, 12})
    search.ended.add(-1.0, 13, [2])
    assert len(search.moments[12].ended.found) == (mode == "official")


def test_a_penalty_leaves_candidates_ahead_of_other_tokens() -> None:
    """Unless mode="official": there a token that nobody tried wins."""
    for mode, ahead in (("paper", True), ("official", False)):
        p = OPERA.Params(beams=1, candidates=1, scale=1000.0, threshold=None, mode=mode)
        search = Retrospective(p).start(Sampling(), frozenset(), ())
        search.moments = [Moment([(7,) * 10], [0.0], Ended(1), [0])]
        columns = Columns(prompt_of(4, [1, 2]).layout, 0)
        columns.logs = [torch.zeros(11, dtype=torch.float64)]
        search.table = torch.tensor([[0.0, 1, 2, 3]])
        search.candidates = [(0, 3)]
        search._judge({(*(7,) * 10, 3): 0}, [(columns,)])
        assert (search.moments[-1].beams[0][-1] == 3) == ahead


def test_columns_are_products_of_rows_also_after_going_back() -> None:
    rng = torch.Generator().manual_seed(0)
    layout = prompt_of(5, [1, 3]).layout
    columns = Columns(layout, 2)
    assert [columns.looks(layer) for layer in range(4)] == [False, False, True, False]

    def shown(rows: list[Tensor]) -> None:
        for x in rows:
            columns.look(2, x)

    rows = [torch.randn(3, 5 + n, generator=rng) for n in range(5)]
    shown(rows)
    twin = columns.fork()
    others = [torch.randn(3, 5 + n, generator=rng) for n in range(2, 5)]
    shown(others)
    for kept, seen in (([*rows[1:2], *others], columns), (rows[1:], twin)):
        w = torch.zeros(4, 4, dtype=torch.float64)
        for i, x in enumerate(kept):
            p = x.softmax(-1).max(0).values
            w[i, : i + 1] = (p / p.sum())[5:]
        wanted = [float(w[j:, j].prod()) for j in range(4)]
        assert seen.logs[-1].exp().tolist() == pytest.approx(wanted, rel=1e-5)
        assert float(seen.picture) == pytest.approx(float((p / p.sum())[1:3].sum()))


# In the loop


def test_a_token_costs_one_forward_of_all_candidates(adapter: Any, picture: Any) -> None:
    mine = adapter("llava")
    params = {"beams": 3, "candidates": 4}
    asking = ask_for(picture(), "a", strategy="opera", params=params, max_new_tokens=6)
    with counted(mine) as count:
        run = record(mine, asking)
    assert (count.prompts, count.tokens) == (1, 6)
    assert count.rows == 1 + 4 + 5 * 12 == run.answer.usage.forwards


def test_requests_that_go_back_do_not_meet_others(adapter: Any, picture: Any) -> None:
    vlm = Local(adapter("qwen2_5_vl"))
    own: dict[str, Any] = {"strategy": "opera", "params": NARROW | LEANING["qwen2_5_vl"]}
    asked = [
        ask_for(picture(90, 60), "red?", max_new_tokens=40),
        ask_for(picture(40, 40), "what", max_new_tokens=30, **own),
        ask_for(picture(60, 60), "a", strategy="vcd", params=PARAMS["vcd"], max_new_tokens=30),
        ask_for(picture(40, 40), "Is there a dog?", max_new_tokens=26, **own),
        ask_for(picture(40, 90), "a", strategy="beam", max_new_tokens=20),
    ]

    def said(answers: list[Answer]) -> list[Any]:
        return [([token.id for token in one.tokens], one.usage) for one in answers]

    alone = said([vlm.generate([one])[0] for one in asked])
    assert said(vlm.generate(asked)) == alone
    assert said(vlm.generate(asked[::-1])) == alone[::-1]
    plain = 1 + 2 + 29 * 4
    assert alone[1][1].forwards > plain  # it went back


@pytest.mark.parametrize("first", ["greedy", "opera"])
def test_the_candidates_memory_is_given_back(first: str, adapter: Any, picture: Any) -> None:
    vlm = Local(adapter("llava"))
    asked = [
        ask_for(picture(), "a", max_new_tokens=12, strategy="greedy"),
        ask_for(picture(), "a", max_new_tokens=5, strategy="opera"),
    ]
    decoder = Decoder(vlm.adapter)
    decoder.add(asked if first == "greedy" else asked[::-1])
    held = []
    while decoder.jobs:
        decoder.step()
        held.append([0 if keys is None else len(keys) for keys in decoder.cache.keys])
    assert max(map(max, held)) == 26
    assert held[6] == [1] * len(held[6])
    assert max(held[-1]) == 0


@on_two_families
def test_candidates_are_those_of_the_rule(family: str, adapter: Any, picture: Any) -> None:
    """With a branch strategy: tokens that its rule leaves out are not said."""
    mine = adapter(family)
    params = {**PARAMS["vcd"], "beams": 2, "candidates": 3, "noise": 900}
    asking = ask_for(picture(), "a", strategy="opera+vcd", params=params, max_new_tokens=6)
    run = record(mine, asking)
    said = {tuple(step.tokens): row for step, row in zip(run.steps, run.ruled, strict=True)}
    for n, token in enumerate(run.tokens):
        assert said[tuple(run.tokens[:n])][token].isfinite()
    first = [step.tokens[0] for step in run.steps if len(step.tokens) == 1]
    assert first == run.ruled[0].topk(min(3, int(run.ruled[0].isfinite().sum()))).indices.tolist()


@pytest.mark.parametrize("strategy", ["pai", "hgai", "deco"])
def test_opera_combines_with_what_can_go_back(strategy: str, adapter: Any, picture: Any) -> None:
    """Rows after going back are those of the other strategy on the same tokens."""
    mine = adapter("qwen2_5_vl")
    params = {f"{strategy}.{key}": value for key, value in PARAMS.get(strategy, {}).items()}
    own = NARROW | LEANING["qwen2_5_vl"]
    asking = ask_for(
        picture(40, 40), "what", strategy=f"{strategy}+opera", params=params | own,
        max_new_tokens=26,
    )  # fmt: skip
    run = record(mine, asking)
    known: dict[tuple[int, ...], Tensor] = {}
    again = 0
    for step, row in zip(run.steps, run.ruled, strict=True):
        before = known.setdefault(tuple(step.tokens), row)
        assert torch.equal(before.isfinite(), row.isfinite())
        assert (before - row)[row.isfinite()].abs().max() < 1e-3
        again += before is not row
    assert again, "no token was read twice"


@pytest.mark.parametrize(
    ("strategy", "params", "error", "says"),
    [
        ("opera+caac", {}, Unsupported, "takes tokens back"),
        ("sparc+opera", {}, Unsupported, "takes tokens back"),
        ("opera+beam", {"beam.beams": 2}, Unsupported, "search"),
        ("opera+halc", {}, Unsupported, "search"),
        ("opera+sample", {}, Unsupported, "search"),
        ("opera", {"beams": 0}, BadInput, "beams=0"),
        ("opera", {"scale": 0}, BadInput, "scale=0"),
    ],
)
def test_what_opera_refuses(
    strategy: str, params: dict[str, Any], error: Any, says: str, adapter: Any, picture: Any
) -> None:
    with pytest.raises(error, match=says):
        Local(adapter("llava")).ask(picture(), "a", strategy=strategy, params=params)


def test_recording_changes_no_row(adapter: Any, stock: Any, picture: Any) -> None:
    mine = adapter("qwen2_5_vl")
    own = NARROW | LEANING["qwen2_5_vl"]
    asking = ask_for(picture(40, 40), "what", strategy="opera", params=own, max_new_tokens=20)
    run = record(mine, asking)
    prompt = run.plan.main.prompt
    for step in run.steps[::7]:
        row = full_rows(stock("qwen2_5_vl"), prompt, step.tokens)[-1]
        assert (step.main - row).abs().max() < 1e-4
