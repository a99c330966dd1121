"""What is installed here, which backends work, and why the others do not."""

import importlib.util
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from halu.errors import installing
from halu.types import Record

EXTRAS = {
    "eval": ("scipy", "matplotlib", "nltk"),
    "clip": ("open_clip", "scipy"),
    "ocr": ("rapidocr", "onnxruntime"),
    "serve": ("fastapi", "uvicorn"),
    "triton": ("triton",),
    "vllm": ("vllm",),
}
BY_HAND = {"vllm": "It takes an environment of its own: docs/vllm.md"}


class Check(Record):
    """One thing that was looked at."""

    what: str
    works: bool
    found: str


def examine() -> list[Check]:
    """Looks at packages, devices, built-in models and extras."""
    return list(_all())


def _all() -> Iterator[Check]:
    from halu import __version__

    yield Check(what="halu", works=True, found=__version__)
    yield Check(what="python", works=True, found=platform.python_version())
    for package in ("torch", "transformers"):
        yield _package(package)
    yield _device()
    yield Check(what="backend hf", works=True, found="models run in this process")
    from halu.models import builtin

    for name in ("tiny-llava", "tiny-qwen"):
        there = name in builtin()
        yield Check(
            what=f"model {name}", works=there, found="built in" if there else "weights are missing"
        )
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        how = BY_HAND.get(extra) or installing(extra)
        hint = f"missing {', '.join(missing)}. {how}"
        yield Check(
            what=f"extra {extra}", works=not missing, found=hint if missing else "installed"
        )


def _package(name: str) -> Check:
    try:
        return Check(what=name, works=True, found=version(name))
    except PackageNotFoundError:
        return Check(what=name, works=False, found="not installed")


def _device() -> Check:
    import torch

    if torch.cuda.is_available():
        return Check(what="device", works=True, found=f"cuda: {torch.cuda.get_device_name()}")
    threads = torch.get_num_threads()
    built = (
        f"torch is built for CUDA {torch.version.cuda}"
        if torch.version.cuda
        else "torch is a CPU build"
    )
    return Check(what="device", works=True, found=f"cpu, {threads} threads ({built})")
