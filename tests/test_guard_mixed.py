"""The numerical guard of mixed batches through the Triton kernels."""

from collections.abc import Callable
from typing import Any

import pytest
from unending import DEVICE, SHORT, attention, ids, on_both, requests, unending


@pytest.fixture(scope="module")
def loaded() -> Callable[..., Any]:
    """Models of this module's own."""
    return unending()


@pytest.mark.slow
@pytest.mark.timeout(1800)
@on_both
def test_a_mixed_batch_through_the_kernels_says_what_each_says_alone(
    model: str, loaded: Any
) -> None:
    """Rows without a policy lie among rows with one, and join and leave at any step."""
    tokens = 4 if SHORT else 12
    asked = requests(model, tokens)
    mixed = [asked[name] for name in ("greedy", "var", "vcd", "pai", "sid", "vhr")]
    with attention("reference"):
        plain = loaded(model, False, device=DEVICE)
        wanted = [ids(plain.generate([one])[0]) for one in mixed]
    with attention("triton") as called:
        found = loaded(model, True, device=DEVICE).generate(mixed)
    assert list(map(ids, found)) == wanted
    assert called["step"] >= tokens - 1
