"""From a request to a plan: the strategies that it names, configured, and their plans summed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from halu.adapters import Adapter
from halu.attention.policy import AttentionPolicy
from halu.context import Ask, RequestContext
from halu.errors import BadInput, Unknown, Unsupported
from halu.prompt import Prompt
from halu.rules import Additive
from halu.search import Pick
from halu.strategy import (
    Branch,
    Plan,
    Rule,
    Strategy,
    keep_main,
    strategies,
)
from halu.types import Request, Resolved


class Chosen:
    """The strategies of one request, in order, with their parameters: "vhr+ritual" is two."""

    def __init__(self, parts: Sequence[Strategy]) -> None:
        self.parts = tuple(parts)

    @property
    def resolved(self) -> Resolved:
        """Name and every parameter as used; of several strategies the parameters are dotted."""
        if len(self.parts) == 1:
            return Resolved(
                name=self.parts[0].name, params=self.parts[0].params.model_dump(mode="json")
            )
        params = {
            f"{part.name}.{key}": value
            for part in self.parts
            for key, value in part.params.model_dump(mode="json").items()
        }
        return Resolved(name="+".join(part.name for part in self.parts), params=params)

    def plan(
        self,
        adapter: Adapter,
        request: Request,
        *,
        prompt: Prompt | None = None,
        context: type[RequestContext] = RequestContext,
        ask: Ask | None = None,
    ) -> tuple[Plan, list[RequestContext]]:
        """One plan for all parts, and their contexts, which count the extra prompts that planning
        runs.

        Args:
            adapter: the model.
            request: the request.
            prompt: its prompt, if somebody else encoded it already.
            context: kind of context that the parts see.
            ask: how they run prompts beside decoding.

        Raises:
            Unsupported: if a part needs a picture and there is none, or if parts do not combine.
        """
        parts = sorted(self.parts, key=lambda part: not part.rewrites)
        if len(parts) > 1 and parts[1].rewrites:
            raise Unsupported(
                f"{parts[0].name} and {parts[1].name} both rewrite the conversation.",
                param="strategy",
            )
        main = Branch("main", prompt or adapter.encode(request.messages))
        for part in self.parts:
            if part.needs_image and not main.prompt.layout.images:
                raise Unsupported(f"Strategy {part.name!r} needs a picture.", param="strategy")
        plans, contexts = [], []
        for part in parts:
            ctx = context(adapter, request, main, part.name, ask)
            contexts.append(ctx)
            plans.append(part.plan(ctx))
            main = plans[-1].main
            if main.messages is not None:
                request = request.model_copy(update={"messages": main.messages})
        return _sum(parts, plans), contexts


def choose(request: Request) -> Chosen:
    """The strategies that a request names; without a name plain decoding, greedy unless a
    temperature is set.

    Raises:
        Unknown: an unregistered strategy or parameter.
        BadInput: a parameter out of range or meant for several parts at once.
    """
    sampled = bool(request.sampling.temperature)
    names = (request.strategy or ("sample" if sampled else "greedy")).split("+")
    classes = [strategies.get(name) for name in names]
    if len(set(classes)) < len(classes):
        raise BadInput(f"Strategy {request.strategy!r} names a part twice.", param="strategy")
    plain = [cls.name for cls in classes if cls.kind == "decoding"]
    if len(plain) > 1:
        raise Unsupported(
            f"{' and '.join(plain)} are two ways to search for an answer.", param="strategy"
        )
    values = _shared_out(classes, request.params)
    return Chosen([cls.configured(values[cls.name]) for cls in classes])


def _shared_out(
    classes: Sequence[type[Strategy]], params: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Parameters by strategy: "vcd.alpha" by its prefix, a bare name by the one strategy that has
    it.
    """
    values: dict[str, dict[str, Any]] = {cls.name: {} for cls in classes}
    for key, value in params.items():
        owner, _, field = key.rpartition(".")
        if owner and owner not in values:
            raise Unknown("strategy in parameter", owner, values, param=f"params.{key}")
        owners = (
            [owner] if owner else [cls.name for cls in classes if key in cls.Params.model_fields]
        )
        if len(owners) > 1:
            raise BadInput(
                f"Parameter {key!r} exists in {' and '.join(owners)}.",
                hint=f"Write {owners[0]}.{key}.",
                param=f"params.{key}",
            )
        if not owners:
            known = [name for cls in classes for name in cls.Params.model_fields]
            because = "" if known else "Name a strategy that has it (-s on the command line)."
            raise Unknown(
                f"parameter of {'+'.join(values)}",
                key,
                known,
                param=f"params.{key}",
                because=because,
            )
        if field in values[owners[0]]:
            raise BadInput(f"Parameter {field!r} is given twice.", param=f"params.{key}")
        values[owners[0]][field] = value
    return values


def _sum(parts: Sequence[Strategy], plans: Sequence[Plan]) -> Plan:
    if len(plans) == 1:
        return plans[0]
    name = "+".join(part.name for part in parts)
    extra = [
        (part.name, branch)
        for part, plan in zip(parts, plans, strict=True)
        for branch in plan.extra
    ]
    if len({branch.name for _, branch in extra}) < len(extra):
        raise Unsupported(f"{name}: two parts use a branch of the same name.", param="strategy")
    searches = [plan.search for plan in plans if type(plan.search) is not Pick]
    if len(searches) > 1:
        raise Unsupported(f"{name}: two parts want to control the search.", param="strategy")
    return Plan(
        main=plans[-1].main,
        extra=tuple(branch for _, branch in extra),
        rule=_summed_rule(name, [plan.rule for plan in plans]),
        policies=tuple(make for plan in plans for make in plan.policies),
        search=searches[0] if searches else Pick(),
        taps=tuple(dict.fromkeys(tap for plan in plans for tap in plan.taps)),
    )


def _summed_rule(name: str, rules: Sequence[Rule]) -> Rule:
    working = [rule for rule in rules if rule is not keep_main]
    if not working:
        return keep_main
    if len(working) == 1:
        return working[0]
    total = Additive()
    for rule in working:
        if not isinstance(rule, Additive):
            raise Unsupported(
                f"{name}: a rule that replaces the scores cannot be added to another.",
                param="strategy",
            )
        total = total + rule
    return total


def steered(plan: Plan, branch: Branch) -> Callable[[], tuple[AttentionPolicy, ...]]:
    """Makes the policies of one branch of a plan.

    Raises:
        Unsupported: when called, if the search may take back what a policy learnt from.
    """

    def make() -> tuple[AttentionPolicy, ...]:
        if not branch.prompt.layout.images:
            return ()
        makers = (*plan.policies, *branch.policies) if branch.steered else branch.policies
        policies = tuple(maker(branch.prompt) for maker in makers)
        if plan.search.goes_back and any(policy.carries for policy in policies):
            raise Unsupported(
                "A strategy that learns from generated tokens does not combine with one that takes"
                " tokens back.",
                param="strategy",
            )
        return policies

    return make
