"""Who answers in the decoding benchmark: halu, stock generate, a two-forward loop, and a peer."""

from collections.abc import Callable, Iterator, Sequence
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
Pictures = Sequence[Image.Image]
Ask = Callable[[Pictures, int], None]
"""Answers one request for each picture, from the picture on, with so many tokens."""


def halus(decoder: Decoder, name: str) -> Ask:
    """A strategy through halu's loop, as the service keeps it running."""

    def ask(pictures: Pictures, tokens: int) -> None:
        own = {"strategy": name, "params": GIVEN.get(name, {}), "max_new_tokens": tokens}
        try:
            decoder.add([asking(picture, QUESTION, **own) for picture in pictures])
            while decoder.jobs:
                for _, event in decoder.step():
                    if isinstance(event, Exception):
                        raise event
        finally:
            if decoder.jobs:
                decoder.close()

    return ask


def again(ask: Ask, pictures: Pictures) -> Ask:
    """The same pictures each time, whatever is shown: their features may be remembered."""
    return lambda _, tokens: ask(pictures, tokens)


def inputs_of(vlm: Local, pictures: Pictures) -> Any:
    """A batch as the model's own processor makes it."""
    text = {"type": "text", "text": QUESTION}
    contents = [[{"type": "image", "image": picture}, text] for picture in pictures]
    return vlm.adapter.processor.apply_chat_template(
        [[{"role": "user", "content": content}] for content in contents],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
    ).to(vlm.adapter.model.device, vlm.adapter.model.dtype)


def as_stock(vlm: Local, ask: Ask) -> Ask:
    """The same with transformers' own attention."""

    def asked(pictures: Pictures, tokens: int) -> None:
        vlm.adapter.model.set_attn_implementation("sdpa")
        try:
            ask(pictures, tokens)
        finally:
            vlm.adapter.model.set_attn_implementation(
                {"text_config": "halu", "vision_config": "sdpa"}
            )

    return asked


def stock(vlm: Local) -> Ask:
    """transformers' own greedy generate."""

    def ask(pictures: Pictures, tokens: int) -> None:
        inputs = inputs_of(vlm, pictures)
        vlm.adapter.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)

    return as_stock(vlm, ask)


def two_forwards(vlm: Local, like: Image.Image) -> Ask:
    """What released code does for a contrasted picture: two calls and two caches for each token.
    All pictures are of one size.
    """
    model, axes = vlm.adapter.model, vlm.adapter.position_axes
    prompt = vlm.adapter.encode(question(QUESTION, like))

    @torch.inference_mode()
    def ask(pictures: Pictures, tokens: int) -> None:
        inputs = inputs_of(vlm, pictures)
        pixels = inputs["pixel_values"]
        other = {**inputs, "pixel_values": pixels + torch.randn_like(pixels)}
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


def peers(vlm: Local) -> Iterator[tuple[str, Ask]]:
    """mitigv's methods on the same model object, one request at a time."""
    try:
        from mitigv import load_mitigator
    except ImportError:
        return
    for name in MITIGV:

        def ask(pictures: Pictures, tokens: int, name: str = name) -> None:
            objects = {"model": vlm.adapter.model, "processor": vlm.adapter.processor}
            load_mitigator(name, **objects, max_new_tokens=tokens)(pictures[0], QUESTION)

        yield f"mitigv {name}", as_stock(vlm, ask)


def contestants(vlm: Local, pictures: Pictures, capture: Any) -> dict[str, Ask]:
    """Everyone who can answer as many requests as there are pictures, which one of them is shown
    again and again.
    """
    runner = vlm.adapter.runner
    runner.replays = None
    usual = Decoder(vlm.adapter)
    runner.record(capture)
    recorded = Decoder(vlm.adapter)
    found: dict[str, Ask] = {
        "stock generate": stock(vlm),
        "two forwards": two_forwards(vlm, pictures[0]),
        "greedy, not recorded": halus(usual, "greedy"),
        "greedy, pictures remembered": again(halus(recorded, "greedy"), pictures),
    }
    for name in strategies.names():
        found[name] = halus(recorded, name)
    return found | (dict(peers(vlm)) if len(pictures) == 1 else {})
