"""Answer files of other projects, whatever they call their fields.

| who | fields |
|---|---|
| POPE | `question`, `answer`, in the order of the questions |
| LLaVA, VCD | `question_id`, `prompt`, `text`, sometimes `image` |
| PAI | `query`, `ans`, `label`, in the order of the questions |
| captions | `image_id` with `caption` or `text`; or `question_id` and a question file |
| AMBER | `id`, `response` |
| halu | the rows of a run, see `halu.eval.own_rows` |

A question file has its question under `text`, where LLaVA and caption files have the answer. It is
known by this: no line has another field for an answer or one for the question, and every `text`
holds a question mark. Such a file is refused.

The form (JSON lines, one array, objects one after another, gzip) is `halu.eval.records`'s business;
which question an answer belongs to is each benchmark's.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from halu.errors import BadInput
from halu.eval.own_rows import Chosen, are_rows, selected
from halu.eval.records import Entry, read_entries

_TEXT = "text"
_ANSWER = ("answer", "ans", "caption", "response", _TEXT)
_ID = ("question_id", "id")
_IMAGE = ("image", "image_id", "image_name", "file_name")
_PROMPT = ("query", "prompt", "question")
_SPLIT = ("category", "split", "type")


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of a file, with whatever the line tells about its question."""

    text: str
    where: str
    id: str | None = None
    image: str | None = None
    prompt: str | None = None
    label: str | None = None
    split: str | None = None


def read_replies(path: Path, chosen: Chosen | None = None) -> list[Reply]:
    """Read an answer file.

    Args:
        path: the file.
        chosen: which rows are meant, if these are the rows of a run; None takes no such file.

    Raises:
        BadInput: naming the line, if one is malformed or has no answer, or if there is none, or
            if the file holds questions, or rows of which nothing tells which are meant.
    """
    entries = _meant(path, read_entries(path), chosen)
    replies = [_reply(entry) for entry in entries]
    if not replies:
        raise BadInput(f"{path} holds no answers.", param="answers")
    if all(map(_asks, entries)):
        raise BadInput(
            f"{path} holds questions and no answers.",
            hint="Name the file with the model's answers, and this one with --questions.",
            param="answers",
        )
    return replies


def _meant(path: Path, entries: list[Entry], chosen: Chosen | None) -> list[Entry]:
    if are_rows(entries):
        if chosen is None:
            raise BadInput(
                f"{path} holds the rows of a run, which this benchmark reads by one rule alone.",
                hint="Its figures are in report.md beside them; `halu report` makes it again.",
                param="answers",
            )
        return selected(entries, chosen)
    if chosen is not None and (chosen.model or chosen.strategy or chosen.repeat):
        raise BadInput(
            f"{path} holds no rows of a run, so that there is no model or strategy to choose.",
            param="answers",
        )
    return entries


def _asks(entry: Entry) -> bool:
    alone = entry.first(*_ANSWER[:-1], *_PROMPT) is None
    return alone and "?" in (entry.first(_TEXT) or "")


def _reply(entry: Entry) -> Reply:
    text = entry.first(*_ANSWER)
    if text is None:
        raise BadInput(
            f"{entry.where}: no answer.", hint=f"Looked for the fields {', '.join(_ANSWER)}."
        )
    return Reply(
        text,
        entry.where,
        id=entry.first(*_ID),
        image=entry.first(*_IMAGE),
        prompt=entry.first(*_PROMPT),
        label=entry.first("label"),
        split=entry.first(*_SPLIT),
    )


def repeated(ids: Iterable[str]) -> list[str]:
    """List the ids that occur more than once."""
    return [name for name, times in Counter(ids).items() if times > 1]


def answered_twice(
    replies: Iterable[Reply], name: Callable[[Reply], str | None]
) -> BadInput | None:
    """Report the first two answers to one question, of those whose question `name` tells."""
    first: dict[str, Reply] = {}
    for reply in replies:
        own = name(reply)
        if own is not None and (before := first.setdefault(own, reply)) is not reply:
            return BadInput(
                f"Question {reply.id} is answered twice: {before.where} and {reply.where}.",
                param="answers",
            )
    return None


def refuse_gaps(missing: list[str], total: int, partial: bool) -> None:
    """Raise BadInput if questions are without an answer and that was not asked for."""
    if missing and not partial:
        raise BadInput(
            f"{len(missing)} of {total} questions have no answer, such as {missing[0]}.",
            hint="Give --allow-partial to score the others alone.",
            param="answers",
        )
