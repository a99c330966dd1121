"""What halu does in an engine's steps while no request asks anything of it."""

import cProfile
import pstats
from collections.abc import Callable
from pathlib import Path
from typing import Any

from test_submission import no_words
from vllm_requests import request

import halu.vllm
from halu.types import Sampling
from halu.vllm.model import params
from halu.vllm.submission import Submission, engine_input

HOME = str(Path(halu.vllm.__file__).parent)
IDLE = {
    *("schedule", "_handle_blocked_waiting_request", "update_from_output", "has_requests"),
    *("__len__", "_door", "__init__", "enter", "<genexpr>", "of", "admits", "_has_room"),
    *("_update_states", "forget", "listen", "welcome", "_planned", "read"),
    *("_model_forward", "_sample", "sample_tokens", "tell", "forward"),
}
"""What may run then: each of them once a step, a new request or a layer, and returns at once."""
EACH_STEP = {
    *("schedule", "update_from_output", "has_requests", "_update_states", "forget", "listen"),
    *("welcome", "_model_forward", "_sample", "sample_tokens", "tell", "forward", "__len__"),
}
"""The same once all prompts have been read."""


def calls(work: Callable[[], Any]) -> set[str]:
    """Names of halu's functions in vLLM that run in it."""
    profile = cProfile.Profile()
    profile.runcall(work)
    found = pstats.Stats(profile).stats  # type: ignore[attr-defined]  # typeshed has it not
    return {name for file, _, name in found if file.startswith(HOME)}


def add_plain(vlm: Any, name: str) -> None:
    """A request of vLLM's own, which says nothing to halu."""
    one = Submission(vlm.adapter, request("greedy"), no_words, vlm.context)
    prompt = engine_input(vlm.processor, vlm.adapter, one.sent()[0])
    vlm.engine.add_request(name, prompt, params(Sampling(max_new_tokens=8), frozenset()))


def hooks(vlm: Any) -> int:
    runner = vlm.engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
    text = runner.halu.layers.text
    return sum(len(module._forward_pre_hooks) for module in (*text.layers, text.norm))


def test_an_idle_engine_pays_for_nothing(serve: Any) -> None:
    vlm = serve("tiny-llava")
    vlm.generate([request("dola", tokens=2)])  # it has been asked for everything before
    for number in range(3):
        add_plain(vlm, f"plain-{number}")
    assert calls(vlm.engine.step) <= IDLE
    assert calls(vlm.engine.step) <= EACH_STEP
    assert hooks(vlm) == 0
    while vlm.engine.has_unfinished_requests():
        vlm.engine.step()


def test_layers_are_listened_to_while_somebody_asks(serve: Any) -> None:
    vlm = serve("tiny-llava")
    batch = vlm.batch()
    batch.add([request("dola", tokens=4), request("vhr", tokens=8)])
    batch.step()
    assert hooks(vlm) == vlm.adapter.facts.layers + 1
    while len(batch.jobs) > 1:
        batch.step()
    batch.step()
    assert hooks(vlm) == 0  # vhr alone asks for none
    while batch.jobs:
        batch.step()
