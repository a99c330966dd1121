"""Two and three rows through linear layers by columns equal the usual product, and only they do."""

import pytest
import torch

from halu.adapters import small_batch
from halu.adapters.small_batch import FEATURES, FewRows


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
@pytest.mark.parametrize("features", [8, FEATURES, FEATURES + 1])
@pytest.mark.parametrize("bias", [False, True])
def test_products_are_equal_and_the_rule_is_kept(
    rows: int, features: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    by_columns = small_batch._by_columns
    monkeypatch.setattr(small_batch, "_by_columns", lambda *a: taken.append(1) or by_columns(*a))
    torch.manual_seed(0)
    layer = torch.nn.Linear(features, 16, bias=bias)
    x = torch.randn(rows, 1, features)
    usual = layer(x)
    with FewRows():
        mine = layer(x)
    assert bool(taken) == (rows in (2, 3) and features <= FEATURES)
    assert mine.shape == usual.shape
    torch.testing.assert_close(mine, usual)
