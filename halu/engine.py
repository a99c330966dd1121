"""Models in this process, and the one function that loads a model from wherever it is."""

from collections.abc import Mapping

from halu.adapters import Adapter, load_adapter
from halu.adapters.loading import check_model, place
from halu.adapters.replay import CudaGraphs
from halu.batch import Batched
from halu.decode import Decoder
from halu.errors import Unsupported
from halu.tally import Tally
from halu.vlm import VLM

__all__ = ["Local", "check_graphs", "check_model", "gpus", "load", "place"]

URLS = ("http://", "https://")


class Local(Batched):
    """A model in this process, run by transformers."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        self.tokenizer = adapter.tokenizer

    @property
    def name(self) -> str:
        """The name it was loaded by."""
        return self.adapter.facts.name

    def batch(self) -> Decoder:
        """A batch of its own, all in one forward a step."""
        return Decoder(self.adapter)

    @property
    def context(self) -> int:
        """Tokens that the model can tell the places of."""
        found: int = self.adapter.model.config.text_config.max_position_embeddings
        return found

    @property
    def weights(self) -> int:
        """Bytes of its weights."""
        tensors = [*self.adapter.model.parameters(), *self.adapter.model.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def reused(self) -> Mapping[str, Tally]:
        """Beginnings that prompts share, in tokens; features of pictures, in prompts."""
        runner = self.adapter.runner
        return {"prefix_cache": runner.tally.taken(), "mm_cache": runner.vision.tally.taken()}

    def peak_gpu_memory_mb(self) -> float | None:
        """Peak memory on the model's GPU since the last call; None on the CPU."""
        import torch

        device = self.adapter.runner.device
        if device.type != "cuda":
            return None
        peak = torch.cuda.max_memory_allocated(device) / 2**20
        torch.cuda.reset_peak_memory_stats(device)
        return peak


def load(
    name: str,
    *,
    device: str | None = None,
    dtype: str | None = None,
    backend: str = "hf",
    graphs: bool = False,
    feature_cache_mib: float | None = None,
) -> VLM:
    """Loads a model.

    Args:
        name: "tiny-llava", "tiny-qwen", a folder, or a Hugging Face id of a supported architecture;
            on a server, what it calls the model.
        device: torch device; by default cuda where there is one.
        dtype: torch dtype name; by default the checkpoint's own on cuda, float32 on cpu.
        backend: "hf", in this process; "vllm", an engine of vLLM's; or the URL of an
            OpenAI-compatible server.
        graphs: record decoding steps as CUDA graphs and repeat them; on a GPU in this process.
        feature_cache_mib: most memory for what the vision tower said of pictures, in case they are
            shown again; by default 256. In this process only.

    Raises:
        HaluError: if it cannot be loaded; the message says why.
    """
    if graphs:
        check_graphs(backend, device)
    if feature_cache_mib is not None and backend != "hf":
        raise Unsupported(
            f"Backend {backend!r} remembers pictures in its own way.", param="feature_cache_mib"
        )
    if backend == "hf":
        adapter = load_adapter(name, device=device, dtype=dtype)
        if feature_cache_mib is not None:
            adapter.runner.vision.bound = int(feature_cache_mib * 2**20)
        if graphs:
            adapter.runner.record(CudaGraphs(adapter.runner.device))
        return Local(adapter)
    if backend == "vllm":
        from halu.vllm import load_served

        return load_served(name, device=device, dtype=dtype)
    if backend.startswith(URLS):
        from halu.remote import Remote

        return Remote(name, backend)
    raise Unsupported(
        f"Backend {backend!r} is not there.", hint="There are: hf, vllm, or a URL.", param="backend"
    )


def check_graphs(backend: str, device: str | None) -> None:
    """Refuses to record CUDA graphs where that is impossible; nothing is loaded.

    Raises:
        Unsupported: without a GPU, or where another engine runs the model.
    """
    if backend != "hf" or not place(device, None)[0].startswith("cuda"):
        raise Unsupported("CUDA graphs need a GPU in this process.", param="graphs")


def gpus() -> int:
    """How many CUDA devices there are."""
    import torch

    return torch.cuda.device_count()
