"""What strategies may ask beyond labels and weights: key maps, columns, other heads' maps, the
residual stream, early layers, asides, and hypotheses that go back.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from recorder import full_rows, said_alone, same_rows
from torch import Tensor

from halu.adapters.cache import RowCache
from halu.attention import (
    Epilogue,
    KeyMap,
    ScoreMap,
    column_mass,
    grouped_attention,
    merge,
    weighted_attention,
)
from halu.attention.keys import Keys
from halu.attention.policy import AttentionPolicy, Stacked
from halu.attention.regrouping import Regrouping
from halu.attention.steered import Steered
from halu.attention.steering import Steering
from halu.decode import Decoder
from halu.errors import Unsupported
from halu.layout import ImageSpan, Layout
from halu.prompt import Prompt
from halu.search import Choice, Pick
from halu.strategy import Branch, Plan, Tap
from halu.testing.random_models import FAMILIES
from halu.types import Request, Sampling, question

CHECKED = ("llava", "qwen2_5_vl")


def encoded(mine: Any, picture: Any) -> Prompt:
    prompt: Prompt = mine.encode(question("what is this", picture()))
    return prompt


def qkv(heads: int = 4, kv_heads: int = 2, queries: int = 5, keys: int = 9) -> Any:
    rng = torch.Generator().manual_seed(0)
    shapes = ((heads, queries), (kv_heads, keys), (kv_heads, keys))
    return tuple(torch.randn(1, h, n, 8, generator=rng) for h, n in shapes)


def test_a_key_map_changes_scores_and_values() -> None:
    q, k, v = qkv()
    rng = torch.Generator().manual_seed(1)
    factor, gain = 0.5 + torch.rand(4, 9, generator=rng), torch.rand(9, generator=rng)
    bias = torch.randn(9, generator=rng)
    bias[3] = float("-inf")
    labels = torch.arange(9)[None] % 2
    maps = KeyMap(factor, bias, gain)
    found = grouped_attention(q, k, v, labels, 2, scale=0.3, key_map=maps)
    for head in range(4):
        x = q[0, head] @ k[0, head // 2].T * 0.3 * factor[head] + bias
        p = torch.softmax(x, -1)
        assert torch.allclose(found.mass[0, head, :, 0], p[:, ::2].sum(-1), atol=1e-6)
        assert torch.allclose(merge(found)[0, head], (p * gain) @ v[0, head // 2], atol=1e-6)
    assert torch.allclose(found.mass.sum(-1), torch.ones(1, 4, 5))


def test_two_key_maps_are_applied_one_after_the_other() -> None:
    q, k, v = qkv()
    labels = torch.zeros(1, 9, dtype=torch.long)
    first = KeyMap(bias=torch.linspace(-1, 1, 9), gain=torch.full((9,), 2.0))
    second = KeyMap(torch.linspace(1, 2, 9), torch.ones(9))
    joint = first.then(second)
    found = merge(grouped_attention(q, k, v, labels, 1, scale=1.0, key_map=joint))
    x = (q @ k.repeat_interleave(2, 1).transpose(-1, -2) + first.bias) * second.factor + 1
    wanted = 2 * torch.softmax(x, -1) @ v.repeat_interleave(2, 1)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert KeyMap().then(second) == second


def test_the_epilogue_inside_is_the_merge_outside() -> None:
    q, k, v = qkv(queries=300, keys=300)
    labels = torch.arange(300)[None] % 3
    slopes = ScoreMap(torch.tensor([1, 1.5, 1]), torch.tensor([1, 0.5, 1]), torch.zeros(3))
    shared: Any = {"scale": 0.4, "first": 0, "score_map": slopes}

    def weigh(mass: Tensor) -> Tensor:
        return torch.stack([1 - mass[..., 1], 1 + mass[..., 0], torch.ones_like(mass[..., 0])], -1)

    parts = grouped_attention(q, k, v, labels, 3, **shared)
    found = weighted_attention(q, k, v, labels, 3, epilogue=weigh, **shared)
    assert torch.allclose(found, merge(parts, weigh(parts.mass)), atol=1e-5)
    plain = weighted_attention(q, k, v, labels, 3, epilogue=lambda mass: None, **shared)
    assert torch.allclose(plain, merge(parts), atol=1e-5)


def test_score_maps_one_after_another() -> None:
    x = torch.linspace(-3, 3, 13)
    for ups in ((1.5, 0.5), (-0.5, 2.0), (0.3, -1.0)):
        for downs in ((0.5, 1.2), (-2.0, 0.1), (0.0, -0.7)):
            maps = [
                ScoreMap(torch.tensor([up]), torch.tensor([down]), torch.tensor([bias]))
                for up, down, bias in zip(ups, downs, (0.0, 0.4), strict=True)
            ]
            wanted = mapped(mapped(x, maps[0]), maps[1])
            assert torch.allclose(mapped(x, maps[0].then(maps[1])), wanted, atol=1e-6)
    with pytest.raises(Unsupported, match="bias"):
        maps[1].then(maps[0])


def mapped(x: Tensor, one: ScoreMap) -> Tensor:
    return one.up * x.clamp(min=0) + one.down * x.clamp(max=0) + one.bias


def test_tables_of_several_devices_meet() -> None:
    """What is learnt from a GPU's model meets what is known from the layout on the CPU."""
    first = Weighing("all", 1.0, torch.zeros(4, dtype=torch.long))
    second = Weighing("all", 1.0, torch.zeros(4, dtype=torch.long, device="meta"))
    for order in ((first, second), (second, first)):
        joint = Stacked(order).labels(0)
        assert joint is not None
        assert joint.device.type == "meta"
    here = ScoreMap(torch.ones(2), torch.ones(2), torch.zeros(2))
    there = ScoreMap(*(torch.ones(2, device="meta") for _ in range(3)))
    assert here.then(there).up.device.type == "meta"


