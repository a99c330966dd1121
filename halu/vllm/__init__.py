"""halu inside vLLM: a plan's branches, attention policies, rule and taps, carried out by vLLM's own
scheduler, paged cache and kernels.

`halu.load(name, backend="vllm")` is the way in; `docs/vllm.md` has the others. What does not need
vLLM (what a request carries, how it is planned) is in modules that do not import it.
"""

import importlib.util
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from halu.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from halu.vllm.engine import Served

TESTED = ("0.32.0",)
"""Versions of vLLM on which the tests have run."""

OPTIONS = "HALU_VLLM"
"""Environment variable with further engine arguments as a JSON object."""
DEFAULTS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_CPU_KVCACHE_SPACE": "4",
}
"""vLLM's own variables, where the user has not set them: the engine runs where it is called, what a
command prints stays its own, and on a CPU the cache takes 4 GiB and not nearly all memory.
"""


def load_served(
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> "Served":
    """A model in a vLLM engine.

    Args:
        name: built-in name, folder, or Hugging Face id.
        device: torch device; vLLM runs where it was built for, so this can only confirm it.
        dtype: torch dtype name.
        options: further engine arguments; by default those in `HALU_VLLM`.

    Raises:
        Unavailable: if vLLM is not here, or another than halu knows.
        BadInput: if vLLM runs on another device, or `HALU_VLLM` cannot be read.
        HaluError: if the model cannot be loaded.
    """
    check_installed()
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    from halu.vllm.engine import Served

    found = _options() if options is None else options
    return Served(name, device=device, dtype=dtype, **found)


def check_installed() -> None:
    """Looks for vLLM without importing it.

    Raises:
        Unavailable: if it is not here.
    """
    if importlib.util.find_spec("vllm") is None:
        raise Unavailable(
            "vLLM is not installed.",
            hint="See docs/vllm.md; backend='hf' needs it not.",
            param="backend",
        )


def _options() -> dict[str, Any]:
    text = os.environ.get(OPTIONS, "{}")
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise BadInput(f"{OPTIONS} is no JSON object: {text!r}.", param="backend")
    return found
