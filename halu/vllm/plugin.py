"""The entry point of `vllm.general_plugins`, called by vLLM in each of its processes, and the list
of what halu relies on inside vLLM.

Whatever is missing is told by name at the start: a renamed hook must never mean a plugin that
silently does nothing.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from halu.errors import Unavailable, Unsupported
from halu.vllm import TESTED

V1: Mapping[str, tuple[str, ...]] = {
    "_update_states": ("scheduler_output",),
    "_model_forward": ("input_ids", "positions", "intermediate_tensors", "inputs_embeds"),
    "_sample": ("logits", "spec_decode_metadata"),
    "sample_tokens": ("grammar_output",),
    "initialize_kv_cache": ("kv_cache_config",),
}
"""Methods of vLLM's first model runner that are extended, and what they are called with."""
V2: Mapping[str, tuple[str, ...]] = {
    "finish_requests": ("scheduler_output",),
    "add_requests": ("scheduler_output",),
    "prepare_inputs": ("scheduler_output", "batch_req_state"),
    "execute_model": ("scheduler_output",),
    "sample": ("hidden_states", "input_batch"),
    "sample_tokens": ("grammar_output",),
    "initialize_kv_cache": ("kv_cache_config",),
}
"""The same of its second."""
SCHEDULER: Mapping[str, tuple[str, ...]] = {
    "schedule": (),
    "add_request": ("request",),
    "update_from_output": ("scheduler_output", "model_runner_output"),
    "finish_requests": ("request_ids", "finished_status"),
    "_handle_blocked_waiting_request": ("request",),
    "_preempt_request": ("request", "timestamp"),
}
"""The same of its scheduler."""
OUTPUT = ("request_id", "new_token_ids", "finish_reason", "stop_reason", "kv_transfer_params")
"""Fields of what it says that are read or set."""
PROCESSOR = {"_get_mm_fields_config": ("hf_inputs", "hf_processor_mm_kwargs")}
"""What its processor of pictures is asked."""


BACKENDS = {
    "CPU_ATTN": "halu.vllm.attention.CPU",
    "TRITON_ATTN": "halu.vllm.attention_gpu.Triton",
    "FLASH_ATTN": "halu.vllm.attention_gpu.Flash",
}
"""Attention backends by vLLM's name, and what takes their place."""


def register() -> None:
    """Makes halu's attention known to vLLM. Cheap, and may be called often."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    for name, path in BACKENDS.items():
        register_backend(AttentionBackendEnum[name], path)


def check_runner(runner: Any, wanted: Mapping[str, tuple[str, ...]]) -> None:
    """Raises if the runner is not as it was when halu was tested.

    Raises:
        Unavailable: naming what is missing and the tested versions.
    """
    check_methods(type(runner).__mro__[1], wanted)


def check_config(config: Any) -> None:
    """Refuses settings of vLLM under which strategies are not known to be exact.

    Args:
        config: vLLM's whole configuration.

    Raises:
        Unsupported: naming the option to change.
    """
    parallel, compiled = config.parallel_config, config.compilation_config
    scheduling = config.scheduler_config
    wrong = {
        "no --pipeline-parallel-size": parallel.pipeline_parallel_size > 1,
        "no --data-parallel-size": parallel.data_parallel_size > 1,
        "no context parallelism": max(
            parallel.decode_context_parallel_size, parallel.prefill_context_parallel_size
        )
        > 1,
        "no --enable-batch-sharded-sampling": bool(parallel.enable_batch_sharded_sampling),
        "no --long-prefill-token-threshold": scheduling.long_prefill_token_threshold > 0,
        "no --kv-transfer-config": config.kv_transfer_config is not None,
        "no --speculative-config": config.speculative_config is not None,
        "--enforce-eager": compiled.mode.name != "NONE",
        "--kv-cache-dtype auto": config.cache_config.cache_dtype != "auto",
        "--no-async-scheduling": bool(scheduling.async_scheduling),
    }
    wanted = [option for option, is_wrong in wrong.items() if is_wrong]
    if wanted:
        raise Unsupported(f"halu needs vLLM with {'; '.join(wanted)}.", param="backend")


def check_methods(cls: type, wanted: Mapping[str, tuple[str, ...]]) -> None:
    """Raises if a class has not these methods, or if they are called in another way.

    Raises:
        Unavailable: naming what is missing and the tested versions.
    """
    for name, parameters in wanted.items():
        method = getattr(cls, name, None)
        known = inspect.signature(method).parameters if method is not None else {}
        missing = [each for each in parameters if each not in known]
        if method is None or missing:
            what = f"no {', '.join(missing)}" if method is not None else "not there"
            raise _moved(f"{cls.__name__}.{name}: {what}")


def check_fields(cls: type, names: Sequence[str]) -> None:
    """Raises if a class has not these fields.

    Raises:
        Unavailable: naming what is missing and the tested versions.
    """
    for name in names:
        if not hasattr(cls, name):
            raise _moved(f"{cls.__name__} has no {name}")


def _moved(what: str) -> Unavailable:
    import vllm

    return Unavailable(
        f"vLLM {vllm.__version__} is built in another way than halu knows ({what}).",
        hint=f"Tested with vLLM {', '.join(TESTED)}.",
        param="backend",
    )
