"""Figures beside the metrics, on rows small enough to count by hand: captions at equal length, risk
by position, categories, cost and the Pareto front, spread over seeds.
"""

from typing import Any

import numpy as np
import pytest

from halu.eval.against import ends
from halu.eval.benchmark import Mark, Metric, benchmarks
from halu.eval.categories import categories
from halu.eval.chair import score_caption
from halu.eval.cost import cost, front
from halu.eval.curve import curves
from halu.eval.equal_length import cut, equal_length
from halu.eval.lexicon import words_rules
from halu.eval.paired import Table, by_repeat, tallies
from halu.eval.plan import Arm, Plan, Source, manifest, suite
from halu.eval.pope import score_answer
from halu.eval.position import positions
from halu.eval.scatter import scatter
from halu.eval.statistics import resample
from halu.eval.store import Row
from halu.eval.summary import Summary, summarise
from halu.eval.totals import totals

TRUTH = ("dog", "person")


def row(answer: str, **changes: Any) -> Row:
    fields: dict[str, Any] = {
        "model": "played",
        "id": "1",
        "benchmark": "pope-scenes",
        "split": "random",
        "image_id": "test-0",
        "arm": "greedy",
        "strategy": "greedy",
        "params": {},
        "prompt": "Is there a dog in the image?",
        "answer": answer,
        "tokens": 2,
        "finish_reason": "stop",
        "forwards": 4,
        "seconds": 1.0,
    }
    fields |= changes
    if "counts" not in fields:
        score = score_answer(answer, fields.setdefault("label", "yes"))
        fields |= {"parsed": score.parsed, "value": score.value, "counts": score.counts}
    return Row.model_validate(fields)


def caption(answer: str, **changes: Any) -> Row:
    score = score_caption(answer, TRUTH, words_rules())
    found = {"parsed": score.parsed, "value": score.value, "counts": score.counts}
    where = {"benchmark": "chair-scenes", "split": "test", "label": TRUTH, "marks": score.marks}
    return row(answer, **found, **where, **changes)


def table(name: str, **arms: list[Row]) -> Table:
    rows = next(iter(arms.values()))
    ids = tuple(dict.fromkeys(each.id for each in rows))
    found = {label: tuple(answers) for label, answers in arms.items()}
    return Table("played", benchmarks.get(name), rows[0].split, next(iter(found)), ids, found)


def test_a_mark_carries_the_word_that_the_rules_looked_up() -> None:
    (mark,) = score_caption("Two puppies.", TRUTH, words_rules()).marks
    assert (mark.word, mark.name, mark.wrong) == ("puppy", "dog", False)
    assert Mark(0, 1, "dog", False).word == ""


def test_a_caption_is_cut_after_whole_words() -> None:
    long = caption("A dog, a fire hydrant and a cat.")
    assert cut(long, 2) | {"words": 2} == cut(long, 2)
    named = [(cut(long, n)["mentions"], cut(long, n)["mentions_wrong"]) for n in range(9)]
    #         0       1       2 "dog," 3      4       5 "hydrant" 6 and 7 a   8 "cat."
    assert named == [(0, 0), (0, 0), (1, 0), (1, 0), (1, 0), (2, 1), (2, 1), (2, 1), (3, 2)]
    assert (cut(long, 2)["found"], cut(long, 2)["truth"]) == (1, 2)
    assert cut(long, 99) == cut(long, 8)


def test_a_shorter_caption_is_no_better_at_equal_length() -> None:
    greedy = [
        caption("A dog and a person. There is a cat.", id=str(n), image_id=str(n))
        for n in range(40)
    ]
    short = [
        caption("A dog and a person.", id=str(n), image_id=str(n), arm="short") for n in range(40)
    ]
    worse = [
        caption("A cat and a person. There is a dog.", id=str(n), image_id=str(n), arm="worse")
        for n in range(40)
    ]
    found = equal_length(table("chair-scenes", greedy=greedy, short=short, worse=worse))
    assert found.keys() == {"short", "worse"}
    assert found["short"].words == 5
    chair = found["short"].metrics["chair_i"]
    assert (chair.value, chair.greedy, chair.vs_greedy.delta) == (0, 0, 0)
    assert chair.vs_greedy.verdict == "no difference"
    assert found["short"].metrics["recall"].value == 1
    same = found["worse"]
    assert same.words == 9
    assert same.metrics["chair_i"].value == same.metrics["chair_i"].greedy == 1 / 3
    assert found["short"].metrics["chair_s"].greedy == 0
    assert same.metrics["chair_s"].greedy == 1


