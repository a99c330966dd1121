"""What halu relies on inside vLLM, and the settings that it refuses: needs no vLLM."""

import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from halu.errors import Unavailable, Unsupported
from halu.vllm import TESTED
from halu.vllm.configuration import REFUSED, check_config
from halu.vllm.internals import check, lacking


class Changed:
    """A class with a method and fields of every kind."""

    constant = 1

    def __init__(self) -> None:
        self.made = 2

    @property
    def counted(self) -> int:
        return 3

    def kept(self, request: Any) -> None:
        pass


@dataclass
class Batch:
    """A class whose fields have no default."""

    rows: int


def test_what_is_there_lacks_nothing() -> None:
    fields = ("constant", "made", "counted")
    assert lacking(Changed, {"kept": ("request",)}, fields) == []
    assert lacking(Changed(), {"kept": ("request",)}, fields) == []
    assert lacking(Batch, fields=("rows",)) == []
    check([], [])


def test_all_that_is_missing_is_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(__version__="99.0"))
    with pytest.raises(Unavailable) as told:
        check(
            lacking(Changed, {"gone": (), "kept": ("request", "name")}, ("lost",)),
            lacking(Changed(), fields=("missed",)),
            lacking(Batch, fields=("rows", "columns")),
        )
    words = ("Changed.gone()", "Changed.kept(name=)", "Changed.lost", "Changed.missed")
    for word in (*words, "Batch.columns", "99.0", TESTED[0]):
        assert word in str(told.value)
    assert "Batch.rows" not in str(told.value)


def configuration(**own: Any) -> Any:
    """vLLM's, as halu wants it; fields that are named differ."""
    fields = {
        "parallel_config.pipeline_parallel_size": 1,
        "parallel_config.data_parallel_size": 1,
        "parallel_config.decode_context_parallel_size": 1,
        "parallel_config.prefill_context_parallel_size": 1,
        "parallel_config.enable_batch_sharded_sampling": False,
        "scheduler_config.long_prefill_token_threshold": 0,
        "scheduler_config.async_scheduling": False,
        "compilation_config.mode": SimpleNamespace(name="NONE"),
        "compilation_config.cudagraph_mode": SimpleNamespace(name="NONE"),
        "cache_config.cache_dtype": "auto",
        "device_config.device_type": "cuda",
        "kv_transfer_config": None,
        "speculative_config": None,
        "model_config.multimodal_config": SimpleNamespace(mm_device_do_normalize=False),
        "use_v2_model_runner": True,
        **own,
    }
    found = SimpleNamespace()
    for path, value in fields.items():
        part, _, name = path.rpartition(".")
        if part and not hasattr(found, part):
            setattr(found, part, SimpleNamespace())
        setattr(getattr(found, part) if part else found, name, value)
    return found


def test_a_model_without_pictures_normalises_none() -> None:
    check_config(configuration(**{"model_config.multimodal_config": None}))


WRONG = [
    ("no --pipeline-parallel-size", "parallel_config.pipeline_parallel_size", 2),
    ("no --data-parallel-size", "parallel_config.data_parallel_size", 2),
    ("no context parallelism", "parallel_config.decode_context_parallel_size", 2),
    ("no context parallelism", "parallel_config.prefill_context_parallel_size", 2),
    (
        "no --enable-batch-sharded-sampling",
        "parallel_config.enable_batch_sharded_sampling",
        True,
    ),
    (
        "no --long-prefill-token-threshold",
        "scheduler_config.long_prefill_token_threshold",
        64,
    ),
    ("no --kv-transfer-config", "kv_transfer_config", object()),
    ("no --speculative-config", "speculative_config", object()),
    ("--enforce-eager", "compilation_config.mode", SimpleNamespace(name="VLLM_COMPILE")),
    (
        "--enforce-eager",
        "compilation_config.cudagraph_mode",
        SimpleNamespace(name="FULL_DECODE_ONLY"),
    ),
    ("--kv-cache-dtype auto", "cache_config.cache_dtype", "fp8"),
    ("--no-async-scheduling", "scheduler_config.async_scheduling", True),
    (
        "--no-mm-device-do-normalize",
        "model_config.multimodal_config",
        SimpleNamespace(mm_device_do_normalize=True),
    ),
    ("VLLM_USE_V2_MODEL_RUNNER=1", "use_v2_model_runner", False),
]


@pytest.mark.parametrize(("option", "field", "value"), WRONG)
def test_a_setting_that_is_not_exact_is_refused(option: str, field: str, value: Any) -> None:
    check_config(configuration())
    with pytest.raises(Unsupported) as told:
        check_config(configuration(**{field: value}))
    assert str(told.value) == f"halu needs vLLM with {option}."


def test_each_refusal_is_tried() -> None:
    assert {option for option, _, _ in WRONG} == set(REFUSED)


def test_all_that_is_wrong_is_told_at_once() -> None:
    wrong = configuration(**{"cache_config.cache_dtype": "fp8", "speculative_config": object()})
    with pytest.raises(Unsupported, match="--speculative-config; --kv-cache-dtype"):
        check_config(wrong)


def test_a_cpu_may_have_the_first_runner() -> None:
    own = {"device_config.device_type": "cpu", "use_v2_model_runner": False}
    check_config(configuration(**own))
