"""Shared by all tests: one thread, no network, random models, pictures, poisoned memory."""

import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from halu import torchvision_shim

torchvision_shim.apply()  # tests import transformers themselves, some before halu does

torch.set_num_threads(1)

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined; then it runs on the CPU

settings.register_profile("halu", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("halu")


CPU_SECONDS = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--cpu-limit SECONDS`."""
    told = "fail a test that takes more seconds of a processor, unless it is marked slow"
    parser.addoption("--cpu-limit", type=float, metavar="SECONDS", help=told)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Measures processor time, that of ended child processes too: what else the machine does plays
    no part.
    """
    before = sum(os.times()[:4])
    yield
    item.stash[CPU_SECONDS] = sum(os.times()[:4]) - before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Holds the limit."""
    report = yield
    took, limit = item.stash.get(CPU_SECONDS, 0.0), item.config.getoption("--cpu-limit")
    free = limit is None or item.get_closest_marker("slow") is not None
    if call.when == "call" and report.passed and not free and took > limit:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} takes {took:.1f} s, at most {limit:g}: mark it slow"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True, scope="session")
def no_calibrations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What this machine's user has calibrated plays no part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HALU_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def poisoned_memory() -> Iterator[None]:
    """Memory that library code allocates without filling it comes back full of NaN, so that a
    forgotten corner shows.
    """
    patch = pytest.MonkeyPatch()
    for name in ("empty", "empty_like"):
        patch.setattr(torch, name, _poisoned(getattr(torch, name)))
    yield
    patch.undo()


def _poisoned(allocate: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def allocated(*args: Any, **kwargs: Any) -> torch.Tensor:
        memory = allocate(*args, **kwargs)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.startswith("halu") and memory.is_floating_point():
            memory.fill_(float("nan"))
        return memory

    return allocated


@pytest.fixture(scope="session")
def adapter() -> Callable[[str], Any]:
    """The random adapter of a family, shared by all tests: nothing may change it."""
    from halu.testing.random_models import random_adapter

    return cache(random_adapter)


@pytest.fixture(scope="session")
def stock() -> Callable[[str], Any]:
    """The same model (same weights) of a family without anything of halu in it."""
    from halu.testing.random_models import random_adapter

    @cache
    def made(family: str) -> Any:
        released = random_adapter(family)
        released.release()
        return released.model

    return made


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """A picture of some size: blocks of colour with a little noise, the same for the same seed."""

    def made(width: int = 56, height: int = 56, seed: int = 0) -> Image.Image:
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        blocks = np.asarray(coarse.resize((width, height), Image.Resampling.NEAREST), dtype=int)
        noise = rng.integers(-20, 21, blocks.shape)
        return Image.fromarray((blocks + noise).clip(0, 255).astype(np.uint8))

    return made


@pytest.fixture
def halu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `halu ARGS` in this process: (exit code, stdout, stderr)."""

    from halu.cli import main

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["halu", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture(scope="session")
def served() -> Iterator[Any]:
    """A server with tiny-llava on loopback, shared by all tests: nothing may change it."""
    pytest.importorskip("prometheus_client")
    from live import live

    with live(max_requests=64) as found:
        yield found


@pytest.fixture(scope="session")
def scene() -> Image.Image:
    """A picture of the built-in world."""
    from halu.scenes import draw

    return Image.fromarray(draw(3, "test", 112).image)
