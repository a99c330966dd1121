"""A run of 100,000 answers: continued at once, reported in a while, and its page stays small."""

import random
import time
from itertools import product
from pathlib import Path

import pytest

from halu.eval.benchmark import benchmarks
from halu.eval.plan import Arm, Plan, Source, manifest, suite
from halu.eval.report import report
from halu.eval.samples import grouped, packed
from halu.eval.store import Row, Store, read_rows

STRATEGIES = ("vcd", "vhr", "var", "ritual", "m3id", "pai", "vaf", "icd", "fia", "act")
ANSWERS = 9000 * (1 + len(STRATEGIES))


def plan() -> Plan:
    arms = tuple(Arm(strategy=name) for name in STRATEGIES)
    return Plan(models=(Source(name="big"),), benchmarks=("pope-scenes",), strategies=arms)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("big") / "run"
    benchmark = benchmarks.get("pope-scenes")
    samples = benchmark.samples(None, None, 0, None)
    record = manifest(plan(), [suite(benchmark, samples, plan())])
    rng = random.Random(0)
    with Store.open(out, record, resume=False) as store:
        for sample, arm in product(samples, plan().arms()):
            text = rng.choice(("Yes.", "No.", str(sample.label)))
            score = benchmark.score(sample, text)
            row = Row.model_construct(
                model="big",
                id=sample.id,
                benchmark=benchmark.name,
                split=sample.split,
                category=sample.category,
                image_id=sample.image,
                arm=arm.label,
                strategy=arm.strategy,
                params={},
                prompt=sample.prompt,
                answer=text,
                parsed=score.parsed,
                label=sample.label,
                value=score.value,
                counts=dict(score.counts),
                tokens=2,
                finish_reason="stop",
                forwards=2,
                seconds=rng.random(),
            )
            store.append([row])
    return out


@pytest.mark.slow
def test_a_big_run_resumes_at_once(folder: Path) -> None:
    benchmark = benchmarks.get("pope-scenes")
    record = manifest(plan(), [suite(benchmark, benchmark.samples(None, None, 0, None), plan())])
    started = time.process_time()
    with Store.open(folder, record, resume=True) as store:
        assert len(store.done) == ANSWERS > 95_000
    assert time.process_time() - started < 5


@pytest.mark.slow
def test_a_big_run_is_reported(folder: Path) -> None:
    started = time.process_time()
    summary = report(folder)
    assert time.process_time() - started < 60
    assert summary.run["complete"]
    assert all(result.n == 3000 for result in summary.results)
    assert (folder / "report.html").stat().st_size < 4_000_000


@pytest.mark.slow
def test_a_page_opens_without_reading_the_texts(folder: Path) -> None:
    """What is unpacked at once is a small part; the rest comes by chunks of a few kilobytes."""
    rows = read_rows(folder)
    benchmark = benchmarks.get("pope-scenes")
    record = manifest(plan(), [suite(benchmark, benchmark.samples(None, None, 0, None), plan())])
    whole = packed(grouped(record, rows), {}, {"pope-scenes": ""})
    assert whole.samples == 9000
    assert len(whole.index) < 100_000
    assert max(map(len, whole.chunks)) < 40_000
