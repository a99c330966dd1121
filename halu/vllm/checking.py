"""What can be said of an engine request by its parameters alone."""

from typing import Any

from halu.errors import BadInput, Unsupported
from halu.planning import choose
from halu.types import Request, Sampling, question
from halu.vllm.asked import read


def check(params: Any) -> None:
    """Refuses what no prompt could make right.

    Args:
        params: vLLM's `SamplingParams`.

    Raises:
        HaluError: with the reason.
    """
    asked = read(params.extra_args)
    if asked is None:
        return
    if params.n > 1:
        raise Unsupported("Strategies have one answer a request here.", param="n")
    if params.structured_outputs is not None:
        raise Unsupported("Strategies and grammars have not been tried together.", param="strategy")
    wanted = Request(
        messages=question(""),
        strategy=asked.strategy,
        params=asked.params,
        sampling=asked.sampling or Sampling(),
    )
    for part in choose(wanted).parts:
        if part.takes_back:
            raise BadInput(f"Strategy {part.name!r} takes tokens back; vLLM cannot do that.")