def test_a_strategy_that_makes_more_up_is_worse_at_equal_length() -> None:
    ids = [{"id": str(n), "image_id": str(n)} for n in range(60)]
    greedy = [caption("A dog by a person and a tree.", **name) for name in ids]
    other = [
        caption("A cat by a person." if n % 2 else "A dog by a person.", arm="bad", **name)
        for n, name in enumerate(ids)
    ]
    found = equal_length(table("chair-scenes", greedy=greedy, bad=other))["bad"]
    chair = found.metrics["chair_i"]
    assert (chair.value, chair.greedy) == (0.25, 0)
    assert chair.vs_greedy.delta == 0.25
    assert chair.vs_greedy.verdict == "worse"
    assert chair.ci is not None
    assert chair.ci[0] < 0.25 < chair.ci[1]
    assert found.metrics["chair_s"].value == 0.5


def test_yes_no_answers_have_no_equal_length() -> None:
    assert equal_length(table("pope-scenes", greedy=[row("Yes")], vcd=[row("No")])) == {}


def test_risk_by_position() -> None:
    early = caption("dog " * 4 + "cat", id="1", image_id="1")
    late = caption("dog " * 4 + "cat", id="2", image_id="2", arm="vcd")
    found = positions(table("chair-scenes", greedy=[early], vcd=[late]), bins=5)
    assert found is not None
    assert found.bins == ("1", "2", "3", "4", "5")
    assert [risk.share for risk in found.risks["greedy"]] == [0, 0, 0, 0, 1]
    assert [risk.n for risk in found.risks["vcd"]] == [1] * 5
    assert found.risks["vcd"][0].ci is None  # one picture
    (plot,) = curves(found)
    assert plot.label == "vcd"
    assert [dot.y for dot in plot.dots] == [dot.y for dot in plot.base]
    assert plot.dots[-1].y < plot.dots[0].y
    assert positions(table("pope-scenes", greedy=[row("Yes")])) is None


def test_categories_of_questions_and_of_captions() -> None:
    greedy = [row("Yes", id=str(n), category="dog" if n < 3 else "cat") for n in range(4)]
    vcd = [
        row("No" if n else "Perhaps", id=str(n), category=each.category, arm="vcd")
        for n, each in enumerate(greedy)
    ]
    found = categories([table("pope-scenes", greedy=greedy, vcd=vcd)])
    assert found is not None
    assert [(line.name, [cell.share for cell in line.cells]) for line in found.rows] == [
        ("dog", [1, 0]),
        ("cat", [1, 0]),
    ]
    assert [cell.n for cell in found.rows[0].cells] == [3, 3]
    told = categories([table("chair-scenes", greedy=[caption("A dog, a cat and a cat.")])], shown=1)
    assert told is not None
    assert (told.captions, told.total) == (True, 2)
    assert [(line.name, line.cells[0].share) for line in told.rows] == [("cat", 1)]


def test_cost_is_relative_to_greedy_and_leaves_out_what_says_nothing() -> None:
    greedy = [row("Yes", seconds=s, cold=cold) for s, cold in ((9.0, True), (1.0, False))]
    other = [row("Yes", seconds=3.0), row("Yes", seconds=0.0, cached=True)]
    found = cost(other, greedy)
    assert found.time_vs_greedy == 3
    assert found.seconds_per_sample == 3
    assert found.forwards_per_token == 2
    assert found.tokens_per_second == pytest.approx(2 / 3)
    nothing = cost([row("Yes", cached=True)], greedy)
    assert (nothing.time_vs_greedy, nothing.seconds_per_sample) == (None, None)


@pytest.mark.parametrize(
    ("costs", "qualities", "best"),
    [
        ([1, 2, 3], [0.5, 0.6, 0.7], [0, 1, 2]),
        ([1, 2, 3], [0.7, 0.6, 0.7], [0]),
        ([2, 1, 1.5], [0.9, 0.5, 0.4], [1, 0]),
        ([1, 1], [0.5, 0.6], [1]),
        ([1, 1], [0.5, 0.5], [0, 1]),
        ([], [], []),
    ],
)
def test_the_pareto_front(costs: list[float], qualities: list[float], best: list[int]) -> None:
    assert front(costs, qualities) == best


def summary_of(rows: list[Row], repeats: int = 1) -> Summary:
    arms = tuple(Arm(strategy=name) for name in dict.fromkeys(each.arm for each in rows))
    plan = Plan(
        models=(Source(name="played"),),
        benchmarks=("pope-scenes",),
        strategies=arms,
        repeats=repeats,
        limit=6,
        splits=("random",),
    )
    benchmark = benchmarks.get("pope-scenes")
    samples = benchmark.samples(None, 6, 0, ("random",))
    return summarise(manifest(plan, [suite(benchmark, samples, plan)]), rows)


