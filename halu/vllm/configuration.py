"""Settings of vLLM under which strategies are not known to be exact."""

from collections.abc import Callable, Mapping
from typing import Any

from halu.errors import Unsupported


def _context_parallel(config: Any) -> bool:
    parallel = config.parallel_config
    sizes = (parallel.decode_context_parallel_size, parallel.prefill_context_parallel_size)
    return any(size > 1 for size in sizes)


def _recorded(config: Any) -> bool:
    """Whether a forward is compiled, or replayed from a CUDA graph, which runs no Python: without
    compilation vLLM still records whole decode steps unless `cudagraph_mode` says no.
    """
    compiled = config.compilation_config
    return {compiled.mode.name, compiled.cudagraph_mode.name} != {"NONE"}


def _first_runner_on_gpu(config: Any) -> bool:
    return not (config.device_config.device_type == "cpu" or config.use_v2_model_runner)


def _normalised_by_the_model(config: Any) -> bool:
    """Whether a picture's pixels come to the model as bytes: those of a branch are numbers that no
    byte can say, and vLLM would put both into one batch.
    """
    pictures = config.model_config.multimodal_config
    return pictures is not None and bool(pictures.mm_device_do_normalize)


REFUSED: Mapping[str, Callable[[Any], bool]] = {
    "no --pipeline-parallel-size": lambda c: c.parallel_config.pipeline_parallel_size > 1,
    "no --data-parallel-size": lambda c: c.parallel_config.data_parallel_size > 1,
    "no context parallelism": _context_parallel,
    "no --enable-batch-sharded-sampling": lambda c: bool(
        c.parallel_config.enable_batch_sharded_sampling
    ),
    "no --long-prefill-token-threshold": lambda c: (
        c.scheduler_config.long_prefill_token_threshold > 0
    ),
    "no --kv-transfer-config": lambda c: c.kv_transfer_config is not None,
    "no --speculative-config": lambda c: c.speculative_config is not None,
    "--enforce-eager": _recorded,
    "--kv-cache-dtype auto": lambda c: c.cache_config.cache_dtype != "auto",
    "--no-async-scheduling": lambda c: bool(c.scheduler_config.async_scheduling),
    "--no-mm-device-do-normalize": _normalised_by_the_model,
    "VLLM_USE_V2_MODEL_RUNNER=1": _first_runner_on_gpu,
}
"""What vLLM must be started with, and whether a configuration is otherwise."""


def check_config(config: Any) -> None:
    """Refuses settings of vLLM under which strategies are not known to be exact.

    Args:
        config: vLLM's whole configuration.

    Raises:
        Unsupported: naming the options to change.
    """
    wanted = [option for option, is_wrong in REFUSED.items() if is_wrong(config)]
    if wanted:
        raise Unsupported(f"halu needs vLLM with {'; '.join(wanted)}.", param="backend")
