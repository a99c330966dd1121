"""Which prompts begin alike, so that the beginning need be read only once.

A row's keys and values depend on its tokens, positions and pictures so far and on nothing else, as
long as no policy acts on it. So of rows that begin with the same ones a single row is read whole;
the others copy what they have in common with it, and read the rest.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from halu.adapters.vision import digest
from halu.attention.steered import Steered
from halu.prompt import Prompt

WORTH = 128
"""Fewest tokens spared, of all prompts together, for which a second forward pays: it reads all the
weights again. One picture asked twice is well over it. Different pictures share the system prompt
alone, which for LLaVA is a handful of tokens and for Qwen one or two dozen: it would take ten such
prompts read together to share it, and reading it anew costs less than the weights would.
"""

MASK = 2**28
"""Most entries of the mask that the rest of the prompts would need."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Who is read whole, and who goes on from whom.

    Attributes:
        whole: indices of prompts.
        rest: indices of the other prompts.
        sources: for each of those the prompt whose beginning it has.
        starts: and how many tokens of it.
    """

    whole: tuple[int, ...]
    rest: tuple[int, ...] = ()
    sources: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()


def reading(prompts: Sequence[Prompt], steered: Sequence[Steered], worth: int = WORTH) -> Reading:
    """How to read prompts, given what steers each; at least one token of each is read.

    Whole are read those that are steered, the first of each set of pictures that several prompts
    have, and those that have nothing in common with these.
    """
    everything = tuple(range(len(prompts)))
    free = [index for index in everything if not steered[index].active]
    pictures = {index: digest(prompts[index].pixels) for index in free} if len(free) > 1 else {}
    often = Counter(pictures.values())
    leaders: dict[int, str] = {}
    found: dict[int, tuple[int, int]] = {}
    for index, shown in pictures.items():
        if not leaders or (often[shown] > 1 and shown not in leaders.values()):
            leaders[index] = shown
            continue
        common = {
            one: _common(prompts[index], prompts[one], shown == other)
            for one, other in leaders.items()
        }
        best = max(common, key=common.__getitem__)
        if common[best]:
            found[index] = (best, common[best])
    if sum(start for _, start in found.values()) < max(worth, 1):
        return Reading(everything)
    whole = tuple(index for index in everything if index not in found)
    sources, starts = zip(*found.values(), strict=True)
    rest = tuple(found)
    rows = max(len(prompts[index].ids) - start for index, (_, start) in found.items())
    too_large = len(rest) * rows * (rows + max(starts)) > MASK
    return Reading(everything) if too_large else Reading(whole, rest, sources, starts)


def _common(a: Prompt, b: Prompt, same_pictures: bool) -> int:
    """How many tokens of `a`, its last left out, have the same keys and values in `b`."""
    most = min(len(a.ids) - 1, len(b.ids))
    if not same_pictures:
        most = min(most, *(p.layout.system.stop for p in (a, b) if p.layout.images))
    if not most:
        return 0
    differs = np.array(a.ids[:most]) != np.array(b.ids[:most])
    moved = (a.positions[..., :most] != b.positions[..., :most]).reshape(-1, most).any(0).numpy()
    return int((differs | moved).argmax()) if (differs | moved).any() else most
