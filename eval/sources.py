"""The models of a run: what is known of one before it is loaded, and how it is opened."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from halu.errors import BadInput
from halu.eval.backends import Backend, Opener, backend
from halu.eval.plan import Source
from halu.eval.processes import Loader, pool
from halu.weights import fingerprint


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
        BadInput: if the number of backends fits neither, or a model is named twice.
    """
    if len(backends) not in (0, 1, len(models)):
        raise BadInput(
            f"There are {len(models)} models and {len(backends)} backends.",
            hint="Give one --backend for all models, or one for each.",
            param="backend",
        )
    reached = backends or ("hf",)
    found = [
        _described(name, reached[number % len(reached)], device, dtype)
        for number, name in enumerate(models)
    ]
    labels = [source.label for source in found]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise BadInput(f"Model {twice!r} is named twice.", param="model")
    return tuple(found)


def _described(name: str, backend: str, device: str | None, dtype: str | None) -> Source:
    if is_url(backend):
        return Source(name=name, backend=backend.rstrip("/"))
    from halu.engine import place

    device, dtype = place(device, dtype)
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
        if workers > 1 and not is_url(source.backend):
            with pool(source, workers, load) as processes:
                yield processes
        else:
            vlm = load(
                source.name, backend=source.backend, device=source.device, dtype=source.dtype
            )
            far = is_url(source.backend) or vlm.peak_gpu_memory_mb() is not None
            yield backend(vlm.generate_each, workers, vlm.peak_gpu_memory_mb if far else None)

    return opened
