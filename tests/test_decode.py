"""The one loop: a mixture of requests gives what each gives alone; ends, stops, beams."""

import gc
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from recorder import ONLY_ON, PARAMS, counted, ending, full_rows, record
from torch.utils._python_dispatch import TorchDispatchMode

from halu.adapters.cache import RowCache
from halu.decode import Decoder
from halu.engine import Local
from halu.errors import BadInput, Failed, HaluError, Unsupported
from halu.job import Job
from halu.search import drawn
from halu.strategy import strategies
from halu.testing.random_models import FAMILIES, random_adapter
from halu.transcript import Transcript
from halu.types import Answer, Message, Picture, Request, Sampling, Text
from halu.vlm import VLM, asking

on_all_families = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def mixture(picture: Any) -> list[Request]:
    """Strategies of every kind; pictures of several sizes, none and two; unequal lengths."""
    ask = asking
    wide, tall, small = picture(150, 60, 1), picture(60, 140, 2), picture(40, 40, 3)
    long = "Please describe this image in detail, the two red dogs and the cat of the man included."
    var, vcd = PARAMS["var"], PARAMS["vcd"]
    return [
        ask(wide, "Is there a dog?", strategy="greedy", max_new_tokens=9),
        ask(tall, long, strategy="vcd", params=vcd, max_new_tokens=5, seed=1),
        ask(small, "red?", strategy="vhr", max_new_tokens=12),
        ask(None, "yes or no", max_new_tokens=7),
        ask([small, wide], "Which two?", strategy="var", params=var, max_new_tokens=6),
        ask(wide, long, strategy="ritual", params=PARAMS["ritual"], max_new_tokens=4, seed=2),
        ask(small, "a cat", strategy="m3id", params={"mode": "official"}, max_new_tokens=8),
        ask(tall, "cat", strategy="beam+vcd", params=vcd | {"beams": 3}, max_new_tokens=6, seed=3),
        ask(wide, "Dog?", strategy="beam+vhr", params={"beams": 2}, max_new_tokens=8),
        ask(small, "Dog?", temperature=1.0, top_p=0.9, seed=4, max_new_tokens=10),
        ask(tall, "of", strategy="vhr+ritual", max_new_tokens=5),
        ask(wide, "of", strategy="var", params=var, max_new_tokens=5),
        ask(None, "Dog?", strategy="beam", params={"beams": 2}, max_new_tokens=3),
    ]


@pytest.fixture(scope="module")
def everything(mixture: list[Request], picture: Any) -> list[Request]:
    """The mixture, and every registered strategy."""
    ask, image = asking, picture(90, 60, 5)
    return [
        *mixture,
        *(
            ask(image, "Is it red?", strategy=name, params=PARAMS.get(name), max_new_tokens=4)
            for name in strategies.names()
        ),
    ]


def ids(answer: Answer | None) -> list[int]:
    assert answer is not None
    return [token.id for token in answer.tokens]