def test_key_maps_of_different_widths_follow_one_another() -> None:
    class Prompt(AttentionPolicy):
        keyed = True

        def key_map(self, layer: int) -> KeyMap:
            return KeyMap(gain=torch.full((3,), 2.0))

    class Everything(AttentionPolicy):
        keyed = True

        def key_map(self, layer: int) -> KeyMap:
            return KeyMap(gain=torch.full((4, 5), 3.0))

    both = Regrouping((), (Prompt(), Everything()), 3).key_map(0, 6, torch.device("cpu"))
    assert both is not None
    assert both.gain is not None
    assert both.gain.tolist() == [[6.0, 6.0, 6.0, 3.0, 3.0, 1.0]] * 4


class Weighing(AttentionPolicy):
    """Weighs two groups on some rows."""

    groups = 2

    def __init__(self, rows: Any, weight: float, labels: Tensor) -> None:
        self.rows, self.weight, self.table = rows, weight, labels

    def labels(self, layer: int) -> Tensor:
        return self.table

    def epilogue(self, layer: int) -> Epilogue:
        return partial(self.weights, layer)

    def weights(self, layer: int, mass: Tensor) -> Tensor:
        own = 1 + self.weight * mass[..., 1]
        return torch.stack([torch.ones_like(own), own], -1)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_policies_on_different_rows_each_keep_theirs(order: tuple[int, ...]) -> None:
    """Rows before a policy's first are as without it; the rest as with all that act there."""
    q, k, v = qkv(queries=9)
    layout = Layout(9, (ImageSpan(2, 5, ()),))
    shapes = (("all", 0), ("after_image", 5), ("last", 8))
    tables = [torch.arange(9) % 2, (torch.arange(9) > 3).long(), (torch.arange(9) < 6).long()]
    parts = [Weighing(rows, 0.5 + place, tables[place]) for place, (rows, _) in enumerate(shapes)]

    def run(*policies: AttentionPolicy) -> Tensor:
        steering = Steering([Steered(layout, policies)], [9], prefill=True)
        return steering.attend(0, q, Keys(k, v), 0.5, lambda rows: torch.zeros(1, 4, 9, 8))

    found = run(*(parts[i] for i in order))
    everywhere = [Weighing("all", part.weight, part.table) for part in parts]
    assert torch.allclose(found[:, :, :5], run(everywhere[0])[:, :, :5], atol=1e-6)
    assert torch.allclose(found[:, :, 5:8], run(*everywhere[:2])[:, :, 5:8], atol=1e-6)
    assert torch.allclose(found[:, :, 8:], run(*everywhere)[:, :, 8:], atol=1e-6)
    assert not torch.allclose(run(*everywhere[:2])[:, :, 8:], found[:, :, 8:], atol=1e-4)


def test_column_masses() -> None:
    q, k, _ = qkv(queries=200, keys=200)
    rows = torch.tensor([0, 7, 130, 199])
    x = (q @ k.repeat_interleave(2, 1).transpose(-1, -2)) * 0.5
    p = torch.softmax(x.masked_fill(torch.ones(200, 200).triu(1).bool(), float("-inf")), -1)
    mass, own = column_mass(q, k, rows, 0.5)
    assert torch.allclose(mass, p[:, :, rows].sum(2), atol=1e-5)
    assert torch.allclose(own[:, :, rows], p.diagonal(dim1=-2, dim2=-1)[:, :, rows], atol=1e-6)
    assert float(own.sum()) == pytest.approx(float(own[:, :, rows].sum()))


