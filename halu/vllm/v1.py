"""halu in vLLM's first model runner, which CPUs without Triton have."""

from typing import Any

from torch import Tensor
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, SamplerOutput
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.gpu_input_batch import InputBatch

from halu.vllm.attention import check_layout
from halu.vllm.guest import Guest
from halu.vllm.internals import SAMPLED, V1, V1_BATCH, V1_FIELDS, check, lacking


class Runner(CPUModelRunner):  # type: ignore[misc]  # vLLM has no types here
    """vLLM's runner, with a plan for each request that asks for one."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Loads the model and joins halu to it."""
        check(
            lacking(CPUModelRunner, V1),
            lacking(self, fields=V1_FIELDS),
            lacking(InputBatch, fields=V1_BATCH),
            lacking(SamplerOutput, fields=SAMPLED),
        )
        super().load_model(*args, **kwargs)
        self.halu = Guest(self.vllm_config, self.model)

    def initialize_kv_cache(self, *args: Any, **kwargs: Any) -> None:
        """Makes the cache, and checks that keys are found in it."""
        super().initialize_kv_cache(*args, **kwargs)
        check_layout(self.halu.layers.attentions[0])

    def _update_states(self, scheduler_output: Any) -> Any:
        self.halu.forget(scheduler_output.finished_req_ids)
        found = super()._update_states(scheduler_output)
        self.halu.welcome(scheduler_output.scheduled_new_reqs)
        return found

    def _model_forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.halu.parts:
            return super()._model_forward(*args, **kwargs)
        names = self.input_batch.req_ids
        ends = self.query_start_loc.np[: len(names) + 1].tolist()
        before = self.input_batch.num_computed_tokens_cpu[: len(names)].tolist()
        self.halu.begin(zip(names, ends, ends[1:], before, strict=False))
        try:
            return super()._model_forward(*args, **kwargs)
        finally:
            self.halu.end()

    def _sample(self, logits: Tensor | None, spec_decode_metadata: Any) -> Any:
        if not self.halu.parts or logits is None:
            return super()._sample(logits, spec_decode_metadata)
        quiet = self.discard_request_mask.np
        newest = [(n, name) for n, name in enumerate(self.input_batch.req_ids) if not quiet[n]]
        outcome = self.halu.choose(logits, newest)
        for number in outcome.mute:
            quiet[number] = True
        found = super()._sample(logits, spec_decode_metadata)
        outcome.settle(found.sampled_token_ids)
        return found

    def sample_tokens(self, grammar_output: Any) -> Any:
        """vLLM's output, with what became of halu's requests."""
        found = super().sample_tokens(grammar_output)
        if found is not EMPTY_MODEL_RUNNER_OUTPUT and found is not None:
            self.halu.tell(found)
        return found