def written(vlm: VLM, tokens: Sequence[int]) -> str:
    text: str = vlm.adapter.tokenizer.decode(
        tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return text.lstrip(" ")  # spaces in front are the template's, not the answer's


@pytest.mark.slow
@on_all_families
def test_a_mixed_batch_gives_what_each_gives_alone(
    family: str, everything: list[Request], adapter: Any
) -> None:
    vlm = Local(adapter(family))
    everything = [one for one in everything if family in ONLY_ON.get(one.strategy or "", FAMILIES)]
    alone, costs = [], []
    for one in everything:
        with counted(vlm.adapter) as cost:
            alone += vlm.generate([one])
        costs.append(cost)
    with counted(vlm.adapter) as count:
        together = vlm.generate(everything)
    assert [ids(answer) for answer in together] == [ids(answer) for answer in alone]
    assert [a.usage for a in together] == [a.usage for a in alone]
    assert len({tuple(ids(answer)) for answer in alone}) > 10, "the mixture is not a mixture"
    # Texts and prompts beside decoding go through the model with everything else.
    assert count.tokens == max(cost.tokens for cost in costs)
    assert count.prompts < sum(cost.prompts - 1 for cost in costs)
    assert count.rows == sum(cost.rows for cost in costs)


@pytest.mark.gpu
@on_all_families
def test_a_mixed_batch_on_a_gpu_gives_what_the_cpu_gives(
    family: str, mixture: list[Request], adapter: Any
) -> None:
    there = random_adapter(family)
    there.model.to("cuda")
    there.device = torch.device("cuda")
    together = Local(there).generate(mixture)
    drawn = [index for index, one in enumerate(mixture) if one.sampling.temperature]
    wanted = Local(adapter(family)).generate(mixture)
    for index, (mine, theirs) in enumerate(zip(together, wanted, strict=True)):
        if index not in drawn:
            assert ids(mine) == ids(theirs)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_evidence_in_a_mixed_batch_is_that_of_the_request_alone(
    family: str, picture: Any, adapter: Any
) -> None:
    vlm = Local(adapter(family))
    short = {"text": "a", "max_new_tokens": 4, "evidence": "map"}
    asked = [
        asking(picture(), strategy="var", params=PARAMS["var"], **short),
        asking(picture(), strategy="vhr", **short),
        asking(picture(), **short),
        asking(picture(150, 60), "A much longer question about the dog", max_new_tokens=4),
    ]
    for mine, one in zip(vlm.generate(asked)[:3], asked, strict=False):
        (theirs,) = vlm.generate([one])
        for a, b in zip(mine.tokens, theirs.tokens, strict=True):
            assert a.evidence is not None
            assert b.evidence is not None
            assert a.evidence.mass == pytest.approx(b.evidence.mass, abs=1e-4)
            assert a.evidence.look is not None
            assert b.evidence.look is not None
            for x, y in zip(a.evidence.look, b.evidence.look, strict=True):
                assert x.values == pytest.approx(y.values, abs=1e-4)


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_requests_join_and_leave_while_others_run(
    family: str, mixture: list[Request], adapter: Any
) -> None:
    vlm = Local(adapter(family))
    alone = [ids(vlm.generate([one])[0]) for one in mixture]
    decoder, done = Decoder(vlm.adapter), {}
    waiting = list(enumerate(mixture))
    running: dict[int, Job] = {}
    dropped = {2, 7}
    steps = 0
    while waiting or decoder.jobs:
        if steps % 2 == 0 and waiting:
            joining, waiting = waiting[:2], waiting[2:]
            jobs = decoder.add([one for _, one in joining])
            running |= {index: job for (index, _), job in zip(joining, jobs, strict=True)}
        decoder.step()
        steps += 1
        for index in sorted(dropped & running.keys()):
            if len(running[index].seen[0]) >= 2:
                decoder.drop(running.pop(index))
        for index, job in list(running.items()):
            if job.answer is not None:
                done[index] = ids(running.pop(index).answer)
    assert done == {index: alone[index] for index in range(len(mixture)) if index not in dropped}


class Singles(TorchDispatchMode):
    """Counts the numbers that are fetched one by one, each of which waits for the device."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_step_fetches_the_numbers_of_all_requests_together(picture: Any, adapter: Any) -> None:
    image = picture()
    asked = [
        asking(image, "Is it red?", max_new_tokens=4, seed=seed, **own)
        for seed, own in enumerate(
            (
                {"strategy": "greedy"},
                {"strategy": "vcd", "logprobs": 3},
                {"temperature": 0.8, "top_p": 0.9, "top_k": 40},
                {"strategy": "pai", "repetition_penalty": 1.2, "params": {"gamma": 1.0}},
            )
        )
    ]
    decoder = Decoder(adapter("llava"))
    decoder.add(asked)
    decoder.step()
    with Singles() as singles:
        told = decoder.step()
    assert len(told) == len(asked)
    assert singles.count == 1  # the draw's own share, which never was on the device
    decoder.close()


def test_dropping_twice_or_after_the_end_does_nothing(picture: Any, adapter: Any) -> None:
    vlm = Local(adapter("llava"))
    decoder = Decoder(vlm.adapter)
    first, second = decoder.add([asking(picture(), "a", max_new_tokens=n) for n in (1, 3)])
    decoder.step()
    decoder.drop(first)
    decoder.drop(second)
    decoder.drop(second)
    assert decoder.jobs == []
    assert ids(first.answer) == ids(vlm.ask(picture(), "a", max_new_tokens=1))
    (third,) = decoder.add([asking(picture(), "a", max_new_tokens=3)])
    while decoder.jobs:
        decoder.step()
    assert ids(third.answer) == ids(vlm.ask(picture(), "a", max_new_tokens=3))


def test_a_request_that_cannot_be_planned_adds_none(picture: Any, adapter: Any) -> None:
    vlm = Local(adapter("llava"))
    decoder = Decoder(vlm.adapter)
    good, bad = (asking(image, "a", strategy="vcd") for image in (picture(), None))
    with pytest.raises(Unsupported, match="picture"):
        decoder.add([good, bad])
    assert decoder.jobs == []
    assert decoder.cache.rows == 0


def test_closing_a_stream_frees_its_caches(picture: Any, adapter: Any) -> None:
    def caches() -> int:
        gc.collect()
        return sum(type(thing) is RowCache for thing in gc.get_objects())

    before = caches()
    stream = Local(adapter("llava")).stream(picture(), "a", strategy="vcd", max_new_tokens=50)
    next(stream)
    assert caches() == before + 1
    stream.close()
    del stream
    assert caches() == before


def test_logprobs_are_those_of_the_rule_and_possible(picture: Any, adapter: Any) -> None:
    vlm = Local(adapter("llava"))
    params = {"beta": 0.95}  # hardly any token is left
    asked = asking(picture(), "a", strategy="vcd", params=params, logprobs=20, max_new_tokens=4)
    run = record(vlm.adapter, asked)
    left = [int(row.isfinite().sum()) for row in run.ruled]
    assert min(left) < 20
    for token, row, count in zip(run.answer.tokens, run.ruled, left, strict=True):
        logp = torch.log_softmax(row, -1)
        assert token.logprob == pytest.approx(float(logp[token.id]), abs=1e-5)
        assert token.top is not None
        assert token.top[0].id == token.id
        assert [a.logprob for a in token.top] == pytest.approx(
            [float(logp[a.id]) for a in token.top]
        )
        assert len(token.top) == min(20, count), "an alternative that cannot be said"


# Ends


@on_all_families
@pytest.mark.parametrize("strategy", ["greedy", "beam", "vcd"])
def test_an_end_token_ends_the_answer_and_is_no_part_of_its_text(
    family: str, strategy: str, picture: Any, adapter: Any
) -> None:
    vlm, image = Local(adapter(family)), picture(90, 60, 3)
    own = {"strategy": strategy, "params": {"beams": 1} if strategy == "beam" else {}}
    own |= {"max_new_tokens": 8}
    plain = vlm.ask(image, "Is there a dog?", **own)
    last = next(n for n in range(1, 8) if ids(plain)[n] not in ids(plain)[:n])
    with ending(vlm.adapter, [511, ids(plain)[last]]):
        answer = vlm.ask(image, "Is there a dog?", **own)
    assert answer.finish_reason == "stop"
    assert answer.usage.completion_tokens == last + 1
    assert ids(answer) == ids(plain)[: last + 1]
    assert answer.text == written(vlm, ids(plain)[:last])


def test_every_token_that_was_paid_for_is_in_the_answer(picture: Any, adapter: Any) -> None:
    vlm = Local(adapter("llava"))
    first = ids(vlm.ask(picture(), "a", max_new_tokens=8, strategy="beam"))
    with ending(vlm.adapter, [first[3]]):
        for strategy in ("greedy", "vcd", "beam", "beam+vcd"):
            answer = vlm.ask(picture(), "a", max_new_tokens=8, strategy=strategy)
            assert len(answer.tokens) == answer.usage.completion_tokens


@pytest.mark.parametrize("beams", [1, 2, 5])
def test_beams_end_where_only_the_end_token_is_left(beams: int, picture: Any, adapter: Any) -> None:
    vlm = Local(adapter("llava"))
    params = {"beams": beams, "beta": 1.0, "alpha": 0.0}  # the best token alone is plausible
    first = ids(vlm.ask(picture(), "a", max_new_tokens=1))
    with ending(vlm.adapter, first):
        answer = vlm.ask(picture(), "a", max_new_tokens=8, strategy="beam+vcd", params=params)
    assert answer.finish_reason == "stop"
    assert answer.text == ""
    assert answer.usage.completion_tokens == 1


# Beams


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_beams_of_a_branch_strategy_score_every_hypothesis_on_its_own_tokens(
    family: str, picture: Any, adapter: Any, stock: Any
) -> None:
    vlm = Local(adapter(family))
    params = {"beams": 3} | PARAMS["vcd"]
    asked = asking(picture(), "a dog?", strategy="beam+vcd", params=params, max_new_tokens=5)
    run = record(vlm.adapter, asked)
    wanted, checked = {}, 0
    for step in run.steps:
        for branch in (run.plan.main, *run.plan.extra):
            key = (branch.name, tuple(step.tokens))
            if key not in wanted:
                wanted[key] = full_rows(stock(family), branch.prompt, step.tokens)[-1]
            assert (step.rows[branch.name] - wanted[key]).abs().max() < 1e-4
            checked += 1
    assert checked == 2 * (1 + 3 * 4)
    assert len({tuple(step.tokens) for step in run.steps}) == 1 + 3 * 4


def test_beams_find_a_likelier_answer_than_greedy(picture: Any, adapter: Any) -> None:
    vlm, better = Local(adapter("llava")), 0
    for seed in range(4):
        image = picture(seed=seed)
        totals = []
        for beams in (1, 8):
            asked = asking(image, "a", strategy="beam", params={"beams": beams}, max_new_tokens=5)
            run = record(vlm.adapter, asked)
            found, rows = (
                run.tokens,
                {tuple(s.tokens): r for s, r in zip(run.steps, run.ruled, strict=True)},
            )
            logps = [
                float(torch.log_softmax(rows[tuple(found[:n])], -1)[found[n]])
                for n in range(len(found))
            ]
            totals.append(sum(logps))
        assert totals[1] >= totals[0] - 1e-4
        better += totals[1] > totals[0] + 1e-4
    assert better


# Stops in the loop


@pytest.mark.parametrize("strategy", ["greedy", "vcd", "beam"])
def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(
    strategy: str, picture: Any, adapter: Any
) -> None:
    vlm = Local(adapter("qwen2_5_vl"))
    own: dict[str, Any] = {"strategy": strategy, "max_new_tokens": 12}
    for image in (picture(seed=seed) for seed in range(20)):
        whole = vlm.ask(image, "a dog", **own)
        if whole.text[:5].isprintable() and "\N{REPLACEMENT CHARACTER}" not in whole.text[:5]:
            break
    assert len(whole.text) > 5
    stop = whole.text[2:5]
    at = whole.text.index(stop)
    answer = vlm.ask(image, "a dog", stop=("never said", stop), **own)
    assert answer.text == whole.text[:at]
    assert answer.finish_reason == "stop"
    assert ids(answer) == ids(whole)[: len(answer.tokens)]
    assert "".join(token.text for token in answer.tokens) == answer.text
    if strategy != "beam":
        assert len(answer.tokens) < len(whole.tokens)
    streamed = list(vlm.stream(image, "a dog", stop=("never said", stop), **own))
    assert "".join(event.text for event in streamed) == answer.text


@on_all_families
def test_token_spans_tile_the_text(family: str, picture: Any, adapter: Any) -> None:
    vlm = Local(adapter(family))
    for seed in range(6):
        answer = vlm.ask(picture(seed=seed), "a", temperature=1.5, seed=seed, max_new_tokens=9)
        assert "".join(token.text for token in answer.tokens) == answer.text
        for token in answer.tokens:
            assert token.text == answer.text[token.start : token.stop]
        assert answer.text == written(vlm, ids(answer))


# Sampling


def test_a_low_temperature_and_narrow_filters_give_the_best_token(
    picture: Any, adapter: Any
) -> None:
    vlm = Local(adapter("llava"))
    greedy = ids(vlm.ask(picture(), "a", max_new_tokens=6))
    for own in (
        {"temperature": 1e-4},
        {"temperature": 2.0, "top_k": 1},
        {"temperature": 2.0, "top_p": 1e-6},
    ):
        assert ids(vlm.ask(picture(), "a", max_new_tokens=6, **own)) == greedy


def test_a_draw_follows_the_distribution(picture: Any, adapter: Any) -> None:
    vlm = Local(adapter("llava"))
    row = record(vlm.adapter, asking(picture(), "a", max_new_tokens=1)).ruled[0]
    wanted = torch.softmax(row / 0.05, -1)
    asked = [asking(picture(), "a", max_new_tokens=1, temperature=0.05, seed=s) for s in range(300)]
    counts = torch.bincount(
        torch.tensor([ids(answer)[0] for answer in vlm.generate(asked)]), minlength=len(wanted)
    )
    best = int(wanted.argmax())
    share, p = float(counts[best]) / len(asked), float(wanted[best])
    assert 0.05 < p < 0.95
    assert abs(share - p) < 4 * (p * (1 - p) / len(asked)) ** 0.5


def test_a_row_of_nan_gives_a_token_of_the_vocabulary_and_then_one_clear_error() -> None:
    row = torch.full((5,), float("nan"))
    assert 0 <= int(drawn(row, 0.5)) < 5
    with pytest.raises(Failed, match="no numbers any more"):
        Transcript.likely([3, float("nan")])


# Options


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": "many"}, "max_new_tokens"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"seed": -1}, "seed"),
        ({"logprobs": 50}, "logprobs"),
        ({"evidence": "all"}, "evidence"),
        ({"max_tokens": 5}, "max_new_tokens"),
        ({"strategy": "greedy", "temperature": 0.7}, "temperature"),
        ({"strategy": "beam", "temperature": 0.7}, "temperature"),
        ({"strategy": "beam", "logprobs": 3}, "logprobs"),
        ({"strategy": "beam", "evidence": "mass"}, "evidence"),
    ],
)
def test_bad_options_get_one_clear_line(
    own: dict[str, Any], says: str, picture: Any, adapter: Any
) -> None:
    with pytest.raises(HaluError) as error:
        Local(adapter("llava")).ask(picture(), "a", **own)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.status == 400


@on_all_families
@pytest.mark.parametrize("with_picture", [True, False])
def test_words_that_look_like_an_image_token_are_refused_or_are_words(
    family: str, with_picture: bool, picture: Any, adapter: Any
) -> None:
    vlm = Local(adapter(family))
    token = vlm.adapter.tokenizer.decode([vlm.adapter.image_token])
    image = picture() if with_picture else None
    try:
        answer = vlm.ask(image, f"What is {token} here?", max_new_tokens=2)
    except BadInput as error:
        assert token in str(error)  # noqa: PT017  # an answer is as good
    else:
        plain = vlm.ask(image, "What is here?", max_new_tokens=2)
        assert answer.usage.image_tokens == plain.usage.image_tokens


def test_a_conversation_of_several_turns_is_answered(picture: Any, adapter: Any) -> None:
    def turn(role: Any, *parts: Any) -> Message:
        return Message(role=role, content=parts)

    for family in FAMILIES:
        vlm = Local(adapter(family))
        messages = (
            turn("system", Text(text="Be brief.")),
            turn("user", Text(text="What is this?"), Picture(image=picture())),
            turn("assistant", Text(text="a dog")),
            turn("user", Picture(image=picture(60, 140, 5)), Text(text="and this?")),
        )
        asked = Request(messages=messages, strategy="vhr", sampling=Sampling(max_new_tokens=3))
        run = record(vlm.adapter, asked)
        layout = run.plan.main.prompt.layout
        assert len(layout.images) == 2
        between = range(layout.images[0].stop, layout.images[1].start)
        words = vlm.adapter.tokenizer.decode([run.plan.main.prompt.ids[n] for n in between])
        assert "a dog" in words
        assert run.answer.usage.image_tokens == layout.image_tokens
