"""Tests that run vLLM itself are in files `test_*_engine.py`: they are skipped where it cannot be
imported (`make test-vllm` makes an environment for them). Every engine is shared by the tests that
can share it.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

THERE = importlib.util.find_spec("vllm") is not None

if THERE:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

ENGINE = {
    "max_model_len": 512,
    "max_num_batched_tokens": 2048,
    "max_num_seqs": 16,
    "block_size": 32,
    "limit_mm_per_prompt": {"image": 2},
}


class WithoutVllm(pytest.Module):
    """A file whose tests need vLLM, where there is none."""

    def collect(self) -> Any:
        """Nothing, with the reason."""
        pytest.skip("vLLM is not installed; `make test-vllm` runs this", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> pytest.Module | None:
    """Files of engines are not imported without vLLM."""
    if THERE or not module_path.match("test_*_engine.py"):
        return None
    found: pytest.Module = WithoutVllm.from_parent(parent, path=module_path)
    return found


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
