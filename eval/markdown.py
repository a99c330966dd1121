"""`report.md`: the results as tables that can be pasted into an issue or a paper's draft."""

from collections.abc import Iterator, Sequence

from halu.eval import words
from halu.eval.against import ALPHA, Delta
from halu.eval.benchmark import Metric, benchmarks
from halu.eval.equal_length import METRICS
from halu.eval.plan import Manifest
from halu.eval.summary import Result, Summary, defined
from halu.eval.totals import TotalResult

_READ = (
    "In brackets 95 % intervals from resampling pictures. Below each figure its difference from "
    "plain decoding on the same samples; **bold** where p, after Holm's correction, is below "
    f"{ALPHA}, "
    "everything else is no difference that this many samples can show. Shares are in percent. "
    "p of accuracies: McNemar's exact test by pictures; of the rest: paired bootstrap."
)


def markdown(record: Manifest, summary: Summary) -> str:
    """Write all results of a run."""
    parts = [f"# {', '.join(source.label for source in record.models)}", ""]
    if record.command:
        parts += ["```sh", record.command.replace("```", "'''"), "```", ""]
    if builtin := [suite.name for suite in record.benchmarks if suite.builtin]:
        parts += [f"Built-in world ({', '.join(builtin)}): no claim about any other model.", ""]
    parts += [f"- {_escaped(note)}" for note in summary.notes]
    parts += ["", _READ, ""]
    keys = dict.fromkeys((r.model, r.benchmark, r.split) for r in summary.results)
    for key in keys:
        parts += _section([r for r in summary.results if (r.model, r.benchmark, r.split) == key])
    parts += [_total(total) for total in summary.totals]
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    return "\n".join([*parts, "", f"{versions}. Seed {record.seed}.", ""])


def _total(total: TotalResult) -> str:
    known = benchmarks.get(total.benchmark).metrics
    metric = next(metric for metric in known if metric.name == total.metric)
    told = words.written(total.value, total.ci, metric)
    if total.vs_greedy:
        told += _change(total.vs_greedy, metric).replace("<br>", ", ")
    return f"- {total.name} of {total.benchmark}, {total.model}, `{total.label}`: {told}"


def _section(results: Sequence[Result]) -> list[str]:
    first = results[0]
    metrics = defined(results, benchmarks.get(first.benchmark).metrics)
    head = [f"{metric.name} {words.ARROWS[metric.better]}".rstrip() for metric in metrics]
    head += ["unreadable", "time", "forwards a token", "Pareto front"]
    rows = [
        [f"`{result.label}`", *(_cell(result, metric) for metric in metrics), *_cost(result)]
        for result in results
    ]
    title = f"## {first.benchmark}, {first.split}, {first.model}"
    told = f"{first.n} samples on {first.images} pictures."
    return [title, "", told, "", *_table(["strategy", *head], rows), "", *_equal_length(results)]


def _equal_length(results: Sequence[Result]) -> list[str]:
    rows = [
        [
            f"`{result.label}`",
            words.amount(alike.words, 1),
            *(
                words.written(cut.value, cut.ci, metric) + _change(cut.vs_greedy, metric)
                for metric in METRICS
                for cut in [alike.metrics[metric.name]]
            ),
        ]
        for result in results
        if (alike := result.at_equal_length)
    ]
    if not rows:
        return []
    head = ["at equal length", "words", *(f"{m.name} {words.ARROWS[m.better]}" for m in METRICS)]
    return [*_table(head, rows), ""]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(map(_escaped, head))} |"
    yield "|---|" + "--:|" * (len(head) - 1)
    for row in rows:
        yield f"| {' | '.join(map(_escaped, row))} |"


def _cell(result: Result, metric: Metric) -> str:
    figure = result.metrics[metric.name]
    text = words.written(figure.value, figure.ci, metric)
    if figure.seed_sd is not None:
        text += f"<br>seeds ±{words.figure(figure.seed_sd, metric)}"
    delta = result.vs_greedy.get(metric.name)
    return text + (_change(delta, metric) if delta else "")


def _change(delta: Delta, metric: Metric) -> str:
    if delta.delta is None:
        return ""
    told = f"{words.change(delta.delta, metric)} {delta.verdict}"
    if delta.verdict != "no difference":
        told = f"**{told}**"
    return f"<br>{told} {words.probability(delta.p_holm)}".rstrip()


def _cost(result: Result) -> tuple[str, ...]:
    cost = result.cost
    time = "–" if cost.time_vs_greedy is None else f"{words.amount(cost.time_vs_greedy, 2)} ×"
    front = {True: "yes", False: "no", None: "–"}[result.pareto]
    return (str(result.unreadable), time, words.amount(cost.forwards_per_token, 2), front)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
