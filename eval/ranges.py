"""Which values of a parameter a search may try: what the strategy declares, or what the user names.

A number with two finite bounds is a range, a choice of words or a switch is a list. `mode` says
whose method it is and is never tuned; neither is a parameter without a value of its own, which the
model decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import copysign, inf, nextafter
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from halu.errors import BadInput, Unknown

KEPT = frozenset({"mode"})


@dataclass(frozen=True, slots=True)
class Range:
    """From `low` to `high`, whole numbers or not, or one of `choices`."""

    low: float = 0.0
    high: float = 0.0
    whole: bool = False
    choices: tuple[Any, ...] = ()

    def distribution(self) -> Any:
        """Give it as optuna's distribution."""
        from optuna import distributions as d

        if self.choices:
            return d.CategoricalDistribution(self.choices)
        if self.whole:
            return d.IntDistribution(int(self.low), int(self.high))
        return d.FloatDistribution(self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Whether a value lies within."""
        return value in self.choices if self.choices else self.low <= value <= self.high

    def __str__(self) -> str:
        """Write it as on the command line."""
        if self.choices:
            return "|".join(str(choice) for choice in self.choices)
        return f"{self.low:g}..{self.high:g}"


def declared(params: type[BaseModel]) -> dict[str, Range]:
    """List the parameters that a search may change, with their own bounds."""
    fields = params.model_fields
    found = {name: _of_field(field) for name, field in fields.items() if name not in KEPT}
    return {name: one for name, one in found.items() if one is not None}


def chosen(
    owner: str, params: type[BaseModel], fixed: Mapping[str, Any], asked: Sequence[str]
) -> dict[str, Range]:
    """Narrow what is declared: `fixed` parameters stay, `asked` ones alone are searched.

    Args:
        owner: name of the strategy.
        params: its parameters.
        fixed: parameters with a given value.
        asked: "alpha" or "alpha=0..2"; none means all that are declared.

    Raises:
        Unknown: for a parameter that does not exist.
        BadInput: for one that cannot be tuned, a range outside the bounds, or nothing to tune.
    """
    known = declared(params)
    found = {}
    for text in asked:
        name, _, span = text.partition("=")
        if name not in params.model_fields:
            raise Unknown(f"parameter of {owner}", name, known)
        if name not in known:
            raise BadInput(f"Parameter {name!r} of {owner!r} cannot be tuned.", param=name)
        if name in fixed:
            raise BadInput(f"Parameter {name!r} is both fixed and tuned.", param=name)
        found[name] = _narrowed(name, known[name], span) if span else known[name]
    found = found or {name: one for name, one in known.items() if name not in fixed}
    if not found:
        raise BadInput(f"Strategy {owner!r} has no parameter to tune.", param="strategy")
    return found


def _narrowed(name: str, bounds: Range, span: str) -> Range:
    ends = span.split("..")
    try:
        low, high = (float(end) for end in ends)
    except ValueError:
        raise BadInput(f"{name}={span} is not a range like {name}=0..2.", param=name) from None
    if bounds.choices or not bounds.low <= low <= high <= bounds.high:
        raise BadInput(f"{name}={span} is not within {bounds}.", param=name)
    return Range(low, high, bounds.whole)


def _of_field(field: FieldInfo) -> Range | None:
    if get_origin(field.annotation) is Literal:
        return Range(choices=get_args(field.annotation))
    if field.annotation is bool:
        return Range(choices=(False, True))
    if field.annotation not in (int, float) or field.default is None:
        return None
    whole = field.annotation is int
    low = high = None
    for bound in field.metadata:
        if isinstance(bound, Ge):
            low = _number(bound.ge)
        elif isinstance(bound, Gt):
            low = _beyond(_number(bound.gt), inf, whole)
        elif isinstance(bound, Le):
            high = _number(bound.le)
        elif isinstance(bound, Lt):
            high = _beyond(_number(bound.lt), -inf, whole)
    if low is None or high is None:
        return None
    return Range(low, high, whole)


def _number(bound: Any) -> float:
    return float(bound)


def _beyond(bound: float, way: float, whole: bool) -> float:
    """Give the first number past an exclusive bound."""
    return bound + copysign(1, way) if whole else nextafter(bound, way)
