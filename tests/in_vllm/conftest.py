"""Tests that run vLLM itself. They are collected only where it can be imported (`make test-vllm`
makes such an environment); every engine is shared by the tests that can share it.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

THERE = importlib.util.find_spec("vllm") is not None
collect_ignore_glob = [] if THERE else ["test_*_engine.py"]

if THERE:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

ENGINE = {
    "max_model_len": 512,
    "max_num_batched_tokens": 2048,
    "max_num_seqs": 16,
    "block_size": 32,
    "limit_mm_per_prompt": {"image": 2},
}


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., Any]]:
    """An engine with a built-in model, shared by all that want the same one."""
    from halu.vllm import DEFAULTS

    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    from halu.vllm.engine import Served

    served: list[Any] = []

    @cache
    def made(name: str, **options: Any) -> Any:
        served.append(Served(name, **{**ENGINE, **options}))
        return served[-1]

    yield made
    for one in served:
        one.close()


@pytest.fixture(scope="session")
def stock() -> Callable[[str], Any]:
    """The same model under transformers."""
    import halu

    return cache(halu.load)
