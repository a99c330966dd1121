"""The judge: order, cache, retries, how many at once, and its mistakes in one line."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from judging import Bench, serving
from PIL import Image

from halu.errors import BadInput, Failed
from halu.eval.benchmark import benchmarks
from halu.eval.judge import KEY, Judge, score_all, seated


@pytest.fixture
def bench() -> Iterator[Bench]:
    with serving(Bench(lambda prompt: prompt[::-1])) as running:
        yield running


def test_a_question_is_asked_at_temperature_0_with_the_key(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY, "secret")
    assert Judge(bench.url + "/", "m").ask("abc") == "cba"
    assert bench.keys == ["Bearer secret"]
    (sent,) = bench.seen
    assert (sent["model"], sent["temperature"]) == ("m", 0)


def test_many_threads_may_ask_and_few_questions_are_on_their_way(bench: Bench) -> None:
    bench.reply = lambda prompt: time.sleep(0.02) or prompt * 2
    judge = Judge(bench.url, "m", parallel=3)
    prompts = [str(number) for number in range(12)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(judge.ask, prompts)) == [prompt * 2 for prompt in prompts]
    assert 1 < bench.busiest <= 3


def test_a_kept_answer_is_not_asked_for_again(bench: Bench, tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 4), "red")
    for _ in range(2):
        judge = Judge(bench.url, "m", cache=tmp_path)
        assert [judge.ask("abc"), judge.ask("abc", picture)] == ["cba", "cba"]
    assert len(bench.seen) == 2
    assert Judge(bench.url, "another", cache=tmp_path).ask("abc") == "cba"
    assert Judge(bench.url, "m", cache=tmp_path).ask("abc", Image.new("RGB", (4, 4))) == "cba"
    assert len(bench.seen) == 4
    kept = [json.loads(path.read_text()) for path in tmp_path.iterdir()]
    assert len(kept) == 4
    assert {entry["reply"] for entry in kept} == {"cba"}


def test_a_damaged_cache_is_named(bench: Bench, tmp_path: Path) -> None:
    judge = Judge(bench.url, "m", cache=tmp_path)
    judge.ask("abc")
    (file,) = tmp_path.iterdir()
    file.write_text("{")
    with pytest.raises(BadInput, match=r"json is not a judge's answer\. Delete it"):
        judge.ask("abc")


def test_a_server_that_is_busy_for_a_while_is_asked_again(bench: Bench) -> None:
    bench.statuses = [429, 503]
    assert Judge(bench.url, "m").ask("abc") == "cba"
    assert len(bench.seen) == 3


def test_retries_have_an_end(bench: Bench) -> None:
    bench.statuses = [429] * 9
    with pytest.raises(Failed, match=r"refused \(status 429\)"):
        Judge(bench.url, "m", retries=2).ask("abc")
    assert len(bench.seen) == 3


def test_a_refused_key_says_where_it_comes_from(bench: Bench) -> None:
    bench.statuses = [401]
    with pytest.raises(Failed, match=f"status 401.*read from {KEY}") as caught:
        Judge(bench.url, "m").ask("abc")
    assert "\n" not in str(caught.value)
    assert len(bench.seen) == 1


def test_nobody_there() -> None:
    with pytest.raises(
        Failed, match=r"judge at http://127\.0\.0\.1:9/v1 does not answer"
    ) as caught:
        Judge("http://127.0.0.1:9/v1", "m", retries=0).ask("abc")
    assert "\n" not in str(caught.value)


def test_not_a_chat_completion(bench: Bench) -> None:
    bench.answer = lambda sent, key: (200, b'{"choices": []}')
    with pytest.raises(Failed, match="something else than a chat completion"):
        Judge(bench.url, "m").ask("abc")


def test_silence_is_an_empty_reply(bench: Bench) -> None:
    bench.reply = lambda prompt: None
    assert Judge(bench.url, "m").ask("abc") == ""


def test_a_benchmark_without_need_of_a_judge_is_left_alone() -> None:
    before = threading.active_count()
    benchmark = benchmarks.get("pope-scenes")
    assert seated(benchmark, None) is benchmark
    samples = benchmark.samples(None, 6, 0, ["random"])
    scores = score_all(benchmark, samples, ["Yes"] * 6)
    assert [score.value for score in scores] == [1, 0] * 3
    assert threading.active_count() == before
