"""Write the table of `docs/vllm.md`: which strategies run in vLLM, and why the others do not.

    python tools/vllm_page.py [--check]

A strategy is planned as it is for vLLM, once where a request comes in and once beside the model, on
a random LLaVA under transformers; vLLM itself is not needed. With `--check` nothing is written; the
exit status says whether the table is current.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from strategy_pages import KINDS
from tried import GIVEN, adapter

if TYPE_CHECKING:
    from halu.aside import Aside
    from halu.strategy import Strategy

PAGE = Path(__file__).resolve().parent.parent / "docs" / "vllm.md"
BLOCK = re.compile(r"(<!-- generated: strategies -->\n).*?(<!-- /generated -->)", re.DOTALL)


def table() -> str:
    """Every strategy, what it brings into the engine, or why it does not run there."""
    from halu.strategy import strategies

    rows = ["| strategy | acts on | in vLLM |", "|---|---|---|"]
    for one in sorted(strategies, key=lambda each: (KINDS.index(each.kind), each.name)):
        page = f"[`{one.name}`](strategies/{one.name}.md)"
        rows.append(f"| {page} | {one.kind} | {outcome(one)} |")
    return "\n".join(rows) + "\n"


def outcome(strategy: type[Strategy]) -> str:
    """What a strategy brings, or the reason of its refusal."""
    from PIL import Image

    from halu.aside import alone
    from halu.errors import HaluError
    from halu.types import Request, Sampling, question
    from halu.vllm.contexts import planned
    from halu.vllm.submission import Submission

    words = question("Is there a dog in the image?", Image.new("RGB", (56, 56), "gray"))
    request = Request(
        messages=words,
        strategy=strategy.name,
        params=GIVEN.get(strategy.name, {}),
        sampling=Sampling(max_new_tokens=4),
    )
    llava = adapter("llava")
    try:
        one = Submission(llava, request, silent, 2**20)
        sent = one.sent()
        for each in sent:
            planned(llava, each.asked, each.prompt, partial(alone, llava))[1]()
    except HaluError as error:
        return error.message
    parts = [
        f"{len(sent)} coupled requests" if len(sent) > 1 else "",
        "attention or layers steered" if any(each.asked.steers for each in sent) else "",
        "scores of earlier layers" if one.plan.taps else "",
    ]
    return f"runs: {', '.join(filter(None, parts)) or 'rule or draw only'}"


def silent(asides: Sequence[Aside]) -> None:
    """Texts beside decoding, in one word."""
    for aside in asides:
        aside.tokens.append(min(aside.ends))


def main() -> int:
    """Writes the table, or checks it."""
    parser = argparse.ArgumentParser(description="Write the table of docs/vllm.md.")
    parser.add_argument("--check", action="store_true", help="only say whether it is current")
    arguments = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    found = table()
    wanted = BLOCK.sub(lambda block: block[1] + found + block[2], text)
    if text == wanted:
        return 0
    if arguments.check:
        print("The table in docs/vllm.md is not current. Run: make docs", file=sys.stderr)
        return 1
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
