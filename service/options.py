"""Parameters of strategies and detectors: what clients may say, and what their operator has set."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from halu.detector import Detector, chosen, detectors
from halu.errors import BadInput
from halu.service.refusals import placed
from halu.service.schema import Arm
from halu.service.settings import Settings
from halu.strategy import strategies
from halu.values import with_parameters


def parameters(
    arm: Arm, defaults: Mapping[str, Mapping[str, Any]], *, sampled: bool
) -> dict[str, Any]:
    """What the client says of a strategy, and under it what the operator has set.

    Raises:
        Unknown: no such strategy.
        BadInput: a parameter that is the operator's alone.
    """
    found = dict(arm.params)
    for part in (arm.strategy or ("sample" if sampled else "greedy")).split("+"):
        strategy = strategies.get(part)
        own = defaults.get(strategy.name, {})
        for key in strategy.Params.model_fields:
            given = {key, f"{strategy.name}.{key}"} & set(arm.params)
            if given:
                _refuse_operators(strategy.name, strategy.Params, (key,), f"params.{min(given)}")
                for name in given if _looks(strategy.Params.model_fields[key]) else ():
                    _refuse_weights(arm.params[name], f"params.{name}")
            elif key in own:
                found[f"{strategy.name}.{key}"] = own[key]
    return found


def checks(texts: Sequence[str], settings: Settings) -> tuple[Detector, ...]:
    """Detectors as a client names them, `"clip"` or `"clip:threshold=0.3"`, each once; under what
    it says is what the operator has set.

    Raises:
        Unknown: no such detector or parameter.
        BadInput: too many, one twice, a value that does not fit or is the operator's alone.
    """
    if len(texts) > settings.max_detectors:
        raise BadInput(f"At most {settings.max_detectors} detectors.", param="detectors")
    found = []
    for text in texts:
        with placed({"": "detectors"}):
            name, values = with_parameters(text)
        kind = detectors.get(name)
        _refuse_operators(kind.name, kind.Params, values, "detectors")
        own = settings.detector_params.get(kind.name, {})
        one = kind.configured({**own, **values})
        most = max(settings.max_choices, kind.configured(own).samples)
        if one.samples > most:
            raise BadInput(
                f"{kind.name} would have {one.samples} further answers given; at most {most}.",
                param="detectors",
            )
        found.append(one)
    return chosen(found)


def _looks(field: FieldInfo) -> bool:
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("looks"))


def _refuse_weights(lookers: Any, where: str) -> None:
    """Refuses detectors of a strategy that bring an operator's parameters along."""
    for text in lookers if isinstance(lookers, list) else [lookers]:
        with placed({"": where}):
            name, values = with_parameters(str(text))
        kind = detectors.get(name)
        _refuse_operators(kind.name, kind.Params, values, where)


def _refuse_operators(
    owner: str, params: type[BaseModel], given: Iterable[str], where: str
) -> None:
    for key in given:
        field = params.model_fields.get(key)
        extra = field.json_schema_extra if field else None
        if isinstance(extra, dict) and extra.get("operator"):
            raise BadInput(f"Parameter {key!r} of {owner} is set by the operator.", param=where)
