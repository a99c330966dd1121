"""The entry point of `vllm.general_plugins`, called by vLLM in each of its processes."""

BACKENDS = {
    "CPU_ATTN": "halu.vllm.attention.CPU",
    "TRITON_ATTN": "halu.vllm.attention_gpu.Triton",
    "FLASH_ATTN": "halu.vllm.attention_gpu.Flash",
}
"""Attention backends by vLLM's name, and what takes their place."""


def register() -> None:
    """Makes halu's attention known to vLLM. Cheap, and may be called often."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    for name, path in BACKENDS.items():
        register_backend(AttentionBackendEnum[name], path)
