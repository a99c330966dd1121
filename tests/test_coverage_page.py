"""The page on coverage says what was counted."""

from typing import Any

import coverage_page
import pytest


def counted(**missing: list[int]) -> dict[str, Any]:
    files = {
        name.replace("__", "/") + ".py": {
            "missing_lines": lines,
            "summary": {"num_statements": 10, "missing_lines": len(lines)},
        }
        for name, lines in missing.items()
    }
    lost = sum(map(len, missing.values()))
    totals = {"num_statements": 10 * len(missing), "missing_lines": lost}
    return {"files": files, "totals": totals}


def test_folders_are_summed_and_lost_lines_named() -> None:
    page = coverage_page.page(counted(halu__a=[3, 7, 8, 9], halu__b=[], service__c=[2]))
    assert "| `halu/` | 20 | 4 | 80.0% |" in page
    assert "| `service/` | 10 | 1 | 90.0% |" in page
    assert "| all | 30 | 5 | 83.3% |" in page
    assert "| `halu/a.py` | 3, 7-9 |" in page
    assert "halu/b.py" not in page


@pytest.mark.parametrize(
    ("lines", "told"), [([5], "5"), ([1, 2], "1-2"), ([9, 1, 3, 2], "1-3, 9"), ([], "")]
)
def test_neighbouring_lines_are_joined(lines: list[int], told: str) -> None:
    assert coverage_page.ranges(lines) == told
