"""A model in a vLLM engine, whoever steps it: branches go in, and what the engine says to each is
kept until somebody takes it.
"""

import threading
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from halu.adapters import bare_adapter
from halu.batch import Batched
from halu.errors import Failed, HaluError, Unsupported
from halu.types import Sampling
from halu.vllm.asked import FORWARDS
from halu.vllm.batch import Batch
from halu.vllm.internals import PROCESSOR, check, lacking
from halu.vllm.part import FAILED
from halu.vllm.submission import Sent


@dataclass(frozen=True, slots=True)
class Heard:
    """What the engine says to a branch at once.

    Attributes:
        token_ids: the new tokens.
        finish_reason: vLLM's word for how it ended; none: it goes on.
        stop_reason: what ended it; of a failure, why.
        logprobs: of each new token, if they were asked for.
        forwards: how many forwards the request has taken so far; 0: not told.
    """

    token_ids: Sequence[int]
    finish_reason: str | None
    stop_reason: int | str | None
    logprobs: Any
    forwards: int

    @staticmethod
    def of(output: Any) -> "Heard":
        """From vLLM's `RequestOutput`."""
        (one,) = output.outputs
        told = (output.kv_transfer_params or {}).get(FORWARDS, 0)
        ids = tuple(one.token_ids)
        return Heard(ids, one.finish_reason, one.stop_reason, one.logprobs, told)


class InEngine(Batched):
    """A model in a vLLM engine.

    Args:
        name: built-in name, folder, or Hugging Face id.
        config: vLLM's of the model.
        processor: vLLM's own, which knows how the pixels of several pictures lie.

    Raises:
        Unavailable: if this vLLM is not one that halu knows.
        HaluError: if halu does not know the model.
    """

    tells_evidence = False

    def __init__(self, name: str, config: Any, processor: Any) -> None:
        self._name = name
        self.adapter = bare_adapter(name)
        self.tokenizer = self.adapter.tokenizer
        self.config = config
        check(lacking(type(processor), PROCESSOR))
        self.processor = processor
        self._lock = threading.RLock()
        self._heard: dict[str, list[Heard | HaluError]] = {}

    @property
    def name(self) -> str:
        """The name it was loaded by."""
        return self._name

    @property
    def context(self) -> int:
        """Tokens that the engine has room for in one request."""
        found: int = self.config.max_model_len
        return found

    @property
    def weights(self) -> int:
        """Bytes of its weights, by their number."""
        each: int = self.config.dtype.itemsize
        return each * sum(int(weight.numel()) for weight in self.adapter.model.parameters())

    def batch(self) -> Batch:
        """Requests of one caller; others may run in the same engine."""
        return Batch(self)

    @abstractmethod
    def submit(self, sent: Sequence[Sent], sampling: Sampling) -> None:
        """Gives branches to the engine."""

    @abstractmethod
    def step(self) -> None:
        """Goes on until the engine has something to say, for a moment at most."""

    @abstractmethod
    def drop(self, names: Sequence[str]) -> None:
        """Ends branches that nobody listens to any more."""

    def _listen(self, sent: Sent) -> None:
        """Keeps what is said to a main branch; the others hear the same."""
        if sent.asked.main:
            self._heard[sent.name] = []

    def take(self, name: str) -> list[Heard]:
        """What the engine has said to a main branch since the last call.

        Raises:
            HaluError: if the engine has not taken it.
        """
        with self._lock:
            heard = self._heard.get(name, [])
            if heard:
                self._heard[name] = []
        for one in heard:
            if isinstance(one, HaluError):
                raise one
        return [one for one in heard if not isinstance(one, HaluError)]

    @staticmethod
    def ended(found: Heard) -> bool:
        """Whether a branch has ended.

        Raises:
            HaluError: if it has failed.
        """
        if found.finish_reason == "error":
            why = str(found.stop_reason or "vLLM gave the request up.")
            if why == FAILED:
                raise Failed(why)
            raise Unsupported(why, param="strategy")
        if found.finish_reason == "abort":
            raise Failed("vLLM gave the request up.")
        return found.finish_reason is not None


def params(sampling: Sampling, ends: frozenset[int]) -> SamplingParams:
    """vLLM's part: how long, and what ends. Tokens are drawn by halu, so that a seed means the same
    under every backend.
    """
    return SamplingParams(
        temperature=0,
        max_tokens=sampling.max_new_tokens,
        logprobs=sampling.logprobs,
        stop_token_ids=sorted(ends),
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
    )
