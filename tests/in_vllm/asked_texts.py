"""Strings that somebody may send where an engine request says what it asks of halu."""

import json
from typing import Any

from hypothesis import strategies as st

from halu.strategy import strategies

NAMES = (*strategies.names(), "vcd+ritual", "vhr+var", "vcd+vcd", "+", "nobody", "")
FIELDS = sorted(
    {field for name in strategies.names() for field in strategies.get(name).Params.model_fields}
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["\ud800", "9" * 400, "main", "inf"])
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=12,
)
BRANCHES = ("main", "ruined", "other", "")


def _or_anything(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(usual, usual, usual, ANYTHING)


NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "strategy": _or_anything(st.sampled_from(NAMES)),
        "params": _or_anything(st.dictionaries(st.sampled_from(FIELDS), LEAVES, max_size=3)),
        "sampling": _or_anything(
            st.fixed_dictionaries(
                {},
                optional={
                    "temperature": LEAVES | st.just(1.0),
                    "seed": LEAVES,
                    "top_p": LEAVES,
                    "max_new_tokens": st.integers(1, 4) | LEAVES,
                    "stop": st.lists(st.text(max_size=3), max_size=2) | LEAVES,
                },
            )
        ),
        "branch": _or_anything(st.sampled_from(BRANCHES)),
        "branches": _or_anything(st.lists(st.sampled_from(BRANCHES), max_size=3)),
        "group": _or_anything(st.sampled_from(("", "g", "h"))),
        "steers": _or_anything(st.booleans()),
        "sizes": _or_anything(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 99)))),
    },
)
TEXTS = st.one_of(
    NEARLY.map(json.dumps), NEARLY.map(json.dumps), ANYTHING.map(json.dumps), st.text(), ANYTHING
)
"""What arrives as `vllm_xargs["halu"]`: mostly nearly right."""
