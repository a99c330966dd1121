"""Which question an answer belongs to: by id, by picture and object, or by order.

LLaVA's script pairs answers with labels by order within a split, so that one missing answer shifts
all that follow. Here order is the last resort, and whatever else a line tells must agree with it.
"""

from collections.abc import Callable, Sequence

from halu.errors import BadInput
from halu.eval.answers import Reply, answered_twice, refuse_gaps, repeated
from halu.eval.benchmark import Sample
from halu.eval.pope import KINDS, asked_object
from halu.eval.pope_questions import Key, key_of

Joined = list[tuple[Sample, str]]

_LLAVA = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}
_GENERATIONS = "Give the question file that was answered: ids differ between its generations."


def join(questions: Sequence[Sample], replies: Sequence[Reply], partial: bool) -> Joined:
    """Pair answers with questions, in the order of the questions.

    Raises:
        BadInput: if an answer fits no question or two do, or a question has none and `partial`
            was not asked for.
    """
    if not any(reply.id for reply in replies):
        return _by_order(questions, replies)
    found = _by_id(questions, replies)
    if found is None:
        found = _by_object(questions, replies)
    missing = [sample.id for sample in questions if sample.id not in found]
    refuse_gaps(missing, len(questions), partial)
    return [(sample, found[sample.id]) for sample in questions if sample.id in found]


def narrowed(questions: Sequence[Sample], replies: Sequence[Reply]) -> list[Sample]:
    """Keep the one split of several whose questions the answers fit, by id and what lines tell.

    Where none or more than one fits, all are kept: the answers may be of several.
    """
    splits: dict[str, list[Sample]] = {}
    for sample in questions:
        splits.setdefault(sample.split, []).append(sample)
    if len(splits) == 1 or repeated([reply.id or "" for reply in replies]):
        return list(questions)
    fitting = []
    for samples in splits.values():
        known = {sample.id.rpartition("/")[2]: sample for sample in samples}
        fits = (reply.id in known and _agrees(known[reply.id], reply) for reply in replies)
        fitting += [samples] if all(fits) else []
    return fitting[0] if len(fitting) == 1 else list(questions)


def _by_id(questions: Sequence[Sample], replies: Sequence[Reply]) -> dict[str, str] | None:
    """Map question to answer; None where ids clash or point to questions about other things."""
    name = _naming(questions, replies)
    names = [name(reply) for reply in replies]
    known = {sample.id: sample for sample in questions}
    pictured = all(reply.image for reply in replies)
    if any(own is None for own in names):
        return None
    if twice := answered_twice(replies, name):
        if pictured:
            return None
        raise twice
    found: dict[str, str] = {}
    for own, reply in zip(names, replies, strict=True):
        sample = known.get(own or "")
        if sample is None:
            if pictured:
                return None
            raise BadInput(f"{reply.where}: there is no question {reply.id}.", hint=_GENERATIONS)
        if not _agrees(sample, reply):
            if pictured:
                return None
            raise BadInput(
                f"{reply.where}: question {reply.id} is {sample.prompt!r} in the question file"
                f" and {reply.prompt!r} in the answers.",
                hint=_GENERATIONS,
            )
        found[sample.id] = reply.text
    return found


def _naming(questions: Sequence[Sample], replies: Sequence[Reply]) -> Callable[[Reply], str | None]:
    """Decide how an answer's id leads to a question's: alone, or with the split it is of."""
    by_id: dict[str, list[str]] = {}
    for sample in questions:
        by_id.setdefault(sample.id.rpartition("/")[2], []).append(sample.id)
    splits = {_kind(sample): sample.split for sample in questions}
    place = _placing(questions, replies)

    def name(reply: Reply) -> str | None:
        kind, own = place(reply)
        if kind is not None:
            return f"{splits.get(kind, kind)}/{own}"
        ids = by_id.get(own, [f"?/{own}"])
        return ids[0] if len(ids) == 1 else None

    return name


