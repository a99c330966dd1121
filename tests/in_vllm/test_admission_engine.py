"""vLLM asks halu before a request reaches its engine, under both of its model runners."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from asked_texts import TEXTS
from hypothesis import given, settings
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.v1.sample.logits_processor import validate_logits_processors_parameters
from vllm.v1.worker.gpu.sample.logits_processor import (
    build_custom_logits_processors_params_validator,
)

from halu.errors import BadInput
from halu.vllm.admission import Admission
from halu.vllm.asked import KEY, Asked
from halu.vllm.settings import settings_of

NAME = "halu.vllm.admission:Admission"
Validator = Callable[[SamplingParams], None]


def first(params: SamplingParams) -> None:
    """As vLLM asks under its first runner."""
    validate_logits_processors_parameters((NAME,), params)


def second(params: SamplingParams) -> None:
    """As vLLM asks under its second runner."""
    build_custom_logits_processors_params_validator((NAME,))(params)


def sent(text: Any, **own: Any) -> SamplingParams:
    return SamplingParams(extra_args={KEY: text}, **own)


@pytest.mark.parametrize("ask", [first, second])
def test_what_is_wrong_is_told_in_vllms_way(ask: Validator) -> None:
    ask(SamplingParams())
    ask(sent(Asked(strategy="vcd").text()))
    with pytest.raises(VLLMValidationError, match="vcdd") as told:
        ask(sent(Asked(strategy="vcdd").text()))
    assert told.value.parameter == "strategy"
    with pytest.raises(VLLMValidationError, match="one answer"):
        ask(sent(Asked(strategy="vcd").text(), n=2))


@pytest.mark.parametrize("ask", [first, second])
def test_nothing_else_is_ever_raised(ask: Validator) -> None:
    @given(TEXTS)
    @settings(max_examples=100, deadline=None)
    def whatever(text: Any) -> None:
        try:
            ask(sent(text))
        except VLLMValidationError as error:
            told.append(str(error))

    told: list[str] = []
    whatever()
    assert told
    assert all(told)


def test_scores_stay_as_they_are() -> None:
    one, logits = Admission(None, None, False), torch.zeros(2, 3)
    assert one.apply(logits) is logits
    assert one.apply(logits, object()) is logits
    assert one.is_argmax_invariant()
    assert not one.add_request(0, SamplingParams())


@pytest.mark.parametrize(
    ("own", "word"),
    [
        ({"patience": 3}, "halu.patience"),
        ({"patience_seconds": -1}, "halu.patience_seconds"),
        ([], "halu"),
    ],
)
def test_settings_that_cannot_be_are_told(own: Any, word: str) -> None:
    with pytest.raises(BadInput, match=f"--additional-config: {word}"):
        settings_of({"halu": own})
    assert settings_of({}).patience_seconds == 60
