"""Conversations changed: other pictures, or none."""

from collections.abc import Callable, Sequence

from PIL import Image

from halu.types import Message, Part, Picture


def without_images(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with its pictures dropped and nothing in their place."""
    return tuple(_with(m, tuple(part for part in m.content if not isinstance(part, Picture))) for m in messages)


def with_images(messages: Sequence[Message], view: Callable[[Image.Image], Image.Image]) -> tuple[Message, ...]:
    """The conversation with every picture replaced by a view of it."""

    def seen(part: Part) -> Part:
        return Picture(image=view(part.image)) if isinstance(part, Picture) else part

    return tuple(_with(m, tuple(seen(part) for part in m.content)) for m in messages)


def _with(message: Message, parts: tuple[Part, ...]) -> Message:
    return message.model_copy(update={"content": parts})
