"""What goes wrong in one request ends that request alone."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from recorder import PARAMS
from torch import Tensor

from halu.adapters import Adapter
from halu.attention.policy import AttentionPolicy
from halu.attention.steered import Steered
from halu.decode import Decoder
from halu.engine import Local
from halu.job import Job
from halu.running import count
from halu.search import Pick
from halu.strategy import Step
from halu.types import Answer, Request, question
from halu.vlm import asking

FAMILIES = ("llava", "qwen2_5_vl")


class Broken(RuntimeError):
    """What a request of these tests raises."""


class Failing(AttentionPolicy):
    """Acts like a policy of every kind, and raises in one of its answers."""

    groups = 2
    reads = "all"

    def __init__(self, layout: Any, where: str) -> None:
        self.where = where
        self.table = torch.zeros(layout.length, dtype=torch.long)

    def at(self, where: str) -> None:
        if where == self.where:
            raise Broken(where)

    def read(self, layer: int, hidden: Tensor) -> None:
        self.at("read")

    def looks(self, layer: int) -> bool:
        return True

    def look(self, layer: int, x: Tensor) -> None:
        self.at("look")

    def labels(self, layer: int) -> Tensor:
        self.at("labels")
        return self.table

    def epilogue(self, layer: int) -> Any:
        return lambda mass: self.at("weights")

    def head_scale(self, layer: int, last: Tensor | None) -> None:
        self.at("head_scale")

    def heard(self, scores: Tensor) -> None:
        self.at("heard")


def broken_rule(step: Step) -> Tensor:
    raise Broken("rule")


def broken_text(*args: Any, **kwargs: Any) -> None:
    raise Broken("text")


class BrokenSearch(Pick):
    def advance(self, *args: Any) -> list[Any]:
        raise Broken("search")


def spoil(job: Job, where: str) -> None:
    """Makes a running job fail in its next step."""
    if where == "rule":
        job.plan = replace(job.plan, rule=broken_rule)
    elif where == "search":
        job.search = BrokenSearch()
    elif where == "text":
        job.said.say = broken_text
    else:
        row = job.rows[0][0]
        row.steering = Steered(row.steering.layout, (Failing(row.steering.layout, where),))


POLICY = ("read", "look", "labels", "weights", "head_scale", "heard")


def ids(answer: Answer | None) -> list[int]:
    assert answer is not None
    return [token.id for token in answer.tokens]


def requests(adapter: Adapter, picture: Any) -> list[Request]:
    ask = asking
    return [
        ask(picture(60, 90), "Is there a dog?", max_new_tokens=6),
        ask(picture(), "a", strategy="vcd", params=PARAMS["vcd"], max_new_tokens=6),
        ask(picture(90, 60), "red", strategy="vhr", max_new_tokens=6),
    ]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("where", ["rule", "search", "text", *POLICY])
def test_one_job_fails_and_the_others_go_on(
    family: str, where: str, adapter: Any, picture: Any
) -> None:
    vlm = Local(adapter(family))
    asked = requests(vlm.adapter, picture)
    alone = [ids(vlm.generate([one])[0]) for one in asked]
    decoder = Decoder(vlm.adapter)
    jobs = decoder.add(asked)
    decoder.step()
    spoil(jobs[1], where)
    failed = []
    while decoder.jobs:
        failed += [(job, e) for job, e in decoder.step() if isinstance(e, Exception)]
        assert decoder.cache.rows == sum(map(count, decoder.jobs))
    ((job, error),) = failed
    assert job is jobs[1]
    assert isinstance(error, Broken)
    assert str(error) == where
    assert job.answer is None
    assert [ids(jobs[0].answer), ids(jobs[2].answer)] == [alone[0], alone[2]]


@pytest.mark.parametrize("where", [*POLICY, "watch"])
def test_a_policy_that_fails_in_the_prompt_ends_its_job_alone(
    where: str, adapter: Any, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from halu import job

    made = job.steered

    def spoiled(plan: Any, branch: Any) -> Any:
        if branch.name != "ruined":
            return made(plan, branch)
        policy = Failing(branch.prompt.layout, where)
        if where == "watch":
            monkeypatch.setattr(policy, "watch", lambda layer: policy.at("watch"), raising=False)
        return lambda: (policy,)

    vlm = Local(adapter("llava"))
    asked = requests(vlm.adapter, picture)
    alone = [ids(vlm.generate([one])[0]) for one in asked]
    monkeypatch.setattr(job, "steered", spoiled)
    decoder = Decoder(vlm.adapter)
    jobs = decoder.add(asked)
    told = {id(job): event for job, event in decoder.step()}
    assert isinstance(told[id(jobs[1])], Broken)
    assert decoder.jobs == [jobs[0], jobs[2]]
    while decoder.jobs:
        decoder.step()
    assert [ids(jobs[0].answer), ids(jobs[2].answer)] == [alone[0], alone[2]]


def test_run_and_generate_raise_what_the_job_raised(
    adapter: Any, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = Local(adapter("llava"))
    (asked, *_) = requests(vlm.adapter, picture)
    monkeypatch.setattr(Pick, "token", BrokenSearch.advance)
    with pytest.raises(Broken, match="search"):
        list(vlm.run(asked))
    with pytest.raises(Broken, match="search"):
        vlm.generate([asked, asked])


def test_a_forward_that_fails_leaves_an_empty_decoder_that_works(
    adapter: Any, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = Local(adapter("llava"))
    (asked, *_) = requests(vlm.adapter, picture)
    decoder = Decoder(vlm.adapter)
    decoder.add([asked])
    with monkeypatch.context() as patch:
        patch.setattr(vlm.adapter.runner, "step", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            decoder.step()
    assert decoder.jobs == []
    assert decoder.cache.rows == 0
    (job,) = decoder.add([asked])
    while decoder.jobs:
        decoder.step()
    assert ids(job.answer) == ids(vlm.generate([asked])[0])


def test_prompts_that_cannot_be_read_leave_the_others_running(
    adapter: Any, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = Local(adapter("llava"))
    first, second, _ = requests(vlm.adapter, picture)
    decoder = Decoder(vlm.adapter)
    (job,) = decoder.add([first])
    decoder.step()
    with monkeypatch.context() as patch:
        patch.setattr(vlm.adapter.runner, "_scores", lambda hidden: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            decoder.add([second])
    assert decoder.jobs == [job]
    assert decoder.cache.rows == 1
    while decoder.jobs:
        decoder.step()
    assert ids(job.answer) == ids(vlm.generate([first])[0])


def test_a_picture_that_cannot_be_seen_ends_its_request_alone(
    adapter: Any, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a search asks about it while others are running."""
    from halu.decoders.vdgd import VDGD

    vlm = Local(adapter("llava"))
    first, second, _ = requests(vlm.adapter, picture)
    (alone,) = vlm.generate([first])
    vision = vlm.adapter.runner.vision

    def blind(prompts: Any) -> Any:
        if any("red" in str(prompt.images[0].info) for prompt in prompts if prompt.images):
            raise Broken("picture")
        return type(vision).features(vision, prompts)

    image = picture(30, 40)
    image.info["red"] = True
    bad = second.model_copy(update={"messages": question("a", image)})
    decoder = Decoder(vlm.adapter)
    (job,) = decoder.add([first])
    with monkeypatch.context() as patch:
        patch.setattr(vision, "features", blind)
        with pytest.raises(Broken, match="picture"):
            decoder.add([bad])
        assert decoder.jobs == [job]
        told = bad.model_copy(update={"strategy": "vdgd", "params": {"describe_tokens": 2}})
        patch.setattr(VDGD, "needs_image", False)
        monkeypatch.setattr(image, "info", {})
        (saying,) = decoder.add([told])
        image.info["red"] = True  # while its description is said
        errors = []
        while decoder.jobs:
            errors += [(one, e) for one, e in decoder.step() if isinstance(e, Exception)]
    assert [one for one, _ in errors] == [saying]
    assert ids(job.answer) == ids(alone)


@pytest.mark.parametrize(
    ("strategy", "params", "width"),
    [
        ("greedy", {}, 1),
        ("vcd", {}, 2),
        ("vhr", {}, 1),
        ("beam", {"beams": 4}, 4),
        ("beam+vcd", {"beams": 3}, 6),
        ("opera", {"beams": 2, "candidates": 3}, 6),
    ],
)
def test_a_job_knows_how_many_rows_it_may_take(
    strategy: str, params: dict[str, Any], width: int, adapter: Any, picture: Any
) -> None:
    vlm = Local(adapter("llava"))
    decoder = Decoder(vlm.adapter)
    asked = asking(picture(), "a", strategy=strategy, params=params, max_new_tokens=6)
    (job,) = decoder.add([asked])
    assert job.width == decoder.width == width
    most = count(job)
    while decoder.jobs:
        decoder.step()
        most = max(most, count(job))
    assert most == width
    assert decoder.width == 0
