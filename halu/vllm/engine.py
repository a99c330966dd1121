"""A model in vLLM: what `halu.load(..., backend="vllm")` returns."""

from collections.abc import Sequence
from typing import Any

from vllm import EngineArgs, LLMEngine
from vllm.platforms import current_platform

from halu.adapters import folder_of
from halu.errors import BadInput, HaluError, Unavailable
from halu.types import Sampling
from halu.vllm.asked import KEY
from halu.vllm.internals import ENGINE, check, lacking
from halu.vllm.model import Heard, InEngine, params
from halu.vllm.submission import Sent, engine_input

OPTIONS: dict[str, Any] = {
    "worker_cls": "halu.vllm.worker.Worker",
    "scheduler_cls": "halu.vllm.scheduler.Coupled",
    "enforce_eager": True,
    "async_scheduling": False,
    "mm_processor_cache_gb": 0,
    "mm_device_do_normalize": False,
    "generation_config": "vllm",
    "disable_log_stats": True,
}
"""What halu sets; everything else is the caller's or vLLM's default. On GPUs vLLM would schedule a
step while another runs, before it is known which of its rows count.
"""


class Served(InEngine):
    """A model in a vLLM engine of its own, stepped by whoever wants answers.

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

    def __init__(
        self, name: str, *, device: str | None = None, dtype: str | None = None, **options: Any
    ) -> None:
        check(lacking(LLMEngine, ENGINE))
        own = current_platform.device_type
        if device is not None and device.partition(":")[0] != own:
            raise BadInput(
                f"This vLLM runs on {own}, not on {device}.", hint="Leave it out.", param="device"
            )
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
        super().__init__(name, self.engine.model_config, self.engine.renderer.get_mm_processor())

    def close(self) -> None:
        """Ends the engine."""
        self.engine.engine_core.shutdown()

    def submit(self, sent: Sequence[Sent], sampling: Sampling) -> None:
        """Gives branches to the engine."""
        with self._lock:
            for each in sent:
                own = params(sampling, self.adapter.ends)
                own.extra_args = {KEY: each.asked.text()}
                self._listen(each)
                prompt = engine_input(self.processor, self.adapter, each)
                self.engine.add_request(each.name, prompt, own)

    def step(self) -> None:
        """One step of the engine, if there is anything to do."""
        with self._lock:
            for found in self.engine.step():
                if found.request_id in self._heard:
                    self._heard[found.request_id].append(Heard.of(found))

    def drop(self, names: Sequence[str]) -> None:
        """Ends branches that nobody listens to any more."""
        with self._lock:
            self.engine.abort_request(list(names))
            for name in names:
                self._heard.pop(name, None)


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
