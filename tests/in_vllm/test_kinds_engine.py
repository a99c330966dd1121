"""Strategies are exact under vLLM's second model runner, under its attention for GPUs, and with the
heads shared out over two processes: mixed batches of all strategies, or of every class of effect.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from vllm_requests import runnable

SCRIPT = Path(__file__).with_name("other_engine.py")
EFFECTS = ("greedy", "vhr", "var", "dola", "vcd", "pai", "sid")
"""Rule only, scaled heads, moved mass, earlier layers, a pair, changed scores, hidden keys."""
SETTINGS = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}


def answers(kind: str, **asked: Any) -> dict[str, Any]:
    """What an engine of that kind tells."""
    command = [sys.executable, str(SCRIPT), kind, json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **SETTINGS})
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert not found.pop("left")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny-llava", "tiny-qwen"])
def test_the_second_runner(stock: Any, model: str) -> None:
    # the prompts come in pieces, and the memory is too little for all at once
    options = {"max_num_batched_tokens": 128, "num_gpu_blocks_override": 14, "max_model_len": 256}
    names = runnable(stock(model)) if model == "tiny-llava" else EFFECTS
    found = answers("second", model=model, names=names, options=options, more={"tokens": 12})
    assert found == {"differ": [], "refused": {}, "kinds": [["halu.vllm.v2", "CPUImpl", 6]]}


@pytest.mark.slow
def test_attention_for_gpus() -> None:
    found = answers("triton", model="tiny-qwen", names=("var",), more={"tokens": 2})
    assert found == {"differ": [], "refused": {}, "kinds": [["halu.vllm.v2", "TritonImpl", 6]]}


@pytest.mark.slow
def test_heads_on_two_ranks() -> None:
    options = {"tensor_parallel_size": 2}
    names = (*EFFECTS, "act", "spin", "caac")
    found = answers(
        "first", model="", names=names, refused=["eah"], options=options, more={"tokens": 5}
    )
    assert "several ranks" in found.pop("refused")["eah"]
    assert found == {"differ": [], "kinds": [["halu.vllm.v1", "CPUImpl", 2]] * 2}
