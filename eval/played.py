"""A model played by a function: runs benchmarks, reports and their tests without any model.

For whoever writes a benchmark or a backend; it takes the same road as a real one.
"""

from collections.abc import Callable, Iterator

from halu.eval.backends import Opener, ready
from halu.types import Answer, Generate, Request, Resolved, Usage


def played(reply: Callable[[Request], str]) -> Opener:
    """Build an `Opener` of it; `reply` answers each request, and a word counts as a token."""
    return ready(playing(reply))


def playing(reply: Callable[[Request], str]) -> Generate:
    """Build its `Generate`."""

    def generate(requests: list[Request]) -> Iterator[tuple[int, Answer]]:
        for number, request in enumerate(requests):
            text = reply(request)
            words = len(text.split())
            yield (
                number,
                Answer(
                    text=text,
                    tokens=(),
                    finish_reason="stop",
                    usage=Usage(
                        prompt_tokens=0, image_tokens=0, completion_tokens=words, forwards=words
                    ),
                    strategy=Resolved(name=request.strategy or "greedy", params=request.params),
                ),
            )

    return generate
