"""Who answers in the decoding benchmark: halu, stock generate, a two-forward loop, and a peer.

Each says, while it answers, for how many tokens the model has been asked so far, so that the time
of a token can be read off one answer.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image

from halu.adapters.replay import Capture
from halu.decode import Decoder
from halu.engine import Local
from halu.job import Job
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
BASELINES = ("stock generate", "greedy")
MITIGV = ("vcd", "pai", "agla", "opera")
QUESTION = "Please describe this image in detail."
Pictures = Sequence[Image.Image]
Tick = Callable[[int], None]
"""Hears for how many tokens of each answer there are scores; the first time, once the first token
of each answer is known.
"""
Ask = Callable[[Pictures, int, Tick], None]
"""Answers one request for each picture, from the picture on, with so many tokens."""


def halus(decoder: Decoder, name: str) -> Ask:
    """A strategy through halu's loop, as the service keeps it running."""

    def ask(pictures: Pictures, tokens: int, tick: Tick) -> None:
        own = {"strategy": name, "params": GIVEN.get(name, {}), "max_new_tokens": tokens}
        try:
            jobs = decoder.add([asking(picture, QUESTION, **own) for picture in pictures])
            while decoder.jobs:
                for _, event in decoder.step():
                    if isinstance(event, Exception):
                        raise event
                if all(job.answer or any(job.seen) for job in jobs):
                    tick(min(map(scored, jobs)))
        finally:
            if decoder.jobs:
                decoder.close()

    return ask


def scored(job: Job) -> int:
    """For how many tokens a job has had scores: a step chooses one and goes on to the next."""
    if job.answer is not None:
        return job.answer.usage.completion_tokens
    return max(map(len, job.seen)) + 1


def again(ask: Ask, pictures: Pictures) -> Ask:
    """The same pictures each time, whatever is shown: their features may be remembered."""
    return lambda _, tokens, tick: ask(pictures, tokens, tick)


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

    def asked(pictures: Pictures, tokens: int, tick: Tick) -> None:
        vlm.adapter.model.set_attn_implementation("sdpa")
        try:
            ask(pictures, tokens, tick)
        finally:
            vlm.adapter.model.set_attn_implementation(
                {"text_config": "halu", "vision_config": "sdpa"}
            )

    return asked


class Streamer:
    """Hears of stock generate's tokens; of the prompt first."""

    def __init__(self, tick: Tick) -> None:
        self._tick = tick
        self._heard = 0

    def put(self, value: torch.Tensor) -> None:
        if self._heard:
            self._tick(self._heard)
        self._heard += 1

    def end(self) -> None:
        pass


def stock(vlm: Local) -> Ask:
    """transformers' own greedy generate."""

    def ask(pictures: Pictures, tokens: int, tick: Tick) -> None:
        own = {"max_new_tokens": tokens, "do_sample": False, "streamer": Streamer(tick)}
        vlm.adapter.model.generate(**inputs_of(vlm, pictures), **own)

    return as_stock(vlm, ask)


def two_forwards(vlm: Local, like: Image.Image) -> Ask:
    """What released code does for a contrasted picture: two calls and two caches for each token.
    All pictures are of one size.
    """
    model, axes = vlm.adapter.model, vlm.adapter.position_axes
    start = vlm.adapter.encode(question(QUESTION, like)).next_position

    @torch.inference_mode()
    def ask(pictures: Pictures, tokens: int, tick: Tick) -> None:
        inputs = inputs_of(vlm, pictures)
        pixels = inputs["pixel_values"]
        other = {**inputs, "pixel_values": pixels + torch.randn_like(pixels)}
        out = [model(**own, use_cache=True) for own in (inputs, other)]
        mask = inputs["attention_mask"]
        for said in range(1, tokens + 1):
            z, ruined = (one.logits[:, -1].float() for one in out)
            z = z.masked_fill(z.softmax(-1) < 0.1 * z.softmax(-1).amax(-1, True), -torch.inf)
            token = (2 * z - ruined).argmax(-1, keepdim=True)
            token.tolist()
            tick(said)
            if said == tokens:
                return
            mask = torch.cat([mask, torch.ones_like(token)], 1)
            places = torch.full_like(token, start + said - 1)
            places = places if axes == 1 else places.expand(axes, -1, -1)
            own = {"input_ids": token, "attention_mask": mask, "position_ids": places}
            out = [model(**own, past_key_values=one.past_key_values, use_cache=True) for one in out]

    return as_stock(vlm, ask)


def peers(vlm: Local) -> Iterator[tuple[str, Ask]]:
    """mitigv's methods on the same model object, one request at a time."""
    objects = {"model": vlm.adapter.model, "processor": vlm.adapter.processor}
    for name in MITIGV:

        def ask(pictures: Pictures, tokens: int, tick: Tick, name: str = name) -> None:
            from mitigv import load_mitigator

            method = load_mitigator(name, **objects, max_new_tokens=tokens)
            check = method._validate_next_token_logits
            heard: list[None] = []

            def checked(logits: torch.Tensor) -> None:  # called once for each token
                check(logits)
                heard.append(None)
                tick(len(heard))

            method._validate_next_token_logits = checked
            method(pictures[0], QUESTION)

        yield f"mitigv {name}", as_stock(vlm, ask)


def contestants(vlm: Local, pictures: Pictures, capture: Capture | None) -> dict[str, Ask]:
    """Everyone who can answer as many requests as there are pictures, which one of them is shown
    again and again. halu's steps are recorded where there is something that records.
    """
    runner = vlm.adapter.runner
    runner.replays = None
    found: dict[str, Ask] = {
        "stock generate": stock(vlm),
        "two forwards": two_forwards(vlm, pictures[0]),
    }
    decoder = Decoder(vlm.adapter)
    if capture is not None:
        found["greedy without recording"] = halus(decoder, "greedy")
        runner.record(capture)
        decoder = Decoder(vlm.adapter)
    found["greedy on remembered pictures"] = again(halus(decoder, "greedy"), pictures)
    for name in strategies.names():
        found[name] = halus(decoder, name)
    return found | (dict(peers(vlm)) if len(pictures) == 1 else {})
