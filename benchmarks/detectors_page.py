"""The page and the picture of `benchmarks/detectors.py`'s figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TRIED = Path(__file__).resolve().parent / "results" / "layers-agreement.json"

ABOUT = """\
# Detectors on the built-in world

How well each detector tells made-up objects from real ones in captions of drawn scenes. **This is
halu's built-in world, not photographs: the figures show that the machinery works and compare
detectors on it.** Written by

    python benchmarks/detectors.py --fit {fit} --scenes {scenes}

which captions {scenes} held-out scenes per model (greedy, "Please describe this image in detail"),
takes CHAIR's word for which named objects are there, and scores every named object. AUROC is the
share of (made-up, real) pairs ranked rightly, with a 95 % bootstrap interval over pictures; AUPR is
the average precision, to be compared with the share of made-up objects; precision and recall are
those of findings at the default threshold 0.5. Cost is the detector's processor time per caption as
a multiple of that to write one (in batches of 16, one thread); the blend's is that of its parts and
its own. It is the one figure that other work on the machine moves: between two runs by more than a
third. Curves were fitted on {half} scenes of the split "val", the blend on {half} more.

The detectors behind `objects` are the towers through which the two models themselves look, with
heads that learnt from labelled patches of this world: they show how far detection can go where it
is good, not what GroundingDINO and OWLv2 would do on photographs. `attention + uncertainty` is the
mean of the two log-odds; both read only what decoding leaves. `blend` is measured with all four of
its parts, as when it is named while asking; of an answer whose tokens are not known it reads `clip`
and `objects` alone.
"""

WORDS = """\
## Printed words

`ocr` reads {words} printed words of held-out scenes, each against "A sign says ..." with the word
and with another scene's word: AUROC {auroc:.3f}, AUPR {aupr:.3f}. Reading a picture costs as
much as {cost:.2f} captions of {model}.
"""


ATTRIBUTES = """\
## Numbers, colours and places

Statements about the same held-out scenes ("There are two dogs.", "There is a red car.", "A dog is
on the left.", "The dog is above the cat."), about half of them false: numbers off by one, other
colours, other places. The tiny models' captions say places often, colours seldom and numbers hardly
ever. Their curves were fitted on statements about the {half} scenes of the split "val".

{table}
"""


LAYERS = """\
## Layers' agreement, tried

How far the layers of a model are from each other when it names an object (Jensen-Shannon divergence
of what the output head makes of each later layer from the final row, and the share of layers with
another favourite) was tried as one more measurement from the trace:

    python benchmarks/layers_agreement.py -m {model} --fit {fit} --scenes {scenes}

On {claims} objects named in {scenes} held-out captions of {model}, {wrong:.1%} of them made up, a
logistic curve of it ranks with an AUROC of {auroc[layers]:.3f} alone; one of what `attention` and
`uncertainty` measure with {auroc[pair]:.3f}; one of all with {auroc[both]:.3f}, a difference of
{gain:+.3f} (95 % interval {gain_ci[0]:+.3f} to {gain_ci[1]:+.3f}). No detector reads it.
"""


def write(results: dict[str, Any], path: Path) -> None:
    """Beside the figures' own file."""
    fit, half = results["fit"], results["fit"] // 2
    parts = [ABOUT.format(scenes=results["scenes"], fit=fit, half=half)]
    for model, own in results["models"].items():
        parts.append(
            f"## {model}\n\n{own['claims']} objects named in {own['captions']} captions,"
            f" {own['wrong']:.1%} of them made up.\n\n{_table(own['detectors'])}\n"
        )
    table = _table(results["attributes"], cost=False)
    parts.append(ATTRIBUTES.format(half=half, table=table))
    words, first = results["words"], next(iter(results["models"]))
    parts.append(WORDS.format(words=words["claims"] // 2, model=first, **words))
    parts.append(LAYERS.format(**json.loads(TRIED.read_text())))
    parts.append("## Reliability\n\n![Score against share made up](detectors.png)\n")
    path.with_suffix(".md").write_text("\n".join(parts))
    _draw(results, path.with_suffix(".png"))


def _table(found: dict[str, Any], cost: bool = True) -> str:
    last = "cost" if cost else "claims"
    lines = [
        f"| detector | AUROC | AUPR | precision | recall | {last} |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, own in sorted(found.items(), key=lambda item: -item[1]["auroc"]):
        low, high = own["auroc_ci"]
        half = own["at_half"]
        lines.append(
            f"| {name} | {own['auroc']:.3f} ({low:.3f} to {high:.3f}) | {own['aupr']:.3f} |"
            f" {half['precision']:.3f} | {half['recall']:.3f} |"
            + (f" {own['cost']:.2f} |" if cost else f" {own['claims']} |")
        )
    return "\n".join(lines)


def _draw(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    models = results["models"]
    figure, axes = pyplot.subplots(1, len(models), figsize=(5 * len(models), 4.6), squeeze=False)
    for axis, (model, own) in zip(axes[0], models.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="#9aa5b4", linewidth=1)
        for name, one in own["detectors"].items():
            bins = [b for b in one["reliability"] if b["claims"] >= 10]
            axis.plot([b["score"] for b in bins], [b["wrong"] for b in bins], "o-", label=name)
        axis.set(title=model, xlabel="score", ylabel="share made up", xlim=(0, 1), ylim=(0, 1))
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