def _placing(
    questions: Sequence[Sample], replies: Sequence[Reply]
) -> Callable[[Reply], tuple[str | None, str]]:
    """Decide how a line tells the split it is of, if it does, and the number within."""
    known = {sample.id.rpartition("/")[2] for sample in questions}
    kinds = {_kind(sample) for sample in questions}
    foreign = [_numbered(reply) for reply in replies if reply.id not in known]
    combined = any(numbered is not None and numbered[0] != KINDS[-1] for numbered in foreign)

    def place(reply: Reply) -> tuple[str | None, str]:
        if combined and (numbered := _numbered(reply)):
            return numbered
        kind = (reply.split or "").rpartition("/")[2]
        return kind if kind in kinds else None, reply.id or ""

    return place


def _kind(sample: Sample) -> str:
    return sample.split.rpartition("/")[2]


def _numbered(reply: Reply) -> tuple[str, str] | None:
    """Read an id of LLaVA's combined file, which counts from 1, as split and number."""
    if reply.id is None or not (reply.id.isascii() and reply.id.isdigit()):
        return None
    number = int(reply.id)
    below = [kind for kind in KINDS if _LLAVA[kind] < number]
    kind = max(below, key=_LLAVA.__getitem__, default=None)
    return None if kind is None else (kind, str(number - _LLAVA[kind]))


def _by_object(questions: Sequence[Sample], replies: Sequence[Reply]) -> dict[str, str]:
    """Pair by picture and object, and by split where the line tells it.

    Several splits may ask one question; where no line tells which of them it answers, they are all
    answered, and all alike.
    """
    place = _placing(questions, replies)
    waiting: dict[tuple[Key, str | None], list[Sample]] = {}
    for sample in questions:
        for kind in (None, _kind(sample)):
            waiting.setdefault((key_of(sample), kind), []).append(sample)
    given: dict[tuple[Key, str | None], list[Reply]] = {}
    for reply in replies:
        given.setdefault((_key(reply), place(reply)[0]), []).append(reply)
    found: dict[str, str] = {}
    for key, own in given.items():
        there = waiting.get(key, [])
        _refuse_unclear(key[0], there, own)
        if clash := [sample.id for sample in there if sample.id in found]:
            raise BadInput(f"{own[0].where}: question {clash[0]} has an answer already.")
        found |= {sample.id: reply.text for sample, reply in zip(there, own, strict=True)}
    return found


def _key(reply: Reply) -> Key:
    asked = asked_object(reply.prompt or "")
    if not reply.image or asked is None:
        raise BadInput(
            f"{reply.where}: id {reply.id} could be several questions, and the line does not"
            " tell picture and question.",
            hint="Give the question file of one split.",
        )
    return reply.image.rpartition("/")[2], asked


def _refuse_unclear(key: Key, there: Sequence[Sample], own: Sequence[Reply]) -> None:
    """Raise BadInput unless it is clear which of the questions `there` each answer is to."""
    image, asked = key
    if len(own) > len(there):
        raise BadInput(
            f"{own[len(there)].where}: no question, or none left, asks for {asked!r} in {image}."
        )
    if len(there) > 1 and (len(own) < len(there) or len({reply.text for reply in own}) > 1):
        raise BadInput(
            f"{own[0].where}: {len(there)} questions ask for {asked!r} in {image}, and no line"
            " tells the split that it answers.",
            hint="Score the answers of each split alone, or add the split as 'category'.",
            param="answers",
        )


def _by_order(questions: Sequence[Sample], replies: Sequence[Reply]) -> Joined:
    if len(replies) != len(questions):
        raise BadInput(
            f"{len(replies)} answers without ids cannot be joined with {len(questions)} questions.",
            hint=_GENERATIONS,
            param="answers",
        )
    for sample, reply in zip(questions, replies, strict=True):
        if not _agrees(sample, reply):
            raise BadInput(
                f"{reply.where}: answers {reply.prompt!r} where the question is {sample.prompt!r}.",
                hint=_GENERATIONS,
            )
    return [(sample, reply.text) for sample, reply in zip(questions, replies, strict=True)]


def _agrees(sample: Sample, reply: Reply) -> bool:
    """Whether nothing that the answer's line tells speaks against this question."""
    asked = asked_object(reply.prompt or "")
    label = {"1": "yes", "0": "no"}.get(reply.label or "", (reply.label or "").strip().lower())
    picture = (reply.image or "").rpartition("/")[2]
    return (
        (asked is None or sample.category is None or asked == sample.category)
        and (label not in ("yes", "no") or label == sample.label)
        and (not picture or picture == key_of(sample)[0])
    )
