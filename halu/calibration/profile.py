"""Which single heads a strategy helps in: ZeroTuning's and ACT's head profiles.

The strategy acts on one (layer, head) at a time, over yes/no questions with known answers. A head's
gain is the mean rise of log P(true answer), yes and no against each other; heads that gain are
kept. ACT's authors keep heads that raise accuracy; the log-probability sees the same with fewer
questions. ZeroTuning calls heads that gain from more attention on the first token up-effective.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from halu.adapters import Adapter
from halu.adapters.cache import RowCache
from halu.attention.steered import Steered
from halu.calibration.labelled import Tell, YesNoQuestion
from halu.engine import Local
from halu.errors import Failed
from halu.eval import yesno
from halu.planning import choose, steered
from halu.prompt import Prompt
from halu.strategy import Plan
from halu.types import Request, question

BATCH = 16
LEAST = 0.5
"""Share of the greatest gain below which a head is not kept."""


def find(
    vlm: Local, strategy: str, param: str, asked: Sequence[YesNoQuestion], tell: Tell
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The heads for the strategy's parameter `param`, and the figures behind it.

    Raises:
        Failed: if the model answers neither yes nor no, or no head gains.
    """
    facts = vlm.adapter.facts
    requests = [Request(messages=question(one.text, one.picture)) for one in asked]
    prompts = [vlm.adapter.encode(request.messages) for request in requests]
    truth = torch.tensor([one.yes for one in asked])
    yes, no = answer_tokens(vlm, requests)

    def score(name: str, params: dict[str, Any]) -> Tensor:
        plans = [
            choose(r).plan(vlm.adapter, r, prompt=p)[0]
            for r, p in zip([_under(r, name, params) for r in requests], prompts, strict=True)
        ]
        return true_log_probability(vlm.adapter, prompts, plans, (yes, no), truth)

    pairs = [(layer, head) for layer in range(facts.layers) for head in range(facts.heads)]
    plain = score("greedy", {})
    gains = []
    for number, pair in enumerate(pairs):
        tell(number, len(pairs))
        gains.append(float((score(strategy, {param: (pair,)}) - plain).mean()))
    tell(len(pairs), len(pairs))
    best = max(gains)
    if best <= 0:
        raise Failed(f"No head of {facts.name!r} gains from {strategy!r} alone.")
    kept = [pair for pair, gain in zip(pairs, gains, strict=True) if gain >= LEAST * best]
    by_layer = torch.tensor(gains).reshape(facts.layers, facts.heads)
    details = {
        "mean log P(true answer) without": round(float(plain.mean()), 4),
        "gain by layer and head": [[round(float(g), 5) for g in row] for row in by_layer],
    }
    return {param: [list(pair) for pair in kept]}, details


def answer_tokens(vlm: Local, requests: Sequence[Request]) -> tuple[Tensor, Tensor]:
    """Token ids with which this model begins to say yes and no.

    Raises:
        Failed: if one of the two never comes.
    """
    found: dict[str, set[int]] = {"yes": set(), "no": set()}
    short = [
        r.model_copy(update={"sampling": r.sampling.model_copy(update={"max_new_tokens": 4})})
        for r in requests
    ]
    for start in range(0, len(short), BATCH):
        for answer in vlm.generate(short[start : start + BATCH]):
            said = yesno.RULES["pope"].read(answer.text, "yes")
            if said is not None and yesno.readable(answer.text):
                found[said].add(answer.tokens[0].id)
    if not found["yes"] - found["no"] or not found["no"] - found["yes"]:
        raise Failed(f"{vlm.name!r} does not answer these questions with yes and no.")
    return (
        torch.tensor(sorted(found["yes"] - found["no"])),
        torch.tensor(sorted(found["no"] - found["yes"])),
    )


def true_log_probability(
    adapter: Adapter,
    prompts: Sequence[Prompt],
    plans: Sequence[Plan],
    tokens: tuple[Tensor, Tensor],
    truth: Tensor,
) -> Tensor:
    """log P of the true one of yes and no, for each prompt [n]."""
    rows = []
    for start in range(0, len(prompts), BATCH):
        some = slice(start, start + BATCH)
        steering = [
            Steered(p.layout, steered(plan, plan.main)())
            for p, plan in zip(prompts[some], plans[some], strict=True)
        ]
        cache = RowCache(adapter.facts.layers)
        rows.append(adapter.runner.read(prompts[some], steering, cache).cpu())
    scores = torch.cat(rows)
    both = torch.stack([scores[:, ids].logsumexp(-1) for ids in reversed(tokens)], -1)  # no, yes
    return torch.log_softmax(both, -1).gather(-1, truth.long()[:, None])[:, 0]


def _under(request: Request, strategy: str, params: dict[str, Any]) -> Request:
    return request.model_copy(update={"strategy": strategy, "params": params})
