"""Models of a run: several of them, on servers, in several processes; answers from the cache;
checks that stop.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from test_eval_run import plan, yes

from halu.engine import load
from halu.errors import BadInput, Failed, Unknown
from halu.eval.asking import digest
from halu.eval.backends import Backend, backend
from halu.eval.benchmark import Sample, benchmarks
from halu.eval.cache import Cache
from halu.eval.plan import Plan, Source, differences, suite
from halu.eval.played import played, playing
from halu.eval.run import run
from halu.eval.sources import described, opening
from halu.eval.store import read_manifest, read_rows
from halu.eval.summary import summarise
from halu.eval.workers import in_order
from halu.types import Answer, Request
from halu.weights import fingerprint

TWO = (Source(name="first"), Source(name="second", backend="http://there:8000/v1"))


def test_models_are_told_apart_and_compared_with_themselves(tmp_path: Path) -> None:
    opened: list[str] = []

    @contextmanager
    def opener(source: Source) -> Iterator[Backend]:
        opened.append(source.label)
        says = "Yes" if source.name == "first" else "No"
        yield backend(playing(lambda request: says))

    run(plan(models=TWO, benchmarks=("pope-scenes",)), opener, tmp_path)
    assert opened == ["first", "second over http://there:8000/v1"]
    rows = read_rows(tmp_path)
    assert len(rows) == 2 * 2 * 3 * 5
    summary = summarise(read_manifest(tmp_path), rows)
    ratios = {result.model: result.metrics["yes_ratio"].value for result in summary.results}
    assert ratios == {"first": 1.0, "second over http://there:8000/v1": 0.0}
    assert all(r.vs_greedy["accuracy"].delta == 0 for r in summary.results if r.vs_greedy)
    run(plan(models=TWO, benchmarks=("pope-scenes",)), opener, tmp_path, resume=True)
    assert len(opened) == 2  # nothing is opened for a finished run


def test_the_same_model_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="the same model twice"):
        plan(models=(Source(name="a"), Source(name="a")))


def test_backends_go_with_models() -> None:
    (one,) = described(["m"], ["http://there/v1/"])
    assert (one.backend, one.device, one.weights) == ("http://there/v1", None, None)
    local, remote = described(["tiny-llava", "m"], ["hf", "https://there"], device="cpu")
    assert (local.backend, local.device, local.weights) == ("hf", "cpu", fingerprint("tiny-llava"))
    assert remote.label == "m over https://there"
    with pytest.raises(BadInput, match="2 models and 3 backends"):
        described(["a", "b"], ["hf", "hf", "hf"])


def test_a_fingerprint_changes_with_the_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"a" * 3_000_000)
    seen = {fingerprint(str(tmp_path))}
    weights.write_bytes(b"a" * 2_999_999 + b"b")
    seen.add(fingerprint(str(tmp_path)))
    (tmp_path / "notes.txt").write_text("not counted")
    seen.add(fingerprint(str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    seen.add(fingerprint(str(tmp_path)))
    assert len(seen) == 3
    assert fingerprint("nobody/has-this") is None


def test_repeats_have_seeds_and_rows_of_their_own(tmp_path: Path) -> None:
    seeds: list[int] = []

    def reply(request: Request) -> str:
        seeds.append(request.sampling.seed)
        return "Yes"

    run(plan(benchmarks=("pope-scenes",), repeats=3), played(reply), tmp_path)
    rows = read_rows(tmp_path)
    assert len(rows) == 3 * 2 * 3 * 5
    assert len(set(seeds)) == 3 * 3 * 5
    once = summarise(read_manifest(tmp_path), rows).results[0]
    assert (once.n, once.metrics["yes_ratio"].value) == (5, 1.0)


def test_several_batches_at_a_time_keep_their_order(tmp_path: Path) -> None:
    busy, most, lock = [0], [0], threading.Lock()

    def slow(request: Request) -> str:
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        time.sleep(0.001 * (request.sampling.seed % 4))
        with lock:
            busy[0] -= 1
        return str(request.sampling.seed)

    @contextmanager
    def opener(source: Source) -> Iterator[Backend]:
        yield backend(playing(slow), slots=4)

    run(plan(), opener, tmp_path / "side by side")
    run(plan(), played(slow), tmp_path / "in turn")
    found, expected = (
        [(row.id, row.arm, row.answer) for row in read_rows(tmp_path / name)]
        for name in ("side by side", "in turn")
    )
    assert found == expected
    assert 1 < most[0] <= 4


def test_work_that_has_not_begun_is_dropped_after_a_failure() -> None:
    begun: list[int] = []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.01)
        if number == 1:
            raise Failed("no more")
        return number

    with pytest.raises(Failed):
        list(in_order(work, range(100), 2))
    assert len(begun) < 10


@pytest.mark.slow
def test_processes_answer_as_this_one_does(tmp_path: Path) -> None:
    wanted = Plan(
        models=described(["tiny-llava"], device="cpu"),
        benchmarks=("pope-scenes",),
        splits=("random",),
        limit=4,
        batch_size=2,
        workers=2,
        max_new_tokens=3,
    )
    run(wanted, opening(load, 2), tmp_path / "two")
    run(wanted, opening(load), tmp_path / "one")
    two, one = ([row.answer for row in read_rows(tmp_path / name)] for name in ("two", "one"))
    assert two == one


@pytest.mark.slow
def test_what_a_worker_raises_arrives_whole(tmp_path: Path) -> None:
    wanted = Plan(models=(Source(name="tiny-lava"),), benchmarks=("pope-scenes",), limit=1)
    with pytest.raises(Unknown, match=r"Unknown model 'tiny-lava'\. Did you mean tiny-llava"):
        run(wanted, opening(load, 2), tmp_path)


def test_a_run_that_began_meanwhile_is_not_mixed_with(tmp_path: Path) -> None:
    def begin(request: Request) -> str:
        if not (tmp_path / "run.json").exists():
            run(plan(benchmarks=("chair-scenes",)), played(yes), tmp_path)
        return "Yes"

    with pytest.raises(BadInput, match="Another run has begun"):
        run(plan(benchmarks=("pope-scenes",)), played(begin), tmp_path)
    assert {row.benchmark for row in read_rows(tmp_path)} == {"chair-scenes"}


def test_labels_that_changed_are_another_run(tmp_path: Path) -> None:
    def suite_of(**changes: Any) -> str:
        fields = {"id": "1", "split": "s", "image": "a", "prompt": "?", "label": "yes"} | changes
        return suite(benchmarks.get("pope-scenes"), [Sample(**fields)], plan()).digest

    others = [suite_of(detail="no"), suite_of(category="dog"), suite_of(cluster="b")]
    assert len({suite_of(), *others}) == 4


def test_weights_that_were_fetched_by_the_run_are_no_difference(tmp_path: Path) -> None:
    run(plan(), played(yes), tmp_path)
    then = read_manifest(tmp_path)
    known = then.models[0].model_copy(update={"weights": "abc"})
    now = then.model_copy(update={"models": (known,)})
    assert differences(then, now) == []
    other = then.models[0].model_copy(update={"weights": "def"})
    assert differences(now, then.model_copy(update={"models": (other,)}))


def test_known_answers_are_not_asked_for(tmp_path: Path) -> None:
    with Cache(tmp_path / "answers.db") as cache:
        run(plan(), played(yes), tmp_path / "first", cache=cache)
        assert cache.found == 0
    with Cache(tmp_path / "answers.db") as cache:
        run(plan(), played(lambda request: 1 / 0), tmp_path / "second", cache=cache)
        assert cache.found == len(read_rows(tmp_path / "second"))
    first, second = (read_rows(tmp_path / name) for name in ("first", "second"))
    assert [row.answer for row in first] == [row.answer for row in second]
    assert {row.cached for row in first} == {False}
    assert {row.cached for row in second} == {True}
    costs = [r.cost for r in summarise(read_manifest(tmp_path / "second"), second).results]
    assert {cost.seconds_per_sample for cost in costs} == {None}
    with Cache(tmp_path / "answers.db") as cache, pytest.raises(ZeroDivisionError):
        run(plan(seed=1), played(lambda request: 1 / 0), tmp_path / "third", cache=cache)


def asked(picture: Any, **changes: Any) -> Request:
    from halu.vlm import asking

    fields = {"strategy": "vcd", "params": {"alpha": 1.0}, "seed": 1} | changes
    return asking(picture, fields.pop("text", "a dog?"), **fields)


def test_everything_that_matters_is_in_the_key(tmp_path: Path, picture: Any) -> None:
    source = Source(name="m", weights="1")
    with Cache(tmp_path / "answers.db") as cache:
        base = cache.key(source, asked(picture()))
        assert cache.key(source, asked(picture())) == base
        others = [
            cache.key(Source(name="m", weights="2"), asked(picture())),
            cache.key(Source(name="m", weights="1", dtype="bfloat16"), asked(picture())),
            *(
                cache.key(source, asked(shown, **changes))
                for shown, changes in (
                    (picture(seed=5), {}),
                    (None, {}),
                    (picture(), {"text": "a cat?"}),
                    (picture(), {"strategy": "vhr"}),
                    (picture(), {"params": {"alpha": 0.5}}),
                    (picture(), {"seed": 2}),
                    (picture(), {"temperature": 0.5}),
                    (picture(), {"max_new_tokens": 3}),
                )
            ),
        ]
    assert len({base, *others}) == len(others) + 1


def test_a_file_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("something else, and long enough to be looked at" * 9)
    with pytest.raises(BadInput, match=r"notes\.txt cannot be used as a cache"):
        Cache(tmp_path / "notes.txt")


def test_an_answer_of_another_format_is_asked_for_again(tmp_path: Path, picture: Any) -> None:
    request = asked(picture())
    with Cache(tmp_path / "answers.db") as cache:
        ((_, answer),) = playing(yes)([request])
        cache.keep(TWO[0], [(request, answer)])
        assert cache.get(TWO[0], request) == answer
        with cache._file:
            cache._file.execute("UPDATE answers SET answer = '{}'")
        assert cache.get(TWO[0], request) is None


def test_a_model_that_always_says_yes_is_stopped(tmp_path: Path) -> None:
    many = plan(benchmarks=("pope-scenes",), limit=60)
    with pytest.raises(Failed, match=r"random, played: all \d+ answers so far are read as 'yes'"):
        run(many, played(yes), tmp_path)
    assert 0 < len(read_rows(tmp_path)) < 2 * 3 * 60
    run(many, played(yes), tmp_path, resume=True, keep_going=True)
    assert len(read_rows(tmp_path)) == 2 * 3 * 60


def test_a_strategy_that_always_says_yes_is_a_finding(tmp_path: Path) -> None:
    def reply(request: Request) -> str:
        return "Yes" if request.strategy == "vcd" else ("Yes", "No")[request.sampling.seed % 2]

    run(plan(benchmarks=("pope-scenes",), limit=60), played(reply), tmp_path)
    summary = summarise(read_manifest(tmp_path), read_rows(tmp_path))
    assert any("vcd(alpha=0.5) always gives the same answer" in note for note in summary.notes)


@pytest.mark.parametrize("limit", [None, 7])
def test_answers_that_are_cut_off_stop_a_run(tmp_path: Path, limit: int | None) -> None:
    def generate(requests: list[Request]) -> Iterator[tuple[int, Answer]]:
        for number, answer in playing(lambda request: f"a dog {request.sampling.seed}")(requests):
            yield number, answer.model_copy(update={"finish_reason": "length"})

    @contextmanager
    def opener(source: Source) -> Iterator[Backend]:
        yield backend(generate)

    many = plan(benchmarks=("chair-scenes",), limit=60, max_new_tokens=limit)
    if limit:  # who sets a limit wants it
        run(many, opener, tmp_path)
    else:
        with pytest.raises(Failed, match="50 of 50 answers hit the token limit"):
            run(many, opener, tmp_path)


def test_one_picture_under_two_names_stops_a_run(
    tmp_path: Path, picture: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from halu.eval import world

    monkeypatch.setattr(world, "picture", lambda image: picture())
    with pytest.raises(Failed, match="are the same picture"):
        run(plan(benchmarks=("chair-scenes",)), played(yes), tmp_path)
    run(plan(benchmarks=("chair-scenes",)), played(yes), tmp_path, resume=True, keep_going=True)


def test_picture_ids_are_listed(tmp_path: Path) -> None:
    run(plan(benchmarks=("chair-scenes",)), played(yes), tmp_path)
    listed = (tmp_path / "images" / "chair-scenes.txt").read_text().split()
    rows = read_rows(tmp_path)
    assert listed == list(dict.fromkeys(row.image_id for row in rows))
    assert len({row.picture for row in rows}) == len(listed)


def test_a_digest_sees_every_pixel(picture: Any) -> None:
    image = picture()
    other = image.copy()
    red, green, blue = other.getpixel((0, 0))
    other.putpixel((0, 0), (red ^ 1, green, blue))
    assert digest(image) == digest(image.copy()) != digest(other)


def test_old_question_files_stop_a_run_before_it_asks(tmp_path: Path, picture: Any) -> None:
    data = tmp_path / "coco"
    data.mkdir()
    picture().save(data / "a.png")
    lines = [
        f'{{"question_id": {number}, "image": "a.png", "text": "Is there {thing} in the imange?", '
        f'"label": "{label}"}}\n'
        for number, (thing, label) in enumerate([("a dog", "yes"), ("an apple", "no")])
    ]
    (data / "coco_pope_popular.json").write_text("".join(lines))
    wanted = plan(benchmarks=("pope",), data=data, limit=None)
    with pytest.raises(BadInput, match=r"coco/popular is first generation: 2 .*--keep-going"):
        run(wanted, played(yes), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run(wanted, played(yes), tmp_path / "out", keep_going=True)
    assert "first generation" in read_manifest(tmp_path / "out").benchmarks[0].doubts[0]


def test_with_a_temperature_plain_sampling_is_the_baseline(tmp_path: Path) -> None:
    def reply(request: Request) -> str:
        return ("Yes", "No")[request.sampling.seed % 2]

    wanted = plan(benchmarks=("pope-scenes",), temperature=0.7, top_p=0.9, repeats=2)
    run(wanted, played(reply), tmp_path)
    record, rows = read_manifest(tmp_path), read_rows(tmp_path)
    assert record.baseline == "sample"
    assert (record.sampling["temperature"], record.sampling["top_p"]) == (0.7, 0.9)
    summary = summarise(record, rows)
    compared = {result.label for result in summary.results if result.vs_greedy}
    assert compared == {"vcd(alpha=0.5)"}
    assert {r.cost.time_vs_greedy for r in summary.results if r.label == "sample"} == {1.0}
