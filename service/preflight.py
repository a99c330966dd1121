"""What an operator asks for that can never work, refused before the server listens."""

import os
import re

from halu.detector import detectors
from halu.engine import check_graphs, check_model
from halu.errors import BadInput, Unavailable
from halu.planning import choose
from halu.service.options import parameters
from halu.service.schema import Arm
from halu.service.settings import Settings
from halu.strategy import strategies
from halu.types import Request, question
from halu.vllm import check_installed


def check_strategies(settings: Settings) -> None:
    """The strategies that settings name, with their parameters.

    Raises:
        HaluError: an unknown strategy, or a parameter that it has not or does not take.
    """
    for name, params in settings.strategy_params.items():
        known = strategies.get(name).name
        if known != name:
            raise BadInput(f"{name!r} is {known!r} in strategy_params.", param="strategy_params")
        choose(Request(messages=question(""), strategy=name, params=params))
    for name in (settings.strategy, *settings.listed_strategies):
        own = parameters(Arm(strategy=name), settings.strategy_params, sampled=False)
        choose(Request(messages=question(""), strategy=name or None, params=own))


def check_detectors(settings: Settings) -> None:
    """The parameters of detectors that settings name.

    Raises:
        HaluError: an unknown detector, or a parameter that it has not or does not take.
    """
    for name, params in settings.detector_params.items():
        detectors.get(name).configured(params)


def check_telemetry(settings: Settings) -> None:
    """That OpenTelemetry, if it is wanted, can send and has where to.

    Raises:
        Unavailable: without the exporter.
        BadInput: without an address.
    """
    if not settings.telemetry:
        return
    try:
        import opentelemetry.exporter.otlp.proto.http  # noqa: F401  # only whether it is there
    except ImportError:
        raise Unavailable.without(
            "telemetry", "Telemetry needs OpenTelemetry's exporter.", param="telemetry"
        ) from None
    if not any(re.fullmatch(r"OTEL_EXPORTER_OTLP_(\w+_)?ENDPOINT", name) for name in os.environ):
        raise BadInput(
            "Telemetry has nowhere to send.",
            hint="Set OTEL_EXPORTER_OTLP_ENDPOINT, for example to http://127.0.0.1:4318.",
            param="telemetry",
        )


def check_models(settings: Settings) -> None:
    """The backend, and every model's name, configuration and device, and whether CUDA graphs can be
    recorded there; weights are not read.

    Raises:
        HaluError: what cannot be loaded; the message says why.
    """
    if settings.backend == "vllm":
        check_installed()
    devices = settings.device or (None,)
    for number, name in enumerate(settings.models):
        check_model(name, device=devices[number % len(devices)], dtype=settings.dtype)
    for device in devices if settings.graphs else ():
        check_graphs(settings.backend, device)
