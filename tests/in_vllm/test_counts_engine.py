"""What an answer cost in vLLM."""

from typing import Any

import pytest
from vllm_requests import BRANCHED, request, runnable


@pytest.mark.parametrize("model", ["tiny-llava", "tiny-qwen"])
def test_what_an_answer_cost_is_counted_as_under_transformers(
    serve: Any, stock: Any, model: str
) -> None:
    vlm, hf = serve(model), stock(model)
    counted = {}
    for name in runnable(hf):
        one = request(name, 1, tokens=5)
        (got,), (wanted,) = vlm.generate([one]), hf.generate([one])
        counted[name] = got.usage.forwards, wanted.usage.forwards
        assert got.usage.prompt_tokens == wanted.usage.prompt_tokens
        assert got.usage.image_tokens == wanted.usage.image_tokens
    assert {name: pair for name, pair in counted.items() if pair[0] != pair[1]} == {}


def test_what_is_read_again_costs_more(serve: Any, stock: Any) -> None:
    vlm = serve("tiny-llava", num_gpu_blocks_override=14, max_num_seqs=5, max_model_len=256)
    # prompts end just before a block does, so that answers soon need another
    more = "There is a dog, a cat and a bird. A man is on the left."
    names = (*BRANCHED, "vhr", "var", "pai", "spin")
    asked = [request(name, 3 * n, tokens=30, more=more) for n, name in enumerate(names)]
    plain = sum(one.usage.forwards for one in stock("tiny-llava").generate(asked))
    assert sum(one.usage.forwards for one in vlm.generate(asked)) > plain
