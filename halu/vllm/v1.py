"""halu in vLLM's first model runner, which CPUs have: `--worker-cls halu.vllm.v1.Worker`.

The runner tells attention and layers whose rows a forward has, and puts the rule's row in place of
the model's before vLLM samples.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.multimodal.inputs import MultiModalKwargsItems
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker

from halu.adapters import bare_adapter
from halu.errors import HaluError
from halu.prompt import Prompt
from halu.vllm.aside import Reader
from halu.vllm.asked import read
from halu.vllm.attention import check_layout
from halu.vllm.choosing import Newest, Outcome, choose
from halu.vllm.layers import Layers
from halu.vllm.part import Part, part
from halu.vllm.plugin import check_config, check_runner
from halu.vllm.table import Rows, Table


class Runner(CPUModelRunner):  # type: ignore[misc]  # vLLM has no types here
    """vLLM's runner, with a plan for each request that asks for one."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Loads the model and joins halu to it."""
        super().load_model(*args, **kwargs)
        check_runner(self)
        self.halu_parts: dict[str, Part] = {}
        self.halu_table = Table()
        self.halu_outcome = Outcome()
        self.halu_adapter = bare_adapter(self.model_config.model)
        facts = self.halu_adapter.facts
        self.halu_layers = Layers(self.model, self.halu_table, facts.layers)
        self.halu_reader = Reader(self.vllm_config, self.halu_layers, self.halu_table)

    def initialize_kv_cache(self, *args: Any, **kwargs: Any) -> None:
        """Makes the cache, and checks that keys are found in it."""
        super().initialize_kv_cache(*args, **kwargs)
        check_layout(self.halu_layers.attentions[0])

    def _update_states(self, scheduler_output: Any) -> Any:
        for name in scheduler_output.finished_req_ids:
            self.halu_parts.pop(name, None)
        found = super()._update_states(scheduler_output)
        for new in scheduler_output.scheduled_new_reqs:
            one = self._planned(new)
            if one is not None:
                self.halu_parts[new.req_id] = one
        return found

    def _planned(self, new: Any) -> Part | None:
        """The plan of a request that asks for one."""
        params = new.sampling_params
        try:
            asked = read(params.extra_args if params is not None else None)
        except HaluError:
            return None  # the scheduler ends it
        if asked is None:
            return None
        prompt = self._prompt(new)
        return part(self.halu_adapter, asked, prompt, self.halu_reader)

    def _prompt(self, new: Any) -> Prompt:
        """The prompt as the adapter knows it, without pixels if vLLM kept them back (it has the
        pictures' keys already) or leaves it to the model to normalise them.
        """
        adapter, items = self.halu_adapter, [feature.data for feature in new.mm_features]
        known = bool(items) and all(item and {*adapter.pixel_keys} <= {*item} for item in items)
        pixels = MultiModalKwargsItems({"image": items}).get_data() if known else {}
        known = known and pixels["pixel_values"].is_floating_point()
        own = {key: pixels[key] for key in adapter.pixel_keys} if known else {}
        return adapter.prompts({"input_ids": torch.tensor([new.prompt_token_ids]), **own})[0]

    def _model_forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self.halu_parts:
            return super()._model_forward(*args, **kwargs)
        self.halu_table.rows = self._rows()
        try:
            return super()._model_forward(*args, **kwargs)
        finally:
            self.halu_table.rows = ()

    def _rows(self) -> list[Rows]:
        batch, ends = self.input_batch, self.query_start_loc.np
        found = []
        for number, name in enumerate(batch.req_ids):
            one = self.halu_parts.get(name)
            start, stop = int(ends[number]), int(ends[number + 1])
            before = int(batch.num_computed_tokens_cpu[number])
            if one is not None and one.scheduled(before, stop - start):
                assert one.steering is not None
                found.append(Rows(one.steering, number, start, stop, before))
        return found

    def _sample(self, logits: Tensor | None, spec_decode_metadata: Any) -> Any:
        if not self.halu_parts or logits is None:
            return super()._sample(logits, spec_decode_metadata)
        quiet = self.discard_request_mask.np
        newest = [
            Newest(name, number, one, self.requests[name].output_token_ids)
            for number, name in enumerate(self.input_batch.req_ids)
            if not quiet[number] and (one := self.halu_parts.get(name)) is not None
        ]
        outcome = choose(logits, newest, self.halu_layers.early)
        quiet[np.asarray(outcome.mute, dtype=int)] = True
        found = super()._sample(logits, spec_decode_metadata)
        for number, token in outcome.tokens.items():
            found.sampled_token_ids[number, 0] = token
        self.halu_outcome = outcome
        return found

    def sample_tokens(self, grammar_output: Any) -> Any:
        """vLLM's output, with what became of halu's requests."""
        self.halu_outcome = Outcome()
        found = super().sample_tokens(grammar_output)
        if found is not EMPTY_MODEL_RUNNER_OUTPUT and found is not None:
            found.halu_dropped = self.halu_outcome.dropped
            found.halu_failed = self.halu_outcome.failed
        return found


class Worker(CPUWorker):  # type: ignore[misc]  # vLLM has no types here
    """vLLM's CPU worker with halu's runner."""

    def init_device(self) -> None:
        """Sets up the device, then puts halu's runner in the place of the stock one."""
        check_config(self.vllm_config)
        super().init_device()
        self.model_runner = Runner(self.vllm_config, torch.device("cpu"))
