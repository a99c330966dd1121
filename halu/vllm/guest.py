"""halu as the guest of one of vLLM's model runners: what is the same under all of them.

A runner says which requests come and go, whose rows each forward has, and hands over the rows of
scores before vLLM draws. Nothing here raises over what a request brings along.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from vllm.multimodal.inputs import MultiModalKwargsItems

from halu.adapters import bare_adapter
from halu.errors import HaluError
from halu.prompt import Prompt
from halu.vllm.aside import Reader
from halu.vllm.asked import read
from halu.vllm.choosing import Newest, Outcome, choose
from halu.vllm.heads import ranks
from halu.vllm.layers import Layers
from halu.vllm.part import Part, part
from halu.vllm.table import Rows, Table


class Guest:
    """The plans of a runner's requests, and the table of its current forward.

    Args:
        config: vLLM's whole configuration.
        model: vLLM's model.

    Raises:
        Failed: if the model is built in an unknown way.
    """

    def __init__(self, config: Any, model: Any) -> None:
        self.adapter = bare_adapter(config.model_config.model)
        self.table = Table()
        self.layers = Layers(model, self.table, self.adapter.facts.layers)
        self.reader = Reader(config, self.layers, self.table)
        self.ranks = ranks(self.adapter.facts.heads)
        self.longest = config.scheduler_config.max_num_batched_tokens
        self.parts: dict[str, Part] = {}
        self.outcome: Outcome | None = None

    def forget(self, names: Iterable[str]) -> None:
        """Requests are over."""
        for name in names:
            self.parts.pop(name, None)
        if not self.parts:
            self.layers.listen(False)

    def welcome(self, news: Iterable[Any]) -> None:
        """Plans the requests that ask for it; one that comes back from waiting is known."""
        for new in news:
            if new.req_id not in self.parts:
                one = self._planned(new)
                if one is not None:
                    self.parts[new.req_id] = one

    def begin(self, rows: Iterable[tuple[str, int, int, int]]) -> None:
        """A forward is about to start.

        Args:
            rows: of each request in the batch its name, its rows [start, stop), how many tokens
                were read before.
        """
        found = []
        for number, (name, start, stop, before) in enumerate(rows):
            one = self.parts.get(name)
            if one is not None and one.scheduled(before, stop - start):
                assert one.steering is not None
                found.append(Rows(one.steering, number, start, stop, before))
        self.table.show(found)
        self.layers.listen(any(rows.curious for rows in found))

    def end(self) -> None:
        """The forward is over."""
        self.table.show(())

    def choose(self, logits: Tensor, newest: Iterable[tuple[int, str]]) -> Outcome:
        """Chooses tokens from the rows of scores [N, V] that count. Where vLLM is to draw,
        what the rule makes of them takes their place.

        Args:
            logits: a row for each request of the batch.
            newest: number and name of each request whose newest row has been read.
        """
        known = [
            Newest(name, number, self.parts[name]) for number, name in newest if name in self.parts
        ]
        self.outcome = choose(logits, known, self.layers.early)
        return self.outcome

    def tell(self, output: Any) -> None:
        """Gives the scheduler, with the runner's output, what became of halu's requests, if there
        were any.
        """
        if self.outcome is None:
            return
        output.halu_dropped = self.outcome.dropped
        output.halu_failed = self.outcome.failed
        output.halu_forwards = self.outcome.forwards
        output.halu_likely = self.outcome.likely
        self.outcome = None

    def _planned(self, new: Any) -> Part | None:
        params = new.sampling_params
        try:
            asked = read(params.extra_args if params is not None else None)
        except HaluError:
            return None  # the scheduler ends it
        if asked is None:
            return None
        length = len(new.prompt_token_ids or ())
        one = Part(asked, length, params.logprobs)
        try:
            prompt = self._prompt(new)
        except Exception as error:
            one.fail(error)
            return one
        return part(self.adapter, one, prompt, self.reader, self.ranks, self.longest)

    def _prompt(self, new: Any) -> Prompt:
        """The prompt as the adapter knows it, without pixels if vLLM kept them back: it has the
        pictures' keys already.
        """
        adapter, items = self.adapter, [feature.data for feature in new.mm_features]
        known = bool(items) and all(item and {*adapter.pixel_keys} <= {*item} for item in items)
        pixels = MultiModalKwargsItems({"image": items}).get_data() if known else {}
        own = {key: pixels[key] for key in adapter.pixel_keys} if known else {}
        return adapter.prompts({"input_ids": torch.tensor([new.prompt_token_ids]), **own})[0]
