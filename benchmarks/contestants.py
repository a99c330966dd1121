"""Who answers in the decoding benchmark: halu, stock generate, a two-forward loop, and a peer."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from PIL import Image

from halu.decode import Decoder
from halu.engine import Local
from halu.strategy import strategies
from halu.types import question
from halu.vlm import asking

GIVEN: dict[str, dict[str, Any]] = {
    "adhh": {"heads": [[0, 1], [2, 0], [3, 2]]},
    "ara": {"caption_tokens": 8},
    "carve": {"max_steps": 8},
    "code": {"describe_tokens": 8},
    "var": {"dimensions": [1, 2], "tau": 2.0},
    "vdgd": {"describe_tokens": 8},
}
"""Facts of real models that random ones must be given, and how long a text is that comes first."""
MITIGV = ("vcd", "pai", "agla", "opera")
QUESTION = "Please describe this image in detail."
Ask = Callable[[int], None]
"""Answers a batch with so many tokens."""


def halus(decoder: Decoder, picture: Image.Image, batch: int, name: str) -> Ask:
    """A strategy through halu's loop, as the service keeps it running."""

    def ask(tokens: int) -> None:
        own = {"strategy": name, "params": GIVEN.get(name, {}), "max_new_tokens": tokens}
        try:
            decoder.add([asking(picture, QUESTION, **own) for _ in range(batch)])
            while decoder.jobs:
                for _, event in decoder.step():
                    if isinstance(event, Exception):
                        raise event
        finally:
            if decoder.jobs:
                decoder.close()

    return ask


def inputs_of(vlm: Local, picture: Image.Image, batch: int) -> Any:
    """A batch as the model's own processor makes it."""
    content = [{"type": "image", "image": picture}, {"type": "text", "text": QUESTION}]
    return vlm.adapter.processor.apply_chat_template(
        [[{"role": "user", "content": content}]] * batch,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    ).to(vlm.adapter.model.device, vlm.adapter.model.dtype)


def as_stock(vlm: Local, ask: Ask) -> Ask:
    """The same with transformers' own attention."""

    def asked(tokens: int) -> None:
        vlm.adapter.model.set_attn_implementation("sdpa")
        try:
            ask(tokens)
        finally:
            vlm.adapter.model.set_attn_implementation(
                {"text_config": "halu", "vision_config": "sdpa"}
            )

    return asked


def stock(vlm: Local, picture: Image.Image, batch: int) -> Ask:
    """transformers' own greedy generate."""
    inputs = inputs_of(vlm, picture, batch)

    def ask(tokens: int) -> None:
        vlm.adapter.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)

    return as_stock(vlm, ask)


def two_forwards(vlm: Local, picture: Image.Image, batch: int) -> Ask:
    """What released code does for a contrasted picture: two calls and two caches for each token."""
    model, inputs = vlm.adapter.model, inputs_of(vlm, picture, batch)
    prompt, axes = vlm.adapter.encode(question(QUESTION, picture)), vlm.adapter.position_axes
    pixels = inputs["pixel_values"]
    other = {**inputs, "pixel_values": pixels + torch.randn_like(pixels)}

    @torch.inference_mode()
    def ask(tokens: int) -> None:
        out = [model(**own, use_cache=True) for own in (inputs, other)]
        mask = inputs["attention_mask"]
        for place in range(prompt.next_position, prompt.next_position + tokens - 1):
            z, ruined = (one.logits[:, -1].float() for one in out)
            z = z.masked_fill(z.softmax(-1) < 0.1 * z.softmax(-1).amax(-1, True), -torch.inf)
            token = (2 * z - ruined).argmax(-1, keepdim=True)
            mask = torch.cat([mask, torch.ones_like(token)], 1)
            places = torch.full_like(token, place)
            places = places if axes == 1 else places.expand(axes, -1, -1)
            out = [
                model(
                    input_ids=token,
                    attention_mask=mask,
                    position_ids=places,
                    past_key_values=one.past_key_values,
                    use_cache=True,
                )
                for one in out
            ]
            token.tolist()

    return as_stock(vlm, ask)


def peers(vlm: Local, picture: Image.Image) -> Iterator[tuple[str, Ask]]:
    """mitigv's methods on the same model object, one request at a time."""
    try:
        from mitigv import load_mitigator
    except ImportError:
        return
    for name in MITIGV:

        def ask(tokens: int, name: str = name) -> None:
            objects = {"model": vlm.adapter.model, "processor": vlm.adapter.processor}
            load_mitigator(name, **objects, max_new_tokens=tokens)(picture, QUESTION)

        yield f"mitigv {name}", as_stock(vlm, ask)


def contestants(vlm: Local, picture: Image.Image, batch: int, capture: Any) -> dict[str, Ask]:
    """Everyone who can answer a batch of this size."""
    runner = vlm.adapter.runner
    runner.replays = None
    usual = Decoder(vlm.adapter)
    runner.record(capture)
    recorded = Decoder(vlm.adapter)
    found: dict[str, Ask] = {
        "stock generate": stock(vlm, picture, batch),
        "two forwards": two_forwards(vlm, picture, batch),
        "greedy, not recorded": halus(usual, picture, batch, "greedy"),
    }
    for name in strategies.names():
        found[name] = halus(recorded, picture, batch, name)
    return found | (dict(peers(vlm, picture)) if batch == 1 else {})
