"""The attention backends that vLLM has for GPUs, steered rows recomputed as on CPUs.

Both keep a token's key and value side by side. Triton's has run in its interpreter, as the tests
do; FlashAttention's has run nowhere yet.
"""

from vllm.v1.attention.backends.flash_attn import (
    FlashAttentionBackend,
    FlashAttentionImpl,
    FlashAttentionMetadata,
)
from vllm.v1.attention.backends.triton_attn import (
    TritonAttentionBackend,
    TritonAttentionImpl,
    TritonAttentionMetadata,
)

from halu.vllm.attention import SteeredImpl


class TritonImpl(SteeredImpl, TritonAttentionImpl):  # type: ignore[misc]  # vLLM has no types here
    """By Triton's kernels."""

    metadata = TritonAttentionMetadata


class Triton(TritonAttentionBackend):  # type: ignore[misc]  # vLLM has no types here
    """The Triton backend under its own name."""

    @staticmethod
    def get_impl_cls() -> type[TritonImpl]:
        """Attention of one layer."""
        return TritonImpl


class FlashImpl(SteeredImpl, FlashAttentionImpl):  # type: ignore[misc]  # vLLM has no types here
    """By FlashAttention."""

    metadata = FlashAttentionMetadata


class Flash(FlashAttentionBackend):  # type: ignore[misc]  # vLLM has no types here
    """The FlashAttention backend under its own name."""

    @staticmethod
    def get_impl_cls() -> type[FlashImpl]:
        """Attention of one layer."""
        return FlashImpl
