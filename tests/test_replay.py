"""Recorded steps: the same tokens as steps that are not, for every strategy and any mixture."""

import gc
import weakref
from collections.abc import Callable
from functools import cache
from itertools import chain
from typing import Any

import pytest
import torch
from recorder import ONLY_ON, PARAMS, raise_errors
from torch.utils._python_dispatch import TorchDispatchMode

import halu
from halu.adapters.replay import KEPT, CudaGraphs, repeated
from halu.adapters.static_cache import StaticCache, doubled
from halu.attention.keys import Keys
from halu.attention.placed import indices, placed
from halu.attention.policy import AttentionPolicy
from halu.attention.steered import Steered
from halu.attention.steering import Steering
from halu.decode import Decoder
from halu.engine import Local
from halu.layout import Layout
from halu.strategy import strategies
from halu.testing.random_models import random_adapter
from halu.types import Answer, Request
from halu.vlm import asking

SETTLED = ("greedy", "vcd", "vhr", "var", "pai", "vaf", "zerotuning", "adhh", "dola", "fia")


class Counted:
    """A capture that repeats, and counts what it was given and how often it was repeated."""

    def __init__(self) -> None:
        self.recorded = self.played = 0

    def __call__(self, call: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1

        def play() -> None:
            self.played += 1
            call()

        return play


@pytest.fixture(scope="module")
def static() -> Callable[[str], tuple[Local, Counted]]:
    """A model of its own whose steps are recorded."""

    @cache
    def made(family: str) -> tuple[Local, Counted]:
        counted, adapter = Counted(), random_adapter(family)
        adapter.runner.record(counted)
        return Local(adapter), counted

    return made


def ids(answer: Answer | None) -> list[int]:
    assert answer is not None
    return [token.id for token in answer.tokens]


def asked(picture: Any, names: Any, tokens: int = 8) -> list[Request]:
    return [
        asking(
            picture(60, 90, seed),
            "Is it red? " * (1 + seed % 3),
            strategy=name,
            params=PARAMS.get(name),
            max_new_tokens=tokens,
        )
        for seed, name in enumerate(names)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_every_strategy_gives_what_it_gives_without_recording(
    family: str, static: Any, adapter: Any, picture: Any
) -> None:
    names = [name for name in strategies.names() if family in ONLY_ON.get(name, (family,))]
    requests = asked(picture, names)
    vlm, counted = static(family)
    wanted = Local(adapter(family)).generate(requests)
    assert list(map(ids, vlm.generate(requests))) == list(map(ids, wanted))
    for request, plain in zip(requests, wanted, strict=True):
        played = counted.played
        (answer,) = vlm.generate([request])
        assert ids(answer) == ids(plain)
        assert answer.usage == plain.usage
        if request.strategy in SETTLED:
            assert counted.played > played, f"{request.strategy} is not recorded"


def test_settled_policies_of_strategies_are_what_they_say() -> None:
    """Nothing of theirs is asked about generated tokens but tables."""
    for name in strategies.names():
        strategies.get(name)

    def below(cls: type) -> set[type]:
        return {cls} | {one for child in cls.__subclasses__() for one in below(child)}

    found = {cls for cls in below(AttentionPolicy) if cls.__module__.startswith("halu")}
    settled = {cls for cls in found if cls.settled}
    assert len(settled) > 5
    for cls in settled:
        assert cls.reads != "all"
        assert not cls.carries
        for question in ("look", "looks", "heard"):
            assert getattr(cls, question) is getattr(AttentionPolicy, question), cls


def tables(policies: Any, layers: int) -> list[Any]:
    """All that policies answer about a generated token."""
    found: list[Any] = []
    for policy in policies:
        mass = torch.rand(4, 1, policy.groups, generator=torch.Generator().manual_seed(0))
        for layer in range(layers):
            labels = policy.labels(layer)
            score_map, key_map = policy.score_map(layer), policy.key_map(layer)
            weigh = None if labels is None else policy.epilogue(layer)
            weights = None if weigh is None else weigh(mass)
            scale = policy.head_scale(layer, None)
            found += [labels, weights, scale]
            found += [None] * 2 if score_map is None else [score_map.up, score_map.down]
            found += [key_map]
    return found


@pytest.mark.parametrize("name", SETTLED)
def test_settled_policies_answer_the_same_at_every_step(
    name: str, adapter: Any, picture: Any
) -> None:
    """What a recording freezes."""
    mine = adapter("llava")
    decoder = Decoder(mine)
    (job,) = decoder.add(asked(picture, [name]))
    decoder.step()
    steered = [row.steering for row in job.rows[0]]
    assert all(one.settled for one in steered)
    before = [tables(one.policies, mine.facts.layers) for one in steered]
    while decoder.jobs:
        decoder.step()
    after = [tables(one.policies, mine.facts.layers) for one in steered]
    for a, b in zip(chain(*before), chain(*after), strict=True):
        assert a is b if a is None else torch.equal(a, b)


def test_plain_recordings_serve_other_requests(static: Any, picture: Any) -> None:
    vlm, counted = static("llava")
    first, second = asked(picture, ["greedy", "vcd"], 12)
    vlm.generate([first])
    recorded, played = counted.recorded, counted.played
    vlm.generate([asking(picture(90, 60, 7), "no", strategy="greedy", max_new_tokens=6)])
    # Its cache is its own, so it is recorded once for all its steps.
    assert counted.recorded == recorded + 1
    assert counted.played == played + 5
    decoder = Decoder(vlm.adapter)
    decoder.add([first])
    recorded = counted.recorded
    while decoder.jobs:
        raise_errors(decoder.step())
    decoder.add([asking(picture(90, 60, 7), "no", strategy="greedy", max_new_tokens=6)])
    while decoder.jobs:
        raise_errors(decoder.step())
    assert counted.recorded == recorded + 1
    assert len(vlm.adapter.runner.replays._kept) <= KEPT
    decoder.add([second])


def test_requests_come_and_go_while_steps_are_repeated(
    static: Any, adapter: Any, picture: Any
) -> None:
    vlm, counted = static("llava")
    requests = asked(picture, ["greedy", "vhr", "beam", "vcd", "opera", "dola", "var"], 9)
    alone = [ids(Local(adapter("llava")).generate([one])[0]) for one in requests]
    decoder, jobs, waiting = Decoder(vlm.adapter), [], list(requests)
    before = counted.played
    while waiting or decoder.jobs:
        if waiting:
            jobs += decoder.add([waiting.pop(0)])
        raise_errors(decoder.step())
        raise_errors(decoder.step())
    assert [ids(job.answer) for job in jobs] == alone
    assert counted.played > before


def run_out(decoder: Decoder) -> None:
    while decoder.jobs:
        raise_errors(decoder.step())


def test_what_a_step_reads_outlives_the_recorded_call(
    picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph knows memory by its address and keeps none of it, nor the call."""
    adapter = random_adapter("llava")

    def forgetful(call: Callable[[], None]) -> Callable[[], None]:
        with monkeypatch.context() as inside:
            inside.setattr(torch, "arange", arange)
            call()
        return lambda: None

    made: list[weakref.ref[torch.Tensor]] = []
    arange = torch.arange

    def noted(*args: Any, **kwargs: Any) -> torch.Tensor:
        found = arange(*args, **kwargs)
        made.append(weakref.ref(found))
        return found

    adapter.runner.record(forgetful)
    decoder = Decoder(adapter)
    decoder.add(asked(picture, ["greedy"], 4))
    with monkeypatch.context() as outside:
        outside.setattr("torch.arange", noted)
        raise_errors(decoder.step())
    gc.collect()
    assert len(made) == 2
    assert all(one() is not None for one in made)
    decoder.close()
    adapter.runner.replays._kept.clear()
    gc.collect()
    assert all(one() is None for one in made)


@pytest.mark.parametrize("names", [["greedy"], ["pai", "greedy"]])
def test_a_step_that_cannot_be_recorded_runs_as_usual(
    names: list[str], adapter: Any, picture: Any
) -> None:
    tried = 0

    def refusing(call: Callable[[], None]) -> Callable[[], None]:
        nonlocal tried
        tried += 1
        raise RuntimeError("operation not permitted when stream is capturing")

    mine = random_adapter("llava")
    mine.runner.record(refusing)
    requests = asked(picture, names, 10)
    wanted = Local(adapter("llava")).generate(requests)
    assert list(map(ids, Local(mine).generate(requests))) == list(map(ids, wanted))
    assert tried == 1


def test_an_error_while_recording_is_nobodys_failure(
    adapter: Any,
    picture: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    capturing = False

    def capture(call: Callable[[], None]) -> Callable[[], None]:
        nonlocal capturing
        capturing = True
        try:
            call()
        finally:
            capturing = False
        return call

    mine = random_adapter("llava")
    mine.runner.record(capture)
    requests = asked(picture, ["vhr"], 10)
    wanted = Local(adapter("llava")).generate(requests)
    decoder = Decoder(mine)
    (job,) = decoder.add(requests)
    policy = type(job.rows[0][0].steering.policies[0])
    answer = policy.head_scale

    def touchy(self: Any, layer: int, last: Any) -> Any:
        if capturing:
            raise RuntimeError("a copy while capturing")
        return answer(self, layer, last)

    monkeypatch.setattr(policy, "head_scale", touchy)
    run_out(decoder)
    assert ids(job.answer) == ids(wanted[0])
    (told,) = caplog.messages
    assert told.endswith("runs as usual: a copy while capturing")


def test_recordings_of_rows_that_have_ended_are_dropped(static: Any, picture: Any) -> None:
    vlm, counted = static("llava")
    decoder = Decoder(vlm.adapter)
    decoder.add(asked(picture, ["greedy"], 60))
    for _ in range(3):
        before = counted.recorded
        (job,) = decoder.add(asked(picture, ["pai"], 6))
        while not job.over:
            raise_errors(decoder.step())
        assert counted.recorded > before
    raise_errors(decoder.step())
    kept = vlm.adapter.runner.replays._kept.values()
    assert [one.own for one in kept if one.cache() is decoder.cache] == [0]
    decoder.close()


@pytest.mark.parametrize("leave", ["end", "drop", "close"])
def test_a_decoder_at_rest_keeps_no_recordings_of_rows_that_have_ended(
    leave: str, static: Any, picture: Any
) -> None:
    vlm, counted = static("llava")
    decoder, before = Decoder(vlm.adapter), counted.recorded
    (job,) = decoder.add(asked(picture, ["pai"], 6))
    steered = weakref.ref(job.rows[0][0].steering.policies[0])
    while counted.recorded == before:
        raise_errors(decoder.step())
    if leave == "drop":
        decoder.drop(job)
    if leave == "close":
        decoder.close()
    while decoder.jobs:
        raise_errors(decoder.step())
    assert all(one.own == 0 for one in vlm.adapter.runner.replays._kept.values())
    del job
    gc.collect()
    assert steered() is None


class FromTheHost(TorchDispatchMode):
    """Notes what reads memory of the host, as no recorded step may."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [one for one in (*args, *(kwargs or {}).values()) if isinstance(one, torch.Tensor)]
        if "lift_fresh" in str(func) or any(one.device.type == "cpu" for one in given):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def steps_on_another_device(rows: list[Steered], layers: int, heads: int) -> FromTheHost:
    """All layers' attention of a recorded step, once before it is watched."""
    there, keys = torch.device("meta"), 512
    q = torch.empty(len(rows), heads, 1, 8, device=there)
    k = torch.empty(len(rows), heads, keys, 8, device=there)
    stop = torch.empty(len(rows), dtype=torch.long, device=there)

    def step() -> None:
        steering = Steering(rows, [keys] * len(rows), prefill=False, stop=stop)
        for layer in range(layers):
            steering.attend(layer, q, Keys(k, k), 1.0, lambda some: q[some])

    step()
    with FromTheHost() as watch:
        step()
    return watch


def test_a_settled_step_copies_nothing_from_the_host(adapter: Any, picture: Any) -> None:
    """Alone, two on a row, and side by side."""
    mine = adapter("llava")
    decoder = Decoder(mine)
    names = ("vhr", "var", "pai", "vaf", "zerotuning", "adhh")
    view = picture()
    own = [
        asking(view, "a", strategy=name, params=PARAMS.get(name), max_new_tokens=4)
        for name in names
    ]
    jobs = decoder.add(own)
    steered = {name: job.rows[0][0].steering for name, job in zip(names, jobs, strict=True)}
    layout, layers = steered["var"].layout, mine.facts.layers
    assert any(steered["var"].regrouping.changes(layer) for layer in range(layers))
    pairs = [
        Steered(layout, (*steered[a].policies, *steered[b].policies))
        for a in names
        for b in names
        if a != b
    ]
    batches = [[one] for one in (*steered.values(), *pairs)]
    batches += [[*steered.values(), Steered(layout)], [*pairs, Steered(layout)]]
    for rows in batches:
        assert all(row.settled for row in rows)
        assert steps_on_another_device(rows, layers, mine.facts.heads).found == []
    decoder.close()


def test_a_copy_from_the_host_is_noticed() -> None:
    class Careless(AttentionPolicy):
        settled = True

        def head_scale(self, layer: int, last: Any) -> torch.Tensor:
            return torch.ones(2).to("meta")

    rows = [Steered(Layout(0), (Careless(),))]
    assert steps_on_another_device(rows, 1, 2).found


def test_memory_of_many_rows_is_given_back_when_fewer_came_last(static: Any, picture: Any) -> None:
    vlm, _ = static("llava")
    decoder = Decoder(vlm.adapter)
    mine = decoder.cache
    assert isinstance(mine, StaticCache)
    cases = ((4, 4, True), (9, 16, True), (9, 16, False), (12, 16, False), (2, 0, True))
    for beams, room, moves in (*cases, (2, 2, True)):
        params = {"beams": beams}
        own = {"strategy": "beam", "params": params, "max_new_tokens": 6}
        decoder.add([asking(picture(), "a", **own)])
        place = mine.place
        run_out(decoder)
        assert mine.room == room
        assert (mine.place != place) == moves


def test_recordings_do_not_keep_memory_that_nobody_uses(static: Any, picture: Any) -> None:
    vlm, _ = static("llava")
    request = asking(picture(), "a", max_new_tokens=4)
    for _ in range(3):
        vlm.generate([request])
    gc.collect()
    assert sum(type(thing) is StaticCache for thing in gc.get_objects()) <= 1
    vlm.generate([request])
    assert not vlm.adapter.runner.replays._kept


def test_memory_doubles_and_stays_where_it_is(static: Any, picture: Any, adapter: Any) -> None:
    vlm, _ = static("llava")
    mine = StaticCache(vlm.adapter.facts.layers, least=16)
    decoder = Decoder(vlm.adapter)
    decoder.cache = mine
    request, other = asked(picture, ["greedy", "vcd"], 40)
    jobs = decoder.add([request])
    places = []
    while decoder.jobs:
        raise_errors(decoder.step())
        if len(places) == 20:
            jobs += decoder.add([other])
        places.append((mine.slots, mine.room, mine.keys[0].data_ptr()))
    moved = {place[2] for place in places}
    assert len(moved) == len({place[:2] for place in places})
    assert all(slots == doubled(slots) and room == doubled(room) for slots, room, _ in places)
    assert places[-1][:2] > places[0][:2]
    wanted = Local(adapter("llava")).generate([request, other])
    assert [ids(job.answer) for job in jobs] == list(map(ids, wanted))


def test_tables_are_copied_to_a_device_once() -> None:
    table, there = torch.arange(3), torch.device("meta")
    assert placed(table, table.device) is table
    assert placed(table, there).device == there
    assert placed(table, there) is placed(table, there)
    assert placed(torch.arange(3), there) is not placed(table, there)
    assert indices((2, 0), torch.device("cpu")).tolist() == [2, 0]


def test_repeating_is_calling() -> None:
    called = []
    play = repeated(lambda: called.append(1))
    assert called == []
    play()
    play()
    assert called == [1, 1]


@pytest.mark.parametrize(("count", "wanted"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128)])
def test_doubled(count: int, wanted: int) -> None:
    assert doubled(count) == wanted


@pytest.mark.gpu
def test_cuda_graphs_are_switched_on_where_a_model_is_loaded(picture: Any) -> None:
    own = {"device": "cuda", "dtype": "float32"}
    plain, recorded = (halu.load("tiny-llava", **own, graphs=graphs) for graphs in (False, True))
    said = [vlm.ask(picture(), "Describe it.", max_new_tokens=8) for vlm in (plain, recorded)]
    assert said[0].text == said[1].text
    assert plain.adapter.runner.replays is None
    assert any(one.replay for one in recorded.adapter.runner.replays._kept.values())


@pytest.mark.gpu
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_cuda_graphs_give_what_the_cpu_gives(family: str, adapter: Any, picture: Any) -> None:
    there = random_adapter(family)
    there.model.to("cuda")
    there.runner.device = there.runner.vision._device = torch.device("cuda")
    there.runner.record(CudaGraphs(there.runner.device))
    requests = asked(picture, ["greedy", "vcd", "vhr", "var", "pai", "dola"], 24)
    wanted = Local(adapter(family)).generate(requests)
    assert list(map(ids, Local(there).generate(requests))) == list(map(ids, wanted))
