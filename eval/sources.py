"""The models of a run: what is known of one before it is loaded, and how it is opened."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from halu.errors import BadInput
from halu.eval.backends import Backend, Opener
from halu.eval.plan import Source
from halu.eval.processes import Pool
from halu.weights import fingerprint

if TYPE_CHECKING:
    from halu.vlm import VLM

Loader = Callable[..., "VLM"]
"""`halu.load`, or something that takes the same arguments."""


def described(
    models: Sequence[str],
    backends: Sequence[str] = (),
    *,
    device: str | None = None,
    dtype: str | None = None,
) -> tuple[Source, ...]:
    """Describe models by their names.

    Args:
        models: names, folders or hub ids; of a server, the names it gives its models.
        backends: none (all in this process), one for all, or one for each model.
        device: torch device of those in this process.
        dtype: torch dtype name of those in this process.

    Raises:
        BadInput: if the number of backends fits neither.
    """
    if len(backends) not in (0, 1, len(models)):
        raise BadInput(
            f"There are {len(models)} models and {len(backends)} backends.",
            hint="Give one --backend for all models, or one for each.",
            param="backend",
        )
    reached = backends or ("hf",)
    return tuple(
        _described(name, reached[number % len(reached)], device, dtype)
        for number, name in enumerate(models)
    )


def _described(name: str, backend: str, device: str | None, dtype: str | None) -> Source:
    if is_url(backend):
        return Source(name=name, backend=backend.rstrip("/"))
    return Source(name=name, backend=backend, device=device, dtype=dtype, weights=fingerprint(name))


def is_url(backend: str) -> bool:
    """Whether a backend is a server."""
    return backend.startswith(("http://", "https://"))


def opening(load: Loader, workers: int = 1) -> Opener:
    """Build an opener.

    Args:
        load: `halu.load`, which knows every backend.
        workers: batches at the same time; a model in this process is loaded as many times, each in
            a process of its own, on the GPUs in turn.
    """

    @contextmanager
    def opened(source: Source) -> Iterator[Backend]:
        if is_url(source.backend):
            remote = load(source.name, backend=source.backend)
            yield Backend(remote.generate_each, workers, memory=remote.peak_gpu_memory_mb)
        elif workers > 1:
            with Pool(source, workers) as pool:
                yield Backend(pool.generate, workers, pool.memory)
        else:
            vlm = load(
                source.name, backend=source.backend, device=source.device, dtype=source.dtype
            )
            on_gpu = vlm.peak_gpu_memory_mb() is not None
            yield Backend(vlm.generate_each, memory=vlm.peak_gpu_memory_mb if on_gpu else None)

    return opened
