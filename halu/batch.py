"""What models in this process have in common: requests join and leave a running batch between two
steps, whoever takes the steps.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from halu.errors import BadInput
from halu.planning import Chosen
from halu.prompt import Prompt
from halu.tally import Tally
from halu.types import Answer, Event, Request
from halu.vlm import VLM


class Work(Protocol):
    """One request in a batch."""

    @property
    def request(self) -> Request:
        """The request."""

    @property
    def chosen(self) -> Chosen:
        """Its strategies, once it is planned."""

    @property
    def planned(self) -> bool:
        """Whether its plan is made and its prompts have been read."""

    @property
    def prompts(self) -> Sequence[Prompt]:
        """Its branches' prompts, once it is planned."""

    @property
    def width(self) -> int:
        """The most rows that it may come to have."""


class Batch(Protocol):
    """Requests that run together."""

    @property
    def jobs(self) -> Sequence[Work]:
        """Those that have not ended, in the order in which they came."""

    @property
    def width(self) -> int:
        """The most rows that they may come to have: what admission is decided by."""

    @property
    def salt(self) -> str:
        """Only what is added or run under the same salt shares what is remembered of pictures and
        prompts.
        """

    @salt.setter
    def salt(self, value: str) -> None: ...

    def add(self, requests: Sequence[Request]) -> Sequence[Work]:
        """Takes requests in.

        Raises:
            HaluError: if a request cannot be planned; then none is added, and those that run go on.
        """

    def step(self) -> Sequence[tuple[Work, Event | Exception]]:
        """Goes on by one step; returns what each request has to tell. One with an exception is
        over, and the others go on.

        Raises:
            Exception: if nothing runs any more.
        """

    def drop(self, job: Any) -> None:
        """Ends a request whose answer nobody wants any more."""

    def close(self) -> None:
        """Ends everything."""


class Batched(VLM):
    """A model in this process."""

    tokenizer: Any
    """The model's."""

    @abstractmethod
    def batch(self) -> Batch:
        """A batch of its own, empty."""

    @property
    @abstractmethod
    def context(self) -> int:
        """Most tokens of a prompt and its answer."""

    @property
    @abstractmethod
    def weights(self) -> int:
        """Bytes of its weights in memory."""

    def reused(self) -> Mapping[str, Tally]:
        """What its caches were asked for since the last call, and what was there, by the stem of
        the metrics that vLLM has for such a cache; nothing of caches that are not its own.
        """
        return {}

    def close(self) -> None:
        """Gives up what it holds beside its memory."""

    def run(self, request: Request) -> Iterator[Event]:
        """Streams one request; raises what it raises."""
        for _, event in self._told([request]):
            yield event

    def generate_each(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Answers requests of mixed strategies in one batch."""
        if not requests:
            return
        for index, event in self._told(requests):
            if event.answer is not None:
                yield index, event.answer

    def _told(self, requests: Sequence[Request]) -> Iterator[tuple[int, Event]]:
        """The events of a batch with the index of their request."""
        batch = self.batch()
        try:
            index = {id(job): i for i, job in enumerate(batch.add(requests))}
            while batch.jobs:
                for job, event in batch.step():
                    if isinstance(event, Exception):
                        raise event
                    yield index[id(job)], event
        finally:
            batch.close()


def check_room(prompt: int, tokens: int, most: int, hint: str = "") -> None:
    """Refuses a prompt that with its answer is longer than the model's context.

    Args:
        prompt: tokens of the prompt.
        tokens: most tokens of the answer.
        most: the model's context.
        hint: what else may be done.

    Raises:
        BadInput: with all three.
    """
    if prompt + tokens > most:
        raise BadInput(
            f"The model's context is {most} tokens; the prompt has {prompt}, and max_tokens is"
            f" {tokens}.",
            hint=hint,
            param="messages",
            code="context_length_exceeded",
        )
