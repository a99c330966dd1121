"""A model in vLLM: what `halu.load(..., backend="vllm")` returns."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from vllm import EngineArgs, LLMEngine, SamplingParams
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind

from halu.adapters import bare_adapter, folder_of
from halu.aside import Aside
from halu.errors import BadInput, Failed, HaluError, Unavailable, Unsupported
from halu.types import Answer, Event, Request, Sampling
from halu.vllm.asked import KEY, Asked
from halu.vllm.part import INTERRUPTED
from halu.vllm.submission import Sent, Submission, engine_input
from halu.vlm import VLM

AGAIN = 8
"""How often a request is made anew whose memory vLLM gave to others."""

OPTIONS: dict[str, Any] = {
    "worker_cls": "halu.vllm.v1.Worker",
    "scheduler_cls": "halu.vllm.scheduler.Coupled",
    "enable_chunked_prefill": False,
    "enforce_eager": True,
    "mm_processor_cache_gb": 0,
    "mm_device_do_normalize": False,
    "generation_config": "vllm",
    "disable_log_stats": True,
}
"""What halu sets; everything else is the caller's or vLLM's default."""


class Served(VLM):
    """A model in a vLLM engine of its own.

    Args:
        name: built-in name, folder, or Hugging Face id.
        device: torch device, if it is to be checked.
        dtype: torch dtype name; by default float32 on cpu, the checkpoint's own elsewhere.
        options: further arguments of vLLM's `EngineArgs`.

    Raises:
        BadInput: if vLLM runs on another device.
        Unavailable: if this vLLM is not one that halu knows.
        HaluError: if the model cannot be loaded.
    """

    tells_evidence = False

    def __init__(
        self, name: str, *, device: str | None = None, dtype: str | None = None, **options: Any
    ) -> None:
        own = current_platform.device_type
        if device is not None and device.partition(":")[0] != own:
            raise BadInput(
                f"This vLLM runs on {own}, not on {device}.", hint="Leave it out.", param="device"
            )
        self._name = name
        self.adapter = bare_adapter(name)
        usual = "float32" if current_platform.is_cpu() else "auto"
        args = {**OPTIONS, "dtype": dtype or usual, **options}
        try:
            self.engine = LLMEngine.from_engine_args(EngineArgs(model=folder_of(name), **args))
        except HaluError:
            raise
        except Exception as error:
            raise Unavailable(
                f"vLLM cannot serve {name!r}: {_last_line(error)}", param="backend"
            ) from error
        self.longest: int = self.engine.model_config.max_model_len
        self.processor = self.engine.renderer.get_mm_processor()
        self._lock = threading.RLock()
        self._heard: dict[str, list[Any]] = {}

    @property
    def name(self) -> str:
        """The name it was loaded by."""
        return self._name

    def run(self, request: Request) -> Iterator[Event]:
        """Streams one request; raises what it raises."""
        for _, event in self._told([request]):
            yield event

    def generate_each(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Answers a batch of mixed strategies, all in one engine."""
        for index, event in self._told(requests):
            if event.answer is not None:
                yield index, event.answer

    def close(self) -> None:
        """Ends the engine."""
        self.engine.engine_core.shutdown()

    def _told(self, requests: Sequence[Request]) -> Iterator[tuple[int, Event]]:
        """The events of a batch with the index of their request."""
        ones = [Submission(self.adapter, each, self._say, self.longest) for each in requests]
        live = {index: Run(self, one) for index, one in enumerate(ones)}
        try:
            while live:
                self._step()
                for index, run in list(live.items()):
                    for event in run.news():
                        yield index, event
                    if run.one.answer is not None:
                        live.pop(index).end()
        finally:
            for run in live.values():
                run.end()

    def submit(self, sent: Sequence[Sent], params: SamplingParams) -> None:
        """Gives branches to the engine."""
        with self._lock:
            for each in sent:
                own = params.clone()
                own.extra_args = {KEY: each.asked.text()}
                self._heard[each.name] = []
                prompt = engine_input(self.processor, self.adapter, each)
                self.engine.add_request(each.name, prompt, own)

    def take(self, name: str) -> list[Any]:
        """What the engine has said to a branch since the last call."""
        with self._lock:
            heard = self._heard.get(name, [])
            self._heard[name] = []
            return heard

    def drop(self, names: Sequence[str]) -> None:
        """Ends branches that nobody listens to any more."""
        with self._lock:
            self.engine.abort_request([name for name in names if name in self._heard])
            for name in names:
                self._heard.pop(name, None)

    def _step(self) -> None:
        with self._lock:
            for found in self.engine.step():
                name = found.request_id
                if name in self._heard:
                    self._heard[name].append(found.outputs[0])

    def _say(self, asides: Sequence[Aside]) -> None:
        """Texts said beside decoding, by plain requests of the same engine."""
        for aside in asides:
            sampling = Sampling(max_new_tokens=aside.most)
            name = f"halu-aside-{id(aside)}"
            sent = Sent(name, aside.prompt, Asked(sampling=sampling), "")
            self.submit([sent], params(sampling, self.adapter.ends))
            over = False
            while not over:
                self._step()
                for found in self.take(name):
                    aside.tokens += found.token_ids
                    over = _checked(found)
            self.drop([name])


class Run:
    """One request in the engine, from its submission to its answer."""

    def __init__(self, vlm: Served, one: Submission) -> None:
        self.vlm = vlm
        self.one = one
        self.again = 0
        self.skip = 0
        self.names: list[str] = []
        self._start()

    def news(self) -> Iterator[Event]:
        """What the request has to tell.

        Raises:
            HaluError: why it cannot go on.
        """
        for found in self.vlm.take(self.names[0]):
            if str(found.stop_reason).startswith(INTERRUPTED) and self.again < AGAIN:
                self.end()
                self.again += 1
                self._start()
                return
            over = _checked(found)
            new = list(found.token_ids)[self.skip :]
            self.skip = max(0, self.skip - len(found.token_ids))
            event = self.one.hear(new, over)
            if event is not None and (event.text or event.tokens or event.answer):
                yield event
            if self.one.answer is not None:
                return

    def end(self) -> None:
        """Takes what still runs out of the engine."""
        self.vlm.drop(self.names)

    def _start(self) -> None:
        """Makes the request; what an earlier one has said already is passed over."""
        self.skip = len(self.one.tokens)
        sent = self.one.sent()
        self.names = [each.name for each in sent]
        self.vlm.submit(sent, params(self.one.request.sampling, self.one.adapter.ends))


def params(sampling: Sampling, ends: frozenset[int]) -> SamplingParams:
    """vLLM's part: how long, and what ends. Tokens are drawn by halu, so that a seed means the same
    under every backend.
    """
    return SamplingParams(
        temperature=0,
        max_tokens=sampling.max_new_tokens,
        stop_token_ids=sorted(ends),
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )


def _checked(found: Any) -> bool:
    """Whether a request is over.

    Raises:
        HaluError: if it has failed.
    """
    if found.finish_reason == "error":
        raise Unsupported(str(found.stop_reason or "vLLM gave the request up."), param="strategy")
    if found.finish_reason == "abort":
        raise Failed("vLLM gave the request up.")
    return found.finish_reason is not None


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
