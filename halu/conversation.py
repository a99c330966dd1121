"""A conversation asked anew: other words around or instead of its last question, other pictures."""

from collections.abc import Callable, Sequence

from PIL import Image

from halu.errors import Unsupported
from halu.types import Message, Part, Picture, Text

Messages = tuple[Message, ...]


def question_of(messages: Messages) -> str:
    """The words of the last question."""
    parts = _last_turn(messages)[1].content
    return " ".join(part.text for part in parts if isinstance(part, Text))


def before(messages: Messages, words: str) -> Messages:
    """The conversation with words in front of its last question; pictures stay where they are."""
    return _asked(messages, lambda parts: _with(parts, _first_text(parts), f"{words} ", ""))


def after(messages: Messages, words: str) -> Messages:
    """The conversation with words behind its last question."""
    return _asked(messages, lambda parts: _with(parts, _last_text(parts), "", f" {words}"))


def instead(messages: Messages, words: str) -> Messages:
    """The conversation with words in the place of its last question, after that turn's pictures."""
    return _asked(
        messages,
        lambda parts: (*(p for p in parts if isinstance(p, Picture)), Text(text=words)),
    )


def repictured(messages: Messages, views: Sequence[Sequence[Image.Image]]) -> Messages:
    """The conversation with other pictures, any number of them in the place of each."""
    left = iter(views)

    def shown(part: Part) -> tuple[Part, ...]:
        if isinstance(part, Text):
            return (part,)
        return tuple(Picture(image=image) for image in next(left))

    return tuple(
        message.model_copy(update={"content": tuple(p for q in message.content for p in shown(q))})
        for message in messages
    )


def _asked(messages: Messages, change: Callable[[tuple[Part, ...]], tuple[Part, ...]]) -> Messages:
    index, last = _last_turn(messages)
    own = last.model_copy(update={"content": change(last.content)})
    return (*messages[:index], own, *messages[index + 1 :])


def _last_turn(messages: Messages) -> tuple[int, Message]:
    """The user's last turn and its place."""
    turns = [index for index, message in enumerate(messages) if message.role == "user"]
    if not turns:
        raise Unsupported("The conversation has no user's turn to ask anew.", param="messages")
    return turns[-1], messages[turns[-1]]


def _first_text(parts: tuple[Part, ...]) -> int:
    return next((i for i, part in enumerate(parts) if isinstance(part, Text)), len(parts))


def _last_text(parts: tuple[Part, ...]) -> int:
    back = next((i for i, part in enumerate(parts[::-1]) if isinstance(part, Text)), None)
    return len(parts) if back is None else len(parts) - 1 - back


def _with(parts: tuple[Part, ...], at: int, front: str, back: str) -> tuple[Part, ...]:
    old = parts[at] if at < len(parts) else Text(text="")
    assert isinstance(old, Text)
    words = f"{front}{old.text}{back}" if old.text else f"{front}{back}".strip()
    return (*parts[:at], Text(text=words), *parts[at + 1 :])
