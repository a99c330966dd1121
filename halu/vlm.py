"""A vision-language model with pluggable decoding strategies, wherever it runs."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from halu.detector import Detector, DetectorContext, chosen, find
from halu.examining import prepared
from halu.images import ImageLike, open_images
from halu.types import Answer, Event, Request, Sampling, checked, question


class VLM(ABC):
    """What `halu.load` returns: answers one question, a stream of tokens, or a batch.

    A backend says how one request is streamed and how several are answered.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The name it was loaded by."""

    tells_evidence: ClassVar[bool] = True
    """Whether answers can carry what was known when each token was chosen."""

    @abstractmethod
    def run(self, request: Request) -> Iterator[Event]:
        """Streams one request; raises what it raises. Closing the iterator frees everything."""

    @abstractmethod
    def generate_each(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Answers a batch, yielding (index, answer) as each is done.

        Raises:
            Exception: what the first request that fails raises; the others are given up.
        """

    def peak_gpu_memory_mb(self) -> float | None:
        """Peak memory on the GPU since the last call; None where there is none, or nobody knows."""
        return None

    def ask(
        self, image: ImageLike | Sequence[ImageLike] | None, text: str, **options: Any
    ) -> Answer:
        """Asks one question.

        Args:
            image: a picture, a path to one, several, or none.
            text: the question.
            options: `strategy`, `params`, `evidence`, `detectors`, and every field of
                `halu.types.Sampling`.

        Raises:
            HaluError: for a request that cannot be answered; the message says what to change.
        """
        answer: Answer | None = None
        for event in self.stream(image, text, **options):
            answer = event.answer
        assert answer is not None
        return answer

    def stream(
        self, image: ImageLike | Sequence[ImageLike] | None, text: str, **options: Any
    ) -> Iterator[Event]:
        """Like `ask`, token by token; the last event carries the answer. Closing the iterator frees
        everything.
        """
        using = chosen(options.pop("detectors", None) or ())
        return self.examined(asking(image, text, **options), using)

    def examined(self, request: Request, using: Sequence[Detector]) -> Iterator[Event]:
        """Streams one request; the answer carries what these detectors find."""
        request = prepared(request, using, told=self.tells_evidence)
        for event in self.run(request):
            if event.answer is None or not using:
                yield event
                continue
            asked = DetectorContext(request, self.generate_each, self.name)
            found = find(event.answer, request.images, using, asked)
            answer = event.answer.model_copy(update={"findings": (*event.answer.findings, *found)})
            yield event.model_copy(update={"answer": answer})

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers a batch, each request under its own strategy."""
        answers = dict(self.generate_each(requests))
        return [answers[index] for index in range(len(requests))]


def asking(image: ImageLike | Sequence[ImageLike] | None, text: str, **options: Any) -> Request:
    """The request that `VLM.ask` sends.

    Raises:
        HaluError: for options that do not exist or do not fit.
    """
    images = open_images(image)
    own = {key: options.pop(key, None) for key in ("strategy", "params", "evidence")}
    sampling = checked(Sampling, options, "option")
    given = {key: value for key, value in own.items() if value is not None}
    return checked(
        Request, {"messages": question(text, *images), "sampling": sampling, **given}, "option"
    )
