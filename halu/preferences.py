"""Training pairs of sentences from SENTINEL's candidates (Peng et al., arXiv:2507.12455).

    python -m halu.preferences -m MODEL -o PAIRS.jsonl [--format llava] PICTURE...

The strategy `sentinel` draws candidates for every sentence and labels them; here each clean
sentence that names only what was named before is paired with a hallucinated one, after the same
words. The loss belongs on the pair alone: whoever trains must mask the context.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from halu.errors import HaluError
from halu.labelling import Label
from halu.types import Answer, Record

Format = Literal["sentinel", "llava", "llama-factory"]
FORMATS: tuple[Format, ...] = ("sentinel", "llava", "llama-factory")
PROMPT = "Please describe this image in detail."


class Pair(Record):
    """A sentence to be preferred over another after the same context."""

    image: str
    question: str
    context: str
    chosen: str
    rejected: str
    chosen_objects: tuple[str, ...]
    rejected_objects: tuple[str, ...]


def paired(labels: Sequence[Label], known: Sequence[str]) -> list[tuple[int, int]]:
    """Clean sentences that name only what is `known`, and hallucinated ones, one to one."""
    clean = [i for i, label in enumerate(labels) if label.clean and label.names <= set(known)]
    wrong = [i for i, label in enumerate(labels) if label.hallucinated]
    return list(zip(clean, wrong, strict=False))


def pairs(answer: Answer, image: str, question: str) -> Iterator[Pair]:
    """The pairs that an answer under `sentinel` gives."""
    for finding in answer.findings:
        if finding.detector != "sentinel":
            continue
        told: Any = finding.evidence
        rows = {row["text"]: row for row in told["candidates"] if row["text"]}
        texts = list(rows)
        labels = [
            Label(frozenset(row["names"]), row["hallucinated"], row["uncertain"])
            for row in rows.values()
        ]
        for good, bad in paired(labels, told["named"]):
            yield Pair(
                image=image,
                question=question,
                context=told["context"],
                chosen=texts[good],
                rejected=texts[bad],
                chosen_objects=tuple(sorted(labels[good].names)),
                rejected_objects=tuple(sorted(labels[bad].names)),
            )


def written(pair: Pair, form: Format) -> dict[str, Any]:
    """A pair as LLaVA's conversations or LLaMA-Factory's preference data have it, or as it is."""
    asked = f"<image>\n{pair.question}" if form == "llava" else f"<image>{pair.question}"
    if form == "llava":
        turns = [{"from": "human", "value": asked}, {"from": "gpt", "value": pair.context}]
        return {
            "image": pair.image,
            "conversations": turns[: 1 + bool(pair.context)],
            "context": pair.context,
            "chosen": pair.chosen,
            "rejected": pair.rejected,
        }
    if form == "llama-factory":
        return {
            "instruction": asked,
            "context": pair.context,
            "chosen": pair.chosen,
            "rejected": pair.rejected,
            "images": [pair.image],
        }
    return pair.model_dump(mode="json")


def collected(model: str, pictures: Sequence[Path], asked: argparse.Namespace) -> Iterator[Pair]:
    """Pairs of every picture."""
    from halu.engine import load

    vlm = load(model)
    params = {"first": "sampled", "candidates": asked.candidates, "rounds": 1}
    for number, picture in enumerate(pictures):
        answer = vlm.ask(
            picture,
            asked.question,
            strategy="sentinel",
            params=params,
            max_new_tokens=asked.max_new_tokens,
            seed=asked.seed + number,
        )
        yield from pairs(answer, str(picture), asked.question)


def kept(found: Iterable[Pair], path: Path, form: Format) -> int:
    """Writes each pair as it comes, so that an interruption loses none; how many there were."""
    count = 0
    with path.open("w", encoding="utf-8", buffering=1) as file:
        for pair in found:
            count += 1
            file.write(json.dumps(written(pair, form)) + "\n")
    return count


def main() -> None:
    """Writes pairs as JSON lines."""
    parser = argparse.ArgumentParser(description="Make preference pairs with SENTINEL's labels.")
    parser.add_argument("pictures", nargs="+", type=Path)
    parser.add_argument("-m", "--model", default="tiny-llava")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--format", choices=FORMATS, default="sentinel")
    parser.add_argument("--question", default=PROMPT)
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    try:
        found = collected(asked.model, asked.pictures, asked)
        count = kept(found, asked.out, asked.format)
        print(f"{count} pairs in {asked.out}")
    except (HaluError, OSError) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