class Notes(AttentionPolicy):
    """Writes down what it is shown."""

    reads = "all"

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self.streams: list[tuple[int, Tensor]] = []
        self.scores: list[Tensor] = []
        self.rows: Any = "all"
        self.said: list[Tensor] = []
        self.columns: list[Tensor] = []

    def read(self, layer: int, hidden: Tensor) -> Tensor | None:
        self.streams.append((layer, hidden.clone()))
        return None

    def looks(self, layer: int) -> bool:
        return layer == 1

    def look(self, layer: int, x: Tensor) -> None:
        self.scores.append(x)

    def watch(self, layer: int) -> Tensor | None:
        return torch.tensor([2, 3]) if layer == 2 else None

    def watched(self, layer: int, mass: Tensor, own: Tensor) -> None:
        self.columns.append(mass)

    def heard(self, scores: Tensor) -> None:
        self.said.append(scores)


@pytest.mark.parametrize("family", FAMILIES)
def test_policies_see_streams_scores_and_columns(family: str, adapter: Any, picture: Any) -> None:
    mine = adapter(family)
    prompt = encoded(mine, picture)
    notes, layers = Notes(mine.facts.layers), mine.facts.layers
    tokens, rows = said_alone(mine, prompt, 3, (notes,))
    assert [layer for layer, _ in notes.streams] == list(range(layers + 1)) * 3
    assert {tuple(h.shape[:1]) for _, h in notes.streams[: layers + 1]} == {(len(prompt.ids),)}
    assert [x.shape[1] - len(prompt.ids) for x in notes.scores] == [0, 1, 2]
    assert torch.allclose(notes.columns[0].sum(-1), torch.full((4,), 2.0), atol=1e-5)
    assert len(notes.columns) == 1
    assert torch.equal(torch.stack(notes.said), rows)
    assert tokens == [row.argmax().item() for row in rows]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_aside_says_what_stock_decoding_says(
    family: str, adapter: Any, picture: Any, stock: Any
) -> None:
    mine = adapter(family)
    prompt = encoded(mine, picture)
    tokens, rows = said_alone(mine, prompt, 4)
    wanted = full_rows(stock(family), prompt, tokens)[:4]
    assert (rows - wanted).abs().max() < 1e-4


class Replace(AttentionPolicy):
    """Puts zeros in the place of the stream that enters a layer."""

    reads = "all"

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def read(self, layer: int, hidden: Tensor) -> Tensor | None:
        return torch.zeros_like(hidden) if layer == self.layer else None


@pytest.mark.parametrize("family", CHECKED)
def test_a_stream_can_be_replaced(family: str, adapter: Any, picture: Any) -> None:
    mine = adapter(family)
    prompt = encoded(mine, picture)
    for layer in (0, mine.facts.layers):
        _, rows = said_alone(mine, prompt, 2, (Replace(layer),))
        assert torch.allclose(rows, rows[:, :1].expand_as(rows), atol=1e-6)  # the head of zeros
    assert said_alone(mine, prompt, 1)[1].std() > 0.1


@pytest.mark.parametrize("family", CHECKED)
def test_taps_are_the_head_on_hidden_states(
    family: str, adapter: Any, picture: Any, stock: Any
) -> None:
    mine = adapter(family)
    prompt = encoded(mine, picture)
    layers = mine.facts.layers
    taps = (Tap(0, False), Tap(2), Tap(layers), Tap(1, False))
    seen = Steered(prompt.layout, taps=frozenset(tap.layer for tap in taps))
    row = mine.runner.read([prompt], [seen], RowCache(layers))[0]
    early = mine.runner.early(seen.tapped, taps)
    assert (early[Tap(layers)] - row).abs().max() < 1e-4
    hidden: list[Tensor] = []
    model = stock(family)
    hooks = [
        layer.register_forward_pre_hook(
            lambda m, a, k: hidden.append(a[0] if a else k["hidden_states"]), with_kwargs=True
        )
        for layer in model.model.language_model.layers
    ]
    full_rows(model, prompt, [])
    for hook in hooks:
        hook.remove()
    with torch.inference_mode():
        norm = model.model.language_model.norm
        assert (model.lm_head(hidden[0][0, -1]) - early[taps[0]]).abs().max() < 1e-4
        assert (model.lm_head(norm(hidden[2][0, -1])) - early[taps[1]]).abs().max() < 1e-4
        assert (model.lm_head(hidden[1][0, -1]) - early[taps[3]]).abs().max() < 1e-4


