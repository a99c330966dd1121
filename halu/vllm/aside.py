"""A prompt read once beside decoding, by vLLM's model, with nothing kept of it in the cache."""

from collections.abc import Sequence
from typing import Any

import torch
from vllm.forward_context import set_forward_context

from halu.aside import Aside
from halu.errors import Unsupported
from halu.prompt import Prompt
from halu.vllm.layers import Layers
from halu.vllm.table import Rows, Table


class Reader:
    """Runs asides, one after another, between two steps of the engine.

    Args:
        config: vLLM's configuration.
        layers: the model.
        table: whose rows each forward has.
    """

    def __init__(self, config: Any, layers: Layers, table: Table) -> None:
        self.config = config
        self.layers = layers
        self.table = table

    def __call__(self, asides: Sequence[Aside]) -> None:
        """Reads the prompts.

        Raises:
            Unsupported: if a text is to be said.
        """
        for aside in asides:
            if not aside.passing:
                raise Unsupported("vLLM has no text said while policies are made.")
            self._read(aside)

    @torch.inference_mode()
    def _read(self, aside: Aside) -> None:
        steering, count = aside.rows[0][0].steering, len(aside.prompt.ids)
        rows = self.table.rows
        self.table.show((Rows(steering, 0, 0, count, 0),))
        self.table.aside = True
        self.layers.listen(True)
        try:
            embeds = self._embedded(aside.prompt)
            with set_forward_context(None, self.config, num_tokens=count, slot_mapping={}):
                hidden = self.layers.model(
                    input_ids=None,
                    positions=aside.prompt.positions.to(embeds.device),
                    inputs_embeds=embeds,
                )
            scores = self.layers.scores(hidden[-1:])
        finally:
            self.table.show(rows)
            self.table.aside = False
        steering.heard(scores[0])
        aside.advance(scores)

    def _embedded(self, prompt: Prompt) -> torch.Tensor:
        model = self.layers.model
        device = next(model.parameters()).device
        ids = torch.tensor(prompt.ids, device=device)
        if not prompt.layout.images:
            found: torch.Tensor = model.embed_input_ids(ids)
            return found
        pixels = {key: value.to(device) for key, value in prompt.pixels.items()}
        seen = model.embed_multimodal(**pixels)
        mask = torch.from_numpy(prompt.layout.is_image()).to(device)
        placed: torch.Tensor = model.embed_input_ids(ids, seen, is_multimodal=mask)
        return placed
