"""An engine of another kind than the tests' own, in a process of its own, compared with
transformers: `python other_engine.py first|second|triton JSON`, which prints JSON.

On a CPU vLLM's second model runner runs in Triton's interpreter, and so does its attention for
GPUs. Both are chosen before vLLM is imported, which is why they need a process.
"""

import atexit
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).resolve().parent
SMALL = {"max_model_len": 512, "max_num_seqs": 16, "block_size": 32}


class Driver:
    """A driver that is there: the interpreter asks it for nothing."""

    @staticmethod
    def is_active() -> bool:
        return True


def interpret() -> None:
    """Lets vLLM take this machine for one whose Triton works."""
    os.environ |= {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
    from triton.backends import backends

    backends["cpu"] = SimpleNamespace(driver=Driver, compiler=None)


def attend_by_triton() -> None:
    """Has the CPU's attention done by the backend for GPUs."""
    import torch
    from vllm.plugins import load_general_plugins
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    load_general_plugins()
    register_backend(AttentionBackendEnum.CPU_ATTN, "halu.vllm.attention_gpu.Triton")
    torch.cuda.get_device_capability = lambda device=None: (9, 0)


def even() -> str:
    """A random model whose heads can be shared out evenly."""
    from halu.testing.random_models import Size, save_random

    folder = Path(tempfile.mkdtemp(prefix="halu-even-"))
    atexit.register(shutil.rmtree, folder)
    save_random(folder, Size(hidden=128, vision_hidden=64, vocab=1024))
    return str(folder)


def kind(worker: Any) -> tuple[str, str, int]:
    """What a worker runs, and how many heads it has."""
    runner = worker.model_runner
    impl = runner.halu.layers.attentions[0].impl
    return type(runner).__module__, type(impl).__name__, impl.num_heads


def asked(asked: dict[str, Any]) -> dict[str, Any]:
    """What the engine answers otherwise, which it refuses, and of what kind it is."""
    from vllm_requests import compared, mixed, request

    import halu
    from halu.errors import HaluError
    from halu.vllm.engine import Served

    name = asked["model"] or even()
    served = Served(name, **{**SMALL, **asked.get("options", {})})
    stock = halu.load(name)
    more = asked.get("more", {})
    names = enumerate(asked["names"])
    differ = compared(served, stock, mixed([request(name, n, **more) for n, name in names], **more))
    refused = {}
    for name in asked.get("refused", ()):
        try:
            served.generate([request(name)])
        except HaluError as error:
            refused[name] = str(error)
    executor = served.engine.engine_core.engine_core.model_executor
    kinds = executor.collective_rpc(kind)
    left = served.engine.has_unfinished_requests()
    found = {"differ": differ, "refused": refused, "kinds": kinds, "left": left}
    served.close()
    return found


def main() -> None:
    """Makes the engine and asks."""
    kind, given = sys.argv[1], json.loads(sys.argv[2])
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    from halu.vllm import DEFAULTS

    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    if kind != "first":
        interpret()
    if kind == "triton":
        attend_by_triton()
    print(json.dumps(asked(given)))


if __name__ == "__main__":
    main()
