"""Calibrations that were kept: one readable JSON file for each model shape and strategy."""

import json
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from halu.errors import Failed
from halu.folder import folder
from halu.strategy import ModelFacts
from halu.types import Record


class Calibration(Record):
    """What was found, and on what.

    Attributes:
        model: the name that the model was loaded by.
        shape: what it is recognised by.
        strategy: whose parameters these are.
        params: the parameters found.
        pictures: how many pictures or questions it was computed on, and which.
        command: the command that made it.
        details: the figures behind it, for people.
    """

    model: str
    shape: tuple[str, int, int, int]
    strategy: str
    params: dict[str, Any]
    pictures: str
    command: str
    details: dict[str, Any] = Field(default_factory=dict)


def path(model: ModelFacts, strategy: str) -> Path:
    """The file of one model shape and strategy."""
    return folder() / f"{'-'.join(str(part) for part in model.shape)}-{strategy}.json"


def save(found: Calibration, model: ModelFacts) -> Path:
    """Keeps a calibration in place of an earlier one."""
    file = path(model, found.strategy)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps(found.model_dump(mode="json"), indent=1) + "\n")
    draft.replace(file)
    return file


def load(model: ModelFacts, strategy: str) -> Calibration | None:
    """The calibration of this model's shape, if there is one.

    Raises:
        Failed: if its file is damaged.
    """
    file = path(model, strategy)
    try:
        text = file.read_text()
    except OSError:
        return None
    try:
        return Calibration.model_validate_json(text)
    except ValidationError as error:
        raise Failed(
            f"{file} is damaged: {error.error_count()} errors.",
            hint=f"Delete it, or run halu calibrate {model.name} {strategy} again.",
        ) from None
