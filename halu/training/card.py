"""Measures a model folder and writes its card: `python -m halu.training.card MODEL_DIR --n 500`."""

import argparse
import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from halu.scenes import NAMES, draw
from halu.training import measure

ABOUT = {
    "tiny-llava": (
        "A LLaVA (`LlavaForConditionalGeneration`: CLIP tower, projector, Llama with\n"
        "grouped-query attention)"
    ),
    "tiny-qwen": (
        "A Qwen2.5-VL (`Qwen2_5_VLForConditionalGeneration`: window attention, patch merger,\n"
        "M-RoPE)"
    ),
    "tiny-clip": "An open_clip model (image tower with 14-pixel patches, causal text tower)",
}
HEAD = """---
license: apache-2.0
language: en
tags: [built-in-world, halu]
---
# {name}

{about}, trained on pictures of halu's built-in world: emoji sprites of {names} everyday
categories on noisy backgrounds, with exact truth. It lets halu be tried, tested and measured
without a download.

**It is not LLaVA-1.5, Qwen2.5-VL or OpenAI's CLIP, and its figures say nothing about them.** They
show that halu's machinery works on a model that really errs, and compare strategies on this world
only. It knows no photographs.

- Size: {megabytes:.1f} MB, float32.
- Licence: the weights are Apache-2.0. The training pictures were drawn from Twemoji (CC-BY 4.0),
  Noto Emoji (Apache-2.0) and Fluent Emoji (MIT) sprites; see NOTICE.
- Made by (see `halu.training`):

{commands}
- Learning curve: `learning_curve.csv`, `learning_curve.png`.
{more}
## Held-out figures

The first {n} scenes of the test split, which no training saw; a third of them hold distractors that
no training picture has. {how}
Made by `python -m halu.training.card DIR --n {n}`.

"""
SLIPS = (
    "- Of the captions it learnt from a share (`--slip`) names one plausible object that is not\n"
    "  there, as the captions that large models learn from do; so plain decoding hallucinates.\n"
)
# Yes/no questions are answered right half the time by anybody.
CHANCE = 0.55
HOW_LANGUAGE = (
    "Stock transformers, greedy decoding. POPE asks six questions an\n"
    'image; "bare" is POPE\'s text alone, "one word" ends with "Please answer this question with\n'
    'one word." An unreadable answer counts as wrong. CHAIR is computed simply here: whole-word\n'
    "matches of the category names and their plurals, against the scene's true objects."
)
HOW_CLIP = (
    "Crops are single objects to be named among {names} names;\n"
    "ranking is the share of (present, absent) name pairs of a whole scene scored in the right\n"
    "order; captions are to be found among 32."
)


def table(rows: dict[str, dict[str, float]]) -> str:
    """A Markdown table, one row a task, one column a figure that the tasks of a kind share."""
    parts = []
    for shape in dict.fromkeys(tuple(row) for row in rows.values()):
        parts.append("| task | " + " | ".join(shape) + " |\n|---|" + "--:|" * len(shape))
        for name, row in rows.items():
            if tuple(row) == shape:
                parts.append(f"| {name} | " + " | ".join(shown(row[key]) for key in shape) + " |")
        parts.append("")
    return "\n".join(parts)


def shown(value: float) -> str:
    """Counts as they are, shares with three places."""
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def clip_figures(folder: Path, n: int) -> dict[str, dict[str, float]]:
    """tiny-clip's figures, through open_clip's own loading."""
    import open_clip

    from halu.training import clip, corpus

    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    words = open_clip.get_tokenizer(f"local-dir:{folder}").tokenizer
    scenes = [draw(seed, split="test", size=corpus.size_of(seed)) for seed in range(n)]
    pixels = {
        side: np.stack([corpus.reduced(scene.image, side) for scene in scenes])
        for side in corpus.GRIDS
    }
    return {
        "test scenes": {
            "n": n,
            **clip.measure(model.eval(), words, corpus.Corpus(scenes, pixels, {})),
        }
    }


def measured(folder: Path, name: str, n: int) -> dict[str, dict[str, float]]:
    """Measure on the first `n` test scenes and keep the figures next to the model."""
    figures = clip_figures(folder, n) if name == "tiny-clip" else measure.everything(folder, n)
    text = json.dumps({"n": n, "figures": figures}, indent=1)
    (folder / "figures.json").write_text(text + "\n")
    return figures


def made_by(recipe: dict[str, Any]) -> str:
    """The commands, and what they do not say."""
    text = "\n".join(f"      {command}" for command in recipe["commands"])
    if "note" in recipe:
        note = textwrap.fill(recipe["note"], 98, initial_indent="  ", subsequent_indent="  ")
        text += f"\n\n{note}"
    return text


def page(folder: Path, recipe: dict[str, Any], n: int, figures: dict[str, dict[str, float]]) -> str:
    """The card as Markdown."""
    name = recipe["model"]
    text = HEAD.format(
        name=name,
        about=ABOUT[name],
        names=len(NAMES),
        megabytes=next(folder.glob("*.safetensors")).stat().st_size / 1e6,
        commands=made_by(recipe),
        more="" if name == "tiny-clip" else SLIPS,
        n=n,
        how=HOW_CLIP.format(names=len(NAMES)) if name == "tiny-clip" else HOW_LANGUAGE,
    )
    weak = [task for task, row in figures.items() if row.get("accuracy", 1) < CHANCE]
    if weak:
        text += f"Not learnt (at chance, or below): {', '.join(weak)}.\n\n"
    return text + table(figures)


def main() -> None:
    """Parse, measure unless told not to, write README.md and print the figures."""
    parser = argparse.ArgumentParser(
        description="Measure a built-in model on held-out scenes and write its card.",
        epilog="example: python -m halu.training.card DIR --n 500",
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--n", type=int, default=500, help="test scenes")
    parser.add_argument("--again", action="store_true", help="from figures.json, without measuring")
    asked = parser.parse_args()
    folder, n = asked.folder, asked.n
    recipe = json.loads((folder / "recipe.json").read_text())
    if asked.again:
        kept = json.loads((folder / "figures.json").read_text())
        n, figures = kept["n"], kept["figures"]
    else:
        figures = measured(folder, recipe["model"], n)
    (folder / "README.md").write_text(page(folder, recipe, n, figures).rstrip() + "\n")
    print(table(figures))


if __name__ == "__main__":
    main()