def test_the_front_is_marked_and_drawn() -> None:
    answers = {"greedy": ("No", 1.0), "vcd": ("Yes", 2.0), "var": ("No", 3.0)}
    rows = [
        row(text, id=str(n), image_id=str(n), arm=arm, strategy=arm, seconds=seconds)
        for arm, (text, seconds) in answers.items()
        for n in range(8)
    ]
    found = summary_of(rows)
    assert {r.label: r.pareto for r in found.results} == {"greedy": True, "vcd": True, "var": False}
    assert [r.cost.time_vs_greedy for r in found.results] == [1, 2, 3]
    plot = scatter(found.results, Metric("accuracy", "higher", ""))
    assert plot is not None
    greedy, vcd, var = plot.points
    assert greedy.x < vcd.x < var.x
    assert greedy.y == var.y > vcd.y  # down is more in SVG
    assert plot.front.startswith(f"{greedy.x:.1f},{greedy.y:.1f} {vcd.x:.1f},{greedy.y:.1f}")
    assert scatter(found.results[:1], Metric("accuracy", "higher", "")) is None


def test_seeds_spread_apart_from_pictures() -> None:
    """Repeat 0 gets 3 of 4 right, repeat 1 one of 4: the deviation of 0.75 and 0.25."""
    right = {(0, 0): 1, (0, 1): 1, (0, 2): 1, (1, 0): 1}
    rows = [
        row("Yes" if right.get((repeat, n)) else "No", id=str(n), image_id=str(n), repeat=repeat)
        for repeat in (0, 1)
        for n in range(4)
    ]
    (found,) = summary_of(rows, repeats=2).results
    accuracy = found.metrics["accuracy"]
    assert accuracy.value == 0.5
    assert accuracy.seed_sd == pytest.approx(np.std([0.75, 0.25], ddof=1))
    assert found.n == 4
    one = summary_of(rows[:4]).results[0].metrics["accuracy"]
    assert one.seed_sd is None
    assert by_repeat(benchmarks.get("pope-scenes"), rows[:-1]).shape == (1, 6)  # half a repeat


def test_mcnemar_nets_repeats_and_questions_of_a_picture() -> None:
    """Twelve answers won on one picture are one piece of evidence."""
    base = [row("No", id=str(n), repeat=r) for n in range(6) for r in (0, 1)]
    other = [row("Yes", id=e.id, repeat=e.repeat, arm="vcd", strategy="vcd") for e in base]
    delta = summary_of([*base, *other], repeats=2).results[1].vs_greedy["accuracy"]
    assert (delta.delta, delta.p, delta.test) == (1, 1, "mcnemar")
    apart = [each.model_copy(update={"image_id": each.id}) for each in [*base, *other]]
    delta = summary_of(apart, repeats=2).results[1].vs_greedy["accuracy"]
    assert delta.p == 2 / 2**6


def test_a_cluster_is_resampled_as_a_whole() -> None:
    rows = [row("Yes", id=str(n), image_id=str(n), cluster=f"set {n // 2}") for n in range(6)]
    assert len(tallies(benchmarks.get("pope-scenes"), rows)) == 3
    assert row("Yes", image_id=None, id="7").unit == "no image: 7"


def splits_alike(shift: int) -> list[Table]:
    """All three splits with the same answers, about the same pictures or about others."""
    found = []
    for n, split in enumerate(("random", "popular", "adversarial")):
        rows = [
            row(
                "Yes" if k % 3 else "No",
                id=f"{split}/{k}",
                split=split,
                image_id=f"{k + n * shift}",
                label="yes" if k % 4 else "no",
            )
            for k in range(60)
        ]
        found.append(table("pope-scenes", greedy=rows))
    return found


def test_totals_resample_the_splits_together() -> None:
    tables = splits_alike(shift=0)
    counts = [each.counts() for each in tables]
    (f1, accuracy) = totals(tables, counts)
    assert (f1.name, accuracy.name) == ("mean_f1", "mean_accuracy")
    spread = tables[0].benchmark.rates(resample(counts[0]))["accuracy"][0]
    assert accuracy.ci == pytest.approx(ends(spread, 60))  # the same pictures: no more is known
    apart = splits_alike(shift=60)
    _, other = totals(apart, [each.counts() for each in apart])
    assert other.value == accuracy.value
    assert accuracy.ci is not None
    assert other.ci is not None
    narrow, wide = (ci[1] - ci[0] for ci in (other.ci, accuracy.ci))
    assert narrow < 0.75 * wide
    assert totals(tables[:2], counts[:2]) == []
