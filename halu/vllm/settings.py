"""What an operator says to halu inside vLLM: `--additional-config '{"halu": {...}}'`."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from halu.errors import BadInput

KEY = "halu"


class Settings(BaseModel):
    """Settings of one engine.

    Attributes:
        patience_seconds: how long a branch waits for the others of its request to arrive.
        service: settings of `halu serve` for chats that name a strategy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    patience_seconds: float = Field(60.0, gt=0, le=3600)
    service: dict[str, Any] = Field(default_factory=dict)


def settings_of(additional: Mapping[str, Any]) -> Settings:
    """halu's part of vLLM's additional configuration.

    Raises:
        BadInput: naming what cannot be.
    """
    try:
        return Settings.model_validate(additional.get(KEY, {}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, (KEY, *first["loc"])))
        raise BadInput(f"--additional-config: {where}: {first['msg']}.", param=where) from None
