"""What halu relies on inside vLLM, by name.

It is looked up where an engine starts: what is not there any more is told at once, with the tested
versions. A renamed hook must never mean a plugin that silently does nothing, nor an error in a
step, which would end the engine.
"""

import dis
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from halu.errors import Unavailable
from halu.vllm import TESTED

Methods = Mapping[str, tuple[str, ...]]
"""Methods that are extended or called, each with parameters that it must have."""

WORKER: Methods = {"init_device": (), "_make_model_runner": ()}
WORKER_FIELDS = ("vllm_config", "use_v2_model_runner")
V1: Methods = {
    "_update_states": ("scheduler_output",),
    "_model_forward": ("input_ids", "positions", "intermediate_tensors", "inputs_embeds"),
    "_sample": ("logits", "spec_decode_metadata"),
    "sample_tokens": ("grammar_output",),
    "initialize_kv_cache": ("kv_cache_config",),
}
V1_FIELDS = ("input_batch", "query_start_loc", "discard_request_mask")
V1_BATCH = ("req_ids", "num_computed_tokens_cpu")
V2: Methods = {
    "finish_requests": ("scheduler_output",),
    "add_requests": ("scheduler_output",),
    "prepare_inputs": ("scheduler_output", "batch_req_state"),
    "execute_model": ("scheduler_output",),
    "sample": ("hidden_states", "input_batch"),
    "sample_tokens": ("grammar_output",),
    "initialize_kv_cache": ("kv_cache_config",),
}
V2_FIELDS = ("model", "sampler")
V2_BATCH = (
    "req_ids",
    "query_start_loc_np",
    "num_computed_tokens_np",
    "num_scheduled_tokens",
    "prefill_len_np",
)
SAMPLED = ("sampled_token_ids",)
V2_SAMPLED = (*SAMPLED, "num_sampled", "num_rejected")
SCHEDULER: Methods = {
    "schedule": (),
    "add_request": ("request",),
    "has_requests": (),
    "update_from_output": ("scheduler_output", "model_runner_output"),
    "finish_requests": ("request_ids", "finished_status"),
    "_handle_blocked_waiting_request": ("request",),
    "_preempt_request": ("request", "timestamp"),
}
SCHEDULER_FIELDS = (
    "requests",
    "running",
    "block_size",
    "cache_config",
    "kv_cache_config",
    "max_model_len",
    "max_num_running_reqs",
    "max_num_scheduled_tokens",
    "vllm_config",
)
REQUEST = (
    "request_id",
    "sampling_params",
    "status",
    "num_computed_tokens",
    "num_prompt_tokens",
    "num_tokens",
    "num_tokens_with_spec",
    "max_tokens",
    "cache_salt",
    "client_index",
)
STEP = ("num_scheduled_tokens", "scheduled_new_reqs", "finished_req_ids")
NEW = ("req_id", "sampling_params", "prompt_token_ids", "mm_features")
STATUS = ("RUNNING", "FINISHED_ERROR")
OUTPUTS = ("outputs",)
OUTPUT = (
    "request_id",
    "new_token_ids",
    "new_logprobs",
    "finish_reason",
    "stop_reason",
    "kv_transfer_params",
)
ATTENTION: Methods = {
    "forward": ("layer", "query", "key", "value", "kv_cache", "attn_metadata", "output"),
    "do_kv_cache_update": ("layer", "key", "value", "kv_cache", "slot_mapping"),
}
ATTENTION_FIELDS = ("scale",)
METADATA = ("block_table",)
MODEL: Methods = {
    "get_language_model": (),
    "compute_logits": (),
    "embed_input_ids": ("is_multimodal",),
    "embed_multimodal": (),
}
PROCESSOR: Methods = {"_get_mm_fields_config": ("hf_inputs", "hf_processor_mm_kwargs")}
ENGINE: Methods = {
    "add_request": ("request_id", "prompt", "params"),
    "step": (),
    "abort_request": ("request_ids",),
}


def lacking(
    thing: Any, methods: Methods | None = None, fields: Sequence[str] = ()
) -> Sequence[str]:
    """What of it a class or an object of vLLM's has not.

    Args:
        thing: the class or object.
        methods: what is extended or called, and the parameters it must have.
        fields: what is read or set.
    """
    cls = thing if isinstance(thing, type) else type(thing)
    owner = next(each.__name__ for each in cls.__mro__ if not each.__module__.startswith("halu."))
    known = _fields(thing, cls)
    found = [f"{owner}.{name}" for name in fields if name not in known]
    for name, parameters in (methods or {}).items():
        method = getattr(thing, name, None)
        if method is None:
            found.append(f"{owner}.{name}()")
            continue
        takes = inspect.signature(method).parameters
        found += [f"{owner}.{name}({each}=)" for each in parameters if each not in takes]
    return found


def check(*lacks: Sequence[str]) -> None:
    """Raises if anything is lacking.

    Args:
        lacks: what `lacking` has found, of each class.

    Raises:
        Unavailable: naming all that is missing and the tested versions.
    """
    missing = [each for lack in lacks for each in lack]
    if missing:
        import vllm

        raise Unavailable(
            f"vLLM {vllm.__version__} is built in another way than halu knows;"
            f" it has no {', '.join(missing)}.",
            hint=f"Tested with vLLM {', '.join(TESTED)}.",
            param="backend",
        )


def _fields(thing: Any, cls: type) -> set[str]:
    """Names that an object of this class has: of the class, of a dataclass's fields, and those that
    its constructor sets.
    """
    start = inspect.unwrap(vars(cls).get("__init__", object.__init__))
    made = dis.get_instructions(start) if inspect.isfunction(start) else ()
    stored = {each.argval for each in made if each.opname == "STORE_ATTR"}
    return {*dir(thing), *getattr(cls, "__dataclass_fields__", ()), *stored}
