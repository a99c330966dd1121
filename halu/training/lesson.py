"""What the language stage is taught, and when: bare facts, lists, captions and chats."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lesson:
    """The mixture: `begin` natural batches until `alone`, then ever more up to `most` at `full`.

    `alone` and `full` are shares of the run. Of the natural batches, `captions` are captions and
    `lists` inventories; the others are chats. The rest of the batches are bare pairs, joined by
    other bare facts once natural batches have begun. `slip`: captions that name an absent object.
    """

    slip: float = 0.4
    begin: float = 0.0
    alone: float = 0.15
    full: float = 0.5
    most: float = 0.8
    captions: float = 0.3
    lists: float = 0.3
    lr: float = 2e-3

    def natural(self, done: float) -> float:
        """The share of natural batches when `done` of the run is over."""
        way = min(1.0, max(0.0, (done - self.alone) / max(1e-6, self.full - self.alone)))
        return self.begin + (self.most - self.begin) * way

    def kind(self, done: float, rng: random.Random) -> str:
        """What the next batch holds."""
        natural = self.natural(done)
        if rng.random() < natural:
            shares = (self.captions, self.lists, 1 - self.captions - self.lists)
            return rng.choices(("captions", "lists", "chat"), shares)[0]
        return "facts" if natural > 0 else "pairs"


FIRST = Lesson()
# For a language model that has had the first lesson: tiny-llava's own, and tiny-qwen's start.
MORE = Lesson(begin=0.9, alone=0.0, full=0.01, most=0.9, captions=0.3, lists=0.5, lr=1.5e-3)
NEW_EYES = Lesson(begin=0.5, alone=0.0, full=0.3, most=0.85, captions=0.35, lists=0.35, lr=1.5e-3)
