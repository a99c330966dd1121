"""vLLM's worker with halu's model runner: `--worker-cls halu.vllm.worker.Worker`."""

from typing import Any

from vllm.platforms import current_platform
from vllm.v1.worker.cpu_worker import CPUWorker
from vllm.v1.worker.gpu_worker import Worker as GPUWorker

from halu.vllm.configuration import check_config
from halu.vllm.internals import WORKER, WORKER_FIELDS, check, lacking

Stock: Any = CPUWorker if current_platform.is_cpu() else GPUWorker


class Worker(Stock):  # type: ignore[misc]  # vLLM has no types here
    """The platform's worker."""

    def init_device(self) -> None:
        """Sets up the device; on a CPU halu's runner then takes the place of the stock one.

        Raises:
            Unsupported: if vLLM is set up in a way in which strategies are not exact.
            Unavailable: if this vLLM is not one that halu knows.
        """
        check(lacking(GPUWorker, WORKER), lacking(self, fields=WORKER_FIELDS))
        check_config(self.vllm_config)
        super().init_device()
        if current_platform.is_cpu():
            self.model_runner = self._make_model_runner()
        if type(self.model_runner) is not self._runner():
            check([f"use of {GPUWorker.__name__}._make_model_runner()"])

    def _make_model_runner(self) -> Any:
        return self._runner()(self.vllm_config, self.device)

    def _runner(self) -> type:
        if self.use_v2_model_runner:
            from halu.vllm.v2 import Runner as Second

            return Second
        from halu.vllm.v1 import Runner as First

        return First