def test_borrowed_heads_swap_maps_but_not_values(adapter: Any, picture: Any) -> None:
    q, k, v = qkv(queries=9)

    class Borrow(AttentionPolicy):
        def borrowed_heads(self, layer: int) -> Tensor:
            return torch.tensor([3, 3, 0, 3])

    steering = Steering([Steered(Layout(9), (Borrow(),))], [9], prefill=True)
    found = steering.attend(0, q, Keys(k, v), 0.5, lambda rows: torch.zeros(1, 4, 9, 8))
    hidden = torch.ones(9, 9).triu(1).bool()
    for head, lender in enumerate((3, 3, 0, 3)):
        x = (q[0, lender] @ k[0, lender // 2].T * 0.5).masked_fill(hidden, float("-inf"))
        wanted = torch.softmax(x, -1) @ v[0, head // 2]
        assert torch.allclose(found[0, head], wanted, atol=1e-5)


@pytest.mark.parametrize("family", CHECKED)
def test_words_in_a_pictures_place(family: str, adapter: Any, picture: Any) -> None:
    mine = adapter(family)
    prompt = encoded(mine, picture)
    told = mine.without_images(prompt, "a dog")
    blind = mine.without_images(prompt)
    words = mine.tokenizer.encode("a dog", add_special_tokens=False)
    assert words
    assert len(told.ids) == len(blind.ids) + len(words)
    start = next(i for i, (a, b) in enumerate(zip(told.ids, blind.ids, strict=False)) if a != b)
    assert list(told.ids[start : start + len(words)]) == words
    assert not told.layout.images


class Back(Pick):
    """Goes back to the beginning once, with another first token."""

    def start(self, *args: Any) -> "Back":
        return Back()

    def advance(self, rows: Tensor, seen: list[list[int]], policies: Any = ()) -> list[Choice]:
        if len(seen[0]) == 3 and seen[0][0] != 7:
            return [Choice(0, 7, keep=0)]
        return [Choice(0, int(rows[0].argmax()))]

    def best(self, live: Sequence[list[int]], *, final: bool) -> list[int] | None:
        return list(live[0]) if final else None


@pytest.mark.parametrize("family", CHECKED)
def test_a_hypothesis_can_go_back(family: str, adapter: Any, picture: Any, stock: Any) -> None:
    """Keys, positions and steering after going back are those of a run that never went there."""
    mine = adapter(family)
    asked = Request(messages=question("a", picture()), sampling=Sampling(max_new_tokens=5))
    decoder = Decoder(mine)
    (job,) = decoder.add([asked])
    job.search = Back(streams=False)
    while decoder.jobs:
        decoder.step()
    assert job.answer is not None
    tokens = [token.id for token in job.answer.tokens]
    assert tokens[0] == 7
    assert len(tokens) == 5
    rows = full_rows(stock(family), job.plan.main.prompt, tokens)
    assert [int(row.argmax()) for row in rows[1:5]] == tokens[1:]


class Counting(AttentionPolicy):
    """Counts the tokens of its own hypothesis."""

    def __init__(self, count: int = 0) -> None:
        self.count = count

    def fork(self) -> "Counting":
        return Counting(self.count)

    def heard(self, scores: Tensor) -> None:
        self.count += 1


def test_beams_do_not_share_what_their_policies_learn(adapter: Any, picture: Any) -> None:
    mine = adapter("llava")
    asked = Request(
        messages=question("a", picture()), strategy="beam", sampling=Sampling(max_new_tokens=6)
    )
    decoder = Decoder(mine)
    (job,) = decoder.add([asked])
    prompt = job.plan.main.prompt
    job.rows[0][0].steering = Steered(prompt.layout, (Counting(1),))
    while decoder.jobs:
        for branches in job.rows:
            (policy,) = branches[0].steering.policies
            assert isinstance(policy, Counting)
            assert policy.count == len(job.seen[0]) + 1
        decoder.step()
    assert len({id(branches[0].steering) for branches in job.rows}) > 1


def test_a_branch_may_have_policies_of_its_own(adapter: Any, picture: Any) -> None:
    """Only there: the main branch stays plain."""
    from halu.planning import steered

    mine = adapter("llava")
    prompt = encoded(mine, picture)
    own, shared = Counting(), Counting()
    main = Branch("main", prompt)
    extra = Branch("extra", prompt, steered=False, policies=(lambda p: own,))
    both = Branch("both", prompt, policies=(lambda p: own,))
    plan = Plan(main, (extra, both), policies=(lambda p: shared,))
    assert steered(plan, main)() == (shared,)
    assert steered(plan, extra)() == (own,)
    assert steered(plan, both)() == (shared, own)


def test_rows_of_scores_reach_rules_and_policies_unchanged(adapter: Any, picture: Any) -> None:
    mine = adapter("llava")
    prompt, row = encoded(mine, picture), Steered(encoded(mine, picture).layout)
    (wanted,) = mine.runner.read([prompt], [row], RowCache(mine.facts.layers))
    assert same_rows(said_alone(mine, prompt, 1)[1][0], wanted)
