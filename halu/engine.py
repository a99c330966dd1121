"""A loaded model that answers requests: one, a stream, or a batch of mixed strategies."""

from collections.abc import Iterator, Sequence
from typing import Any

from halu.adapters import Adapter, load_adapter
from halu.decode import Decoder
from halu.errors import Unsupported
from halu.images import ImageLike, open_image
from halu.job import Job
from halu.types import Answer, Event, Request, Sampling, checked, question


class VLM:
    """A vision-language model with pluggable decoding strategies. Made by `halu.load`."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    @property
    def name(self) -> str:
        """The name it was loaded by."""
        return self.adapter.facts.name

    def ask(
        self, image: ImageLike | Sequence[ImageLike] | None, text: str, **options: Any
    ) -> Answer:
        """Asks one question.

        Args:
            image: a picture, a path to one, several, or none.
            text: the question.
            options: `strategy`, `params`, `evidence`, and every field of `halu.types.Sampling`.

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
        return self.run(self.request(image, text, **options))

    def request(
        self, image: ImageLike | Sequence[ImageLike] | None, text: str, **options: Any
    ) -> Request:
        """The request that `ask` would send."""
        images = [open_image(one) for one in _several(image)]
        own = {key: options.pop(key, None) for key in ("strategy", "params", "evidence")}
        sampling = checked(Sampling, options, "option")
        given = {key: value for key, value in own.items() if value is not None}
        return checked(
            Request, {"messages": question(text, *images), "sampling": sampling, **given}, "option"
        )

    def run(self, request: Request) -> Iterator[Event]:
        """Streams one request; raises what it raises."""
        decoder = Decoder(self.adapter)
        decoder.add([request])
        while decoder.jobs:
            for _, event in decoder.step():
                if isinstance(event, Exception):
                    raise event
                yield event

    @property
    def on_gpu(self) -> bool:
        """Whether the model is on a CUDA device."""
        return self.adapter.runner.device.type == "cuda"

    def peak_gpu_memory_mb(self) -> float:
        """Peak memory on the GPU since the last call."""
        import torch

        peak = torch.cuda.max_memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
        return peak

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers a batch, each request under its own strategy, all in one forward a step."""
        answers = dict(self.generate_each(requests))
        return [answers[index] for index in range(len(requests))]

    def generate_each(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Answers a batch, yielding (index, answer) as each is done.

        Raises:
            Exception: what the first request that fails raises; the others are given up.
        """
        if not requests:
            return
        decoder = Decoder(self.adapter)
        jobs: list[Job] = decoder.add(requests)
        index = {id(job): i for i, job in enumerate(jobs)}
        while decoder.jobs:
            for job, event in decoder.step():
                if isinstance(event, Exception):
                    raise event
                if event.answer is not None:
                    yield index[id(job)], event.answer


def load(
    name: str, *, device: str | None = None, dtype: str | None = None, backend: str = "hf"
) -> VLM:
    """Loads a model.

    Args:
        name: "tiny-llava", "tiny-qwen", a folder, or a Hugging Face id of a supported architecture.
        device: torch device; by default cuda where there is one.
        dtype: torch dtype name; by default the checkpoint's own on cuda, float32 on cpu.
        backend: "hf", in this process.

    Raises:
        HaluError: if it cannot be loaded; the message says why.
    """
    if backend != "hf":
        raise Unsupported(
            f"Backend {backend!r} is not there.", hint="There is: hf.", param="backend"
        )
    return VLM(load_adapter(name, device=device, dtype=dtype))


def _several(image: ImageLike | Sequence[ImageLike] | None) -> Sequence[ImageLike]:
    if image is None:
        return ()
    if isinstance(image, Sequence) and not isinstance(image, (str, bytes)):
        return image
    return [image]


def gpus() -> int:
    """How many CUDA devices there are."""
    import torch

    return torch.cuda.device_count()
