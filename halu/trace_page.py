"""The page behind `--trace`: the picture, the answer, and where each word looked."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image

from halu.types import Answer, Finding, Token

SIDE = 640
"""The picture is shown at most this wide."""


def write(path: Path, picture: Image.Image, question: str, answer: Answer, model: str) -> None:
    """Writes one self-contained HTML file; nothing in it is fetched from elsewhere."""
    environment = Environment(loader=PackageLoader("halu"), autoescape=select_autoescape())
    page = environment.get_template("trace.html").render(
        picture=_data_uri(picture),
        question=question,
        answer=answer,
        model=model,
        words=words(answer),
        params=", ".join(f"{key} {value}" for key, value in answer.strategy.params.items()),
    )
    path.write_text(page, encoding="utf-8")


def words(answer: Answer) -> list[dict[str, Any]]:
    """The answer's words, each with the evidence of its tokens (means, and heat summed) and what
    detectors found there.
    """
    groups: list[list[Token]] = []
    for token in answer.tokens:
        if token.stop > token.start and token.evidence is not None:
            starts_word = token.text[:1].isspace() or not groups
            groups.append([token]) if starts_word else groups[-1].append(token)
    return [_word(group, answer.findings) for group in groups]


def _word(tokens: list[Token], findings: Sequence[Finding]) -> dict[str, Any]:
    evidence = [token.evidence for token in tokens if token.evidence is not None]
    looks = [seen.look[0] for seen in evidence if seen.look]
    heat = [sum(values) for values in zip(*(look.values for look in looks), strict=True)]
    mass = [seen.mass for seen in evidence if seen.mass]
    return {
        "text": "".join(token.text for token in tokens),
        "image": sum(m["image"] for m in mass) / len(mass) if mass else 0.0,
        "mass": {key: sum(m[key] for m in mass) / len(mass) for key in mass[0]} if mass else {},
        "entropy": max(seen.entropy for seen in evidence),
        "shift": max(seen.shift for seen in evidence),
        "rank": max(seen.rank for seen in evidence),
        "rows": looks[0].rows if looks else 0,
        "columns": looks[0].columns if looks else 0,
        "heat": [round(value, 5) for value in heat],
        "findings": [
            {"detector": one.detector, "score": round(one.score, 2), "reason": one.reason}
            for one in findings
            if one.start < tokens[-1].stop and tokens[0].start < one.stop
        ],
    }


def _data_uri(picture: Image.Image) -> str:
    shown = picture.copy()
    shown.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    shown.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
