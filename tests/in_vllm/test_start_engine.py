"""How an engine starts: with the options that halu needs, and with a vLLM that it knows."""

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from test_stock_engine import ARGUMENTS, FLAGS
from vllm import LLMEngine

from halu.errors import Unavailable
from halu.vllm import v1, worker
from halu.vllm.engine import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
CHECKS_OTHERS = {"logits-processors": "halu.vllm.admission:Admission"}
"""What a stock server needs because others than halu send requests to it."""


def halus(words: list[str]) -> dict[str, str]:
    """The options among these words that halu needs, with their values."""
    joined = " ".join(words).replace("=", " ").split()
    known = {"worker-cls", "scheduler-cls", "logits-processors"}
    values = {
        word[2:]: following
        for word, following in zip(joined, [*joined[1:], ""], strict=True)
        if word.startswith("--") and word[2:] in known
    }
    return {**values, **{word: "" for word in joined if word in FLAGS}}


def needed() -> dict[str, str]:
    """The same as `halu.load` sets it."""
    assert OPTIONS["enforce_eager"] is True
    assert OPTIONS["async_scheduling"] is False  # none would mean yes on a GPU
    assert OPTIONS["mm_device_do_normalize"] is False  # none would mean yes for Qwen-VL
    classes = {name: OPTIONS[name.replace("-", "_")] for name in ("worker-cls", "scheduler-cls")}
    return {**classes, **CHECKS_OTHERS, **dict.fromkeys(FLAGS, "")}


def test_all_ways_in_set_the_same_options() -> None:
    page = (ROOT / "docs" / "vllm.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"vllm serve llava.*?(?=\n\n)", page, re.DOTALL)
    assert halus(shlex.split(command.replace("\\\n", ""))) == needed()
    stock = [word for name, value in ARGUMENTS.items() for word in (f"--{name}", value)]
    assert halus([*stock, *FLAGS]) == needed()
    text = (ROOT / "deploy" / "vllm.yaml").read_text(encoding="utf-8")
    (deployed,) = [one for one in yaml.safe_load_all(text) if one["kind"] == "Deployment"]
    (container,) = deployed["spec"]["template"]["spec"]["containers"]
    assert halus(container["args"]) == needed()


@pytest.mark.parametrize(
    ("where", "names", "told"),
    [
        ("halu.vllm.v1.V1_FIELDS", ("no_such_mask",), "CPUModelRunner.no_such_mask"),
        ("halu.vllm.v1.V1_BATCH", ("no_such_ids",), "InputBatch.no_such_ids"),
        ("halu.vllm.v1.SAMPLED", ("no_such_token",), "SamplerOutput.no_such_token"),
        ("halu.vllm.worker.WORKER_FIELDS", ("no_such_runner",), "no_such_runner"),
        ("halu.vllm.internals.SCHEDULER_FIELDS", ("no_such_list",), "Scheduler.no_such_list"),
        ("halu.vllm.internals.REQUEST", ("no_such_count",), "Request.no_such_count"),
        ("halu.vllm.internals.METADATA", ("no_such_table",), "Metadata.no_such_table"),
    ],
)
def test_a_vllm_that_lacks_a_name_does_not_start(
    serve: Any, monkeypatch: pytest.MonkeyPatch, where: str, names: tuple[str, ...], told: str
) -> None:
    monkeypatch.setattr(where, names)
    with pytest.raises(Unavailable, match=f"{told}.*Tested with vLLM"):
        serve("tiny-llava", max_model_len=128)


def test_an_engine_without_a_method_does_not_start(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(LLMEngine, "abort_request")
    with pytest.raises(Unavailable, match=r"LLMEngine.abort_request\(\)"):
        serve("tiny-llava", max_model_len=128)


@pytest.mark.parametrize("own", [False, True])
def test_a_gpus_worker_that_made_another_runner_is_told(
    monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    """vLLM may have ceased to ask the worker for its runner."""
    made = object.__new__(v1.Runner) if own else object()
    one = object.__new__(worker.Worker)
    one.vllm_config, one.use_v2_model_runner = None, False
    gpu = SimpleNamespace(is_cpu=lambda: False)
    monkeypatch.setattr(worker, "current_platform", gpu)
    monkeypatch.setattr(worker, "check_config", lambda config: None)
    monkeypatch.setattr(
        worker.Stock, "init_device", lambda self: setattr(self, "model_runner", made)
    )
    if own:
        one.init_device()
        return
    with pytest.raises(Unavailable, match="_make_model_runner"):
        one.init_device()
