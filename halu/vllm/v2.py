"""halu in vLLM's second model runner, which GPUs have, and CPUs for which Triton works."""

from typing import Any

from torch import Tensor
from vllm.platforms import current_platform
from vllm.v1.worker.cpu.model_runner import CPUModelRunner
from vllm.v1.worker.gpu.input_batch import InputBatch
from vllm.v1.worker.gpu.model_runner import GPUModelRunner
from vllm.v1.worker.gpu.sample.output import SamplerOutput

from halu.vllm.attention import check_layout
from halu.vllm.guest import Guest
from halu.vllm.internals import V2, V2_BATCH, V2_FIELDS, V2_SAMPLED, check, lacking

Stock: Any = CPUModelRunner if current_platform.is_cpu() else GPUModelRunner


class Drawing:
    """vLLM's sampler, the rule before it and halu's tokens after it.

    Args:
        sampler: vLLM's own.
        guest: halu's side of the runner.
    """

    def __init__(self, sampler: Any, guest: Guest) -> None:
        self.sampler = sampler
        self.guest = guest

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sampler, name)

    def __call__(self, logits: Tensor, input_batch: Any) -> Any:
        """Tokens from rows of scores [N, V]. A row that does not count gives none, and what was
        read of its request is taken back.
        """
        if not self.guest.parts:
            return self.sampler(logits, input_batch)
        read = input_batch.num_computed_tokens_np + input_batch.num_scheduled_tokens
        whole = read >= input_batch.prefill_len_np
        names = enumerate(input_batch.req_ids)
        outcome = self.guest.choose(logits, [(n, name) for n, name in names if whole[n]])
        found = self.sampler(logits, input_batch)
        outcome.settle(found.sampled_token_ids)
        for number, again in outcome.mute.items():
            found.num_sampled[number] = 0
            found.num_rejected[number] = again
        return found


class Runner(Stock):  # type: ignore[misc]  # vLLM has no types here
    """vLLM's runner, with a plan for each request that asks for one."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Loads the model and joins halu to it."""
        check(
            lacking(Stock, V2),
            lacking(InputBatch, fields=V2_BATCH),
            lacking(SamplerOutput, fields=V2_SAMPLED),
        )
        super().load_model(*args, **kwargs)
        check(lacking(self, fields=V2_FIELDS))
        self.halu = Guest(self.vllm_config, self.model)
        self.sampler: Any = Drawing(self.sampler, self.halu)

    def initialize_kv_cache(self, *args: Any, **kwargs: Any) -> None:
        """Makes the cache, and checks that keys are found in it."""
        super().initialize_kv_cache(*args, **kwargs)
        check_layout(self.halu.layers.attentions[0])

    def finish_requests(self, scheduler_output: Any) -> None:
        """Requests are over; those that only wait again keep their plans."""
        super().finish_requests(scheduler_output)
        self.halu.forget(scheduler_output.finished_req_ids)

    def add_requests(self, scheduler_output: Any) -> None:
        """Requests come, or come back."""
        super().add_requests(scheduler_output)
        self.halu.welcome(scheduler_output.scheduled_new_reqs)

    def prepare_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """The batch of the next forward."""
        batch = super().prepare_inputs(*args, **kwargs)
        if self.halu.parts:
            ends = batch.query_start_loc_np.tolist()
            before = batch.num_computed_tokens_np.tolist()
            self.halu.begin(zip(batch.req_ids, ends, ends[1:], before, strict=False))
        return batch

    def execute_model(self, *args: Any, **kwargs: Any) -> Any:
        """One forward."""
        try:
            return super().execute_model(*args, **kwargs)
        finally:
            self.halu.end()

    def sample_tokens(self, grammar_output: Any) -> Any:
        """vLLM's output, with what became of halu's requests."""
        found = super().sample_tokens(grammar_output)
        if found is not None:
            self.halu.tell(getattr(found, "model_runner_output", found))
        return found
