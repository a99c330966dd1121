"""Watches the real decoding loop: every row a rule sees, what it makes of it, what it costs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from halu.adapters import Adapter
from halu.aside import Aside, alone
from halu.attention.policy import AttentionPolicy
from halu.decode import Decoder
from halu.prompt import Prompt
from halu.strategy import Plan, Step
from halu.types import Answer, Request

PARAMS: dict[str, dict[str, Any]] = {
    "act": {"threshold": 0.04, "beta": 0.1},
    "adhh": {"heads": ((0, 1), (2, 0), (3, 2)), "tau": 0.3},
    "agla": {"beta": 0.8},
    "ara": {"threshold": 100.0, "caption_tokens": 3},
    "carve": {"max_steps": 3},
    "code": {"describe_tokens": 4},
    "deco": {"layers": (1, 2, 3), "alpha": 2.0},
    "dola": {"layers": (0, 1, 2, 3), "relative_top": 0.8},
    "fia": {"local": 0.8, "summary": 0.5, "beta": 0.8},
    "glc": {"weight": 0.5, "top": 5},
    "icd": {"beta": 0.8},
    "pai": {"alpha": 0.8, "beta": 0.8},
    "ritual": {"beta": 0.8},
    "sentinel": {"first": "sampled", "detectors": ("clip",), "candidates": 2, "longest": 2},
    "sid": {"beta": 0.8, "keep": 4},
    "sparc": {"alpha": 2.0, "tau": 0.0},
    "var": {
        "dimensions": (1, 2),
        "tau": 1.5,
        "summ": 0.05,
        "rho": 0.2,
        "move_fraction": 0.8,
    },
    "vcd": {"beta": 0.8},
    "vdgd": {"describe_tokens": 4},
}
"""Parameters with which a strategy acts on a random model: its sinks are other dimensions, and its
rows are so flat that the usual cutoffs keep every token.
"""


ONLY_ON = {"fia": ("llava", "llava_next")}
"""Families on which a strategy runs; the others refuse it for want of a class token."""


@dataclass
class Count:
    """Forwards of the language model that carried prompts, that carried tokens, and their rows."""

    prompts: int = 0
    prompt_rows: int = 0
    tokens: int = 0
    rows: int = 0


@dataclass(frozen=True)
class Run:
    """One request's life: the answer, each step's raw rows, the rule's row, the plan, the cost, and
    how often the loop went round.
    """

    answer: Answer
    steps: list[Step]
    ruled: list[Tensor]
    plan: Plan
    count: Count
    rounds: int

    @property
    def tokens(self) -> list[int]:
        return [token.id for token in self.answer.tokens]


def record(adapter: Adapter, request: Request) -> Run:
    """Runs one request in the real loop and writes down what happens."""
    steps: list[Step] = []
    ruled: list[Tensor] = []
    decoder = Decoder(adapter)
    with counted(adapter) as count:
        (job,) = decoder.add([request])
        while not job.planned:  # it has a text said first
            raise_errors(decoder.step())
        plan = job.plan

        def watched(step: Step) -> Tensor:
            row = plan.rule(step)
            rows = {name: value.clone() for name, value in step.rows.items()}
            steps.append(Step(step.index, rows, list(step.tokens), dict(step.early)))
            ruled.append(row.clone())
            return row

        job.plan = replace(plan, rule=watched)
        rounds = 0
        while decoder.jobs:
            raise_errors(decoder.step())
            rounds += 1
    assert job.answer is not None
    return Run(job.answer, steps, ruled, plan, count, rounds)


def raise_errors(told: Sequence[tuple[Any, Any]]) -> None:
    for _, event in told:
        if isinstance(event, Exception):
            raise event


def said_alone(
    adapter: Adapter, prompt: Prompt, most: int, policies: Sequence[AttentionPolicy] = ()
) -> tuple[list[int], Tensor]:
    """A prompt's greedy continuation beside decoding: the tokens, and their rows [n, V]."""
    rows: list[Tensor] = []
    aside = Aside.of(prompt, policies, ends=adapter.ends, most=most, each=rows.append)
    alone(adapter, [aside])
    assert aside.error is None
    return aside.tokens, torch.stack(rows)


@contextmanager
def counted(adapter: Adapter) -> Iterator[Count]:
    """Counts what goes through the language model meanwhile."""
    count = Count()

    def seen(module: Any, args: Any, output: Any) -> None:
        rows, queries = output.last_hidden_state.shape[:2]
        count.prompts += queries > 1
        count.prompt_rows += rows if queries > 1 else 0
        count.tokens += queries == 1
        count.rows += rows

    hook = adapter.runner.text.register_forward_hook(seen)
    try:
        yield count
    finally:
        hook.remove()


@contextmanager
def ending(adapter: Adapter, tokens: Sequence[int]) -> Iterator[None]:
    """These tokens end an answer meanwhile."""
    config = adapter.model.generation_config
    before, config.eos_token_id = config.eos_token_id, list(tokens)
    try:
        yield
    finally:
        config.eos_token_id = before


@torch.inference_mode()
def full_rows(model: Any, prompt: Prompt, tokens: Sequence[int], **extra: Any) -> Tensor:
    """Rows [n + 1, V] from a stock model in one forward without a cache: after the prompt, after
    each token.
    """
    ids = torch.tensor([[*prompt.ids, *tokens]])
    inputs = {**prompt.pixels, **extra}
    if "qwen" in model.config.model_type:
        model.model.rope_deltas = None
        inputs["mm_token_type_ids"] = (ids == model.config.image_token_id).int()
    out = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **inputs)
    rows: Tensor = out.logits[0, len(prompt.ids) - 1 :].float()
    return rows


def same_rows(a: Tensor, b: Tensor, tolerance: float = 2e-4) -> bool:
    """Whether two rows of scores are equal up to an additive constant, -inf in the same places."""
    if not torch.equal(torch.isneginf(a), torch.isneginf(b)):
        return False
    kept = ~torch.isneginf(a)
    gap = torch.log_softmax(a[kept], -1) - torch.log_softmax(b[kept], -1)
    return bool(gap.abs().max() <= tolerance)
