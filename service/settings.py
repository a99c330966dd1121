"""What an operator decides: from flags, then the environment (HALU_*), then a file, then defaults.

The strict defaults suit a machine in the open; every limit is here, with its unit in its name.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from halu.errors import BadInput, Unknown

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _words(value: Any) -> Any:
    """A comma-separated text as its parts."""
    return [word.strip() for word in value.split(",") if word.strip()] if _is_text(value) else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]
"""Several values; in the environment and on the command line with commas between them."""
Some = Annotated[Words, AfterValidator(lambda value: value or ("tiny-llava",))]


class Settings(BaseSettings):
    """Everything that `halu serve` can be told."""

    model_config = SettingsConfigDict(env_prefix="HALU_", extra="forbid", frozen=True)

    models: Some = Field(
        ("tiny-llava",), description="Built-in names, folders or hub ids; the first loads at once."
    )
    device: Words = Field((), description="Torch devices; models are dealt to them in turn.")
    dtype: str | None = Field(None, description="Torch dtype of the weights; none: as the engine.")
    backend: Literal["hf", "vllm"] = Field(
        "hf", description="hf: by transformers; vllm: by a vLLM engine. Both in this process."
    )
    graphs: bool = Field(
        False, description="Record decoding steps as CUDA graphs; hf on a GPU only."
    )
    vllm: dict[str, Any] = Field(
        default_factory=dict, description="Further arguments of vLLM's engine, by name."
    )
    memory_gib: float | None = Field(
        None, gt=0, description="Most memory for weights on a device; idle models make room."
    )
    feature_cache_mib: float = Field(
        256.0, ge=0, description="Most memory for what a model remembers of pictures; hf only."
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0: any that is free.")
    allowed_hosts: Words = Field(
        (), description="Names by which clients may call; none: loopback's, or any with keys."
    )
    api_key_file: Path | None = Field(None, description="Hashed keys; see `halu serve --new-key`.")
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Serve /metrics on this port only, without keys."
    )
    metrics_host: str = Field("127.0.0.1", description="Address to listen on at metrics_port.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Of logs.")
    log_file: Path | None = Field(None, description="JSON lines; none: standard error.")
    telemetry: bool = Field(
        False, description="OpenTelemetry, set up by the usual OTEL_* variables."
    )

    max_requests: int = Field(
        32, ge=1, le=4096, description="Requests in the house, read, waiting or running; then 503."
    )
    rate_per_minute: int | None = Field(
        600, ge=1, description="Requests a minute for each key; then 429. None: no limit."
    )
    body_seconds: float = Field(30.0, gt=0, description="To send a request's body; then 408.")
    deadline_seconds: float = Field(300.0, gt=0, description="From a request's arrival; then 504.")
    drain_seconds: float = Field(60.0, ge=0, description="For running answers after SIGTERM.")
    max_rows: int = Field(
        32, ge=1, description="No further request starts while so many rows are being decoded."
    )
    max_rows_per_request: int = Field(
        32, ge=1, description="Branches times hypotheses of one answer; opera needs 25."
    )
    max_choices: int = Field(8, ge=1, description="Answers of one request: n, or strategies.")
    max_new_tokens: int = Field(2048, ge=1, le=32768, description="Most that a client may ask for.")
    default_tokens: int = Field(512, ge=1, le=32768, description="When a client does not say.")
    max_body_mib: float = Field(20.0, gt=0, description="Request bodies; then 413.")
    max_text: int = Field(16_000, ge=1, description="Characters of all messages together.")
    max_messages: int = Field(64, ge=1, description="Messages in a conversation.")
    max_images: int = Field(8, ge=1, description="Pictures in a request.")
    max_image_mib: float = Field(10.0, gt=0, description="Bytes of one picture.")
    max_pixels: int = Field(20_000_000, ge=64, description="Pixels of all pictures together.")
    max_detectors: int = Field(4, ge=1, description="Detectors in a request.")
    image_seconds: float = Field(10.0, gt=0, description="To decode one picture.")

    remote_images: bool = Field(
        False, description="Fetch pictures from any public address (https, port 443)."
    )
    remote_hosts: Words = Field(
        (), description="Fetch pictures from these hosts only; NAME or NAME:PORT."
    )
    remote_networks: Words = Field(
        (), description="Private networks (CIDR) in which remote_hosts may lie."
    )
    remote_http: bool = Field(False, description="http as well as https.")
    fetch_seconds: float = Field(10.0, gt=0, description="To fetch one picture, redirects too.")
    max_fetches: int = Field(8, ge=1, description="Pictures fetched at the same time.")

    strategy: str = Field(
        "", description="Of requests that show a picture and name none; empty: plain decoding."
    )
    listed_strategies: Words = Field(
        (), description="Listed with every model as MODEL@STRATEGY, for apps that pick from a list."
    )
    strategy_params: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Parameters by strategy, used where a client says nothing; those that name"
        " weights or files can be set only here.",
    )
    detector_params: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="The same for detectors."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def tells_evidence(self) -> bool:
        """Whether answers can carry what was known when each token was chosen."""
        return self.backend != "vllm"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        return self.host in LOOPBACK

    @property
    def max_body(self) -> int:
        """Bytes of a request body."""
        return int(self.max_body_mib * 2**20)

    @property
    def max_image(self) -> int:
        """Bytes of one picture."""
        return int(self.max_image_mib * 2**20)


def read_settings(flags: Mapping[str, Any], file: Path | None = None) -> Settings:
    """The settings, and whether they are safe together.

    Args:
        flags: what the command line says.
        file: a TOML file with settings by name.

    Raises:
        BadInput: a value that does not fit, or no keys where anybody could connect.
        Unknown: a name that is not a setting.
    """
    if file is not None and not file.is_file():
        raise BadInput(f"There is no file {str(file)!r}.", param="--config")
    for name in flags:
        if name not in Settings.model_fields:
            raise Unknown("setting", name, Settings.model_fields, param=name)

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=file)

    try:
        found = FromFile(**flags)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadInput(f"Setting {where}: {first['msg']}.", param=where) from None
    except (OSError, ValueError) as error:  # not ours to read, not TOML, or a variable not JSON
        raise BadInput(f"The settings cannot be read: {error}.") from None
    settings = Settings.model_construct(**dict(found))
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    if not settings.loopback and settings.api_key_file is None:
        raise BadInput(
            f"On {settings.host} others can connect, so keys are needed.",
            hint="Make one with `halu serve --new-key NAME --api-key-file FILE`.",
            param="api_key_file",
        )
    if settings.remote_networks and not settings.remote_hosts:
        raise BadInput(
            "remote_networks opens private networks to remote_hosts, and there are none.",
            param="remote_networks",
        )


def as_toml(settings: Settings) -> str:
    """The settings as a file that `--config` reads, each with what it means."""
    lines = []
    for name, field in Settings.model_fields.items():
        value = settings.model_dump(mode="json")[name]
        lines.append(f"# {field.description}")
        if value is None:
            lines.append(f"# {name} = (none)")
        else:
            lines.append(f"{name} = {_inline(value)}")
    return "\n".join(lines)


def _inline(value: Any) -> str:

    if isinstance(value, dict):
        inside = ", ".join(f"{json.dumps(key)} = {_inline(one)}" for key, one in value.items())
        return f"{{{inside}}}"
    if isinstance(value, list):
        return f"[{', '.join(_inline(one) for one in value)}]"
    return json.dumps(value, ensure_ascii=False)
