"""vLLM's worker with halu's model runner: `--worker-cls halu.vllm.worker.Worker`."""

from typing import Any

from vllm.platforms import current_platform
from vllm.v1.worker.cpu_worker import CPUWorker
from vllm.v1.worker.gpu_worker import Worker as GPUWorker

from halu.vllm.plugin import check_config

Stock: Any = CPUWorker if current_platform.is_cpu() else GPUWorker


class Worker(Stock):  # type: ignore[misc]  # vLLM has no types here
    """The platform's worker."""

    def init_device(self) -> None:
        """Sets up the device; on a CPU halu's runner then takes the place of the stock one.

        Raises:
            Unsupported: if vLLM is set up in a way in which strategies are not exact.
        """
        check_config(self.vllm_config)
        super().init_device()
        if current_platform.is_cpu():
            self.model_runner = self._make_model_runner()

    def _make_model_runner(self) -> Any:
        if self.use_v2_model_runner:
            from halu.vllm.v2 import Runner as Second

            return Second(self.vllm_config, self.device)
        from halu.vllm.v1 import Runner as First

        return First(self.vllm_config, self.device)
