"""Held-out quality by plain greedy decoding with stock transformers, in batches: what the model
cards state.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from halu.scenes import NAMES, Scene, draw
from halu.scenes.grammar import plural
from halu.scenes.language import ONE_WORD
from halu.scenes.questions import Task, image_name, mme_items, pope_items, text_items
from halu.scenes.statistics import Kind

CAPTION = "Please describe this image in detail."
KINDS: tuple[Kind, ...] = ("random", "popular", "adversarial")
TASKS: tuple[Task, ...] = ("existence", "count", "position", "color")


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """One question, on the scene with this number, and the right answer."""

    scene: int
    question: str
    answer: str


class Subject:
    """A model folder under test, loaded with stock transformers."""

    def __init__(self, folder: Path, batch: int = 48) -> None:
        self.processor: Any = AutoProcessor.from_pretrained(folder)
        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.batch = batch

    @torch.no_grad()
    def answers(
        self, scenes: Sequence[Scene], asked: Sequence[tuple[int, str]], tokens: int
    ) -> Iterator[str]:
        """One greedy answer for each (scene number, question)."""
        for at in range(0, len(asked), self.batch):
            part = asked[at : at + self.batch]
            prompts = [self._prompt(question) for _, question in part]
            images = [[Image.fromarray(scenes[number].image)] for number, _ in part]
            inputs = self.processor(images=images, text=prompts, padding=True, return_tensors="pt")
            made = self.model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
            yield from self.processor.batch_decode(
                made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )

    def _prompt(self, question: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        return text


def said_yes(text: str) -> bool | None:
    """The first word, read as yes or no."""
    word = re.match(r"\W*(yes|no)\b", text.lower())
    return None if word is None else word[1] == "yes"


def binary(
    subject: Subject, scenes: Sequence[Scene], asked: Sequence[KnownAnswer]
) -> dict[str, float]:
    """Accuracy, F1 and share of yes over yes/no questions; an unreadable answer is wrong and
    counted.
    """
    found = subject.answers(scenes, [(item.scene, item.question) for item in asked], 3)
    said = [said_yes(text) for text in found]
    truth = [item.answer.lower() == "yes" for item in asked]
    hits = sum(a is True and b for a, b in zip(said, truth, strict=True))
    claimed = sum(a is True for a in said)
    return {
        "n": len(asked),
        "unreadable": sum(a is None for a in said),
        "accuracy": sum(a == b for a, b in zip(said, truth, strict=True)) / len(asked),
        "f1": 2 * hits / max(1, claimed + sum(truth)),
        "yes_ratio": claimed / len(asked),
    }


def pope(subject: Subject, scenes: Sequence[Scene], kind: Kind, suffix: str) -> dict[str, float]:
    """Six questions an image, as POPE has it."""
    where = {image_name(scene): number for number, scene in enumerate(scenes)}
    items = pope_items(scenes, kind, random.Random(f"card {kind}"))
    return binary(
        subject,
        scenes,
        [KnownAnswer(where[item.image], item.text + suffix, item.label) for item in items],
    )


def mme(subject: Subject, scenes: Sequence[Scene], task: Task) -> dict[str, float]:
    """Two questions an image, as MME has it."""
    where = {image_name(scene): number for number, scene in enumerate(scenes)}
    items = mme_items(scenes, task, random.Random(f"card {task}"))
    return binary(
        subject,
        scenes,
        [KnownAnswer(where[item.image], item.question, item.answer) for item in items],
    )


def reading(subject: Subject, scenes: Sequence[Scene]) -> dict[str, float]:
    """The share of signs read right."""
    where = {image_name(scene): number for number, scene in enumerate(scenes)}
    items = text_items(scenes)
    found = subject.answers(scenes, [(where[item.image], item.text) for item in items], 8)
    right = sum(
        text.strip(" .").lower() == item.answer.lower()
        for text, item in zip(found, items, strict=True)
    )
    return {"n": len(items), "accuracy": right / max(1, len(items))}


def named(text: str) -> set[str]:
    """The categories a caption names: whole words, singular or plural, longer names before the
    shorter inside them.
    """
    found = set()
    rest = f" {text.lower()} "
    for name in sorted(NAMES, key=len, reverse=True):
        forms = {name, plural(name).removeprefix("pairs of ")}
        rest, count = re.subn(
            rf"\b({'|'.join(map(re.escape, sorted(forms, key=len, reverse=True)))})\b", " ", rest
        )
        if count:
            found.add(name)
    return found


def chair(subject: Subject, scenes: Sequence[Scene]) -> dict[str, float]:
    """CHAIR_s, CHAIR_i and recall of captions, a category counted once a caption; words, and
    answers cut short.
    """
    found = list(subject.answers(scenes, [(number, CAPTION) for number in range(len(scenes))], 96))
    spoken = [named(text) for text in found]
    wrong = [names - scene.names for names, scene in zip(spoken, scenes, strict=True)]
    right = [names & scene.names for names, scene in zip(spoken, scenes, strict=True)]
    return {
        "n": len(scenes),
        "chair_s": sum(map(bool, wrong)) / len(scenes),
        "chair_i": sum(map(len, wrong)) / max(1, sum(map(len, spoken))),
        "recall": sum(map(len, right)) / sum(len(scene.names) for scene in scenes),
        "words": sum(len(text.split()) for text in found) / len(scenes),
        "unfinished": sum(not text.rstrip().endswith(".") for text in found),
    }


def everything(folder: Path, n: int) -> dict[str, dict[str, float]]:
    """All figures over the first `n` test scenes."""
    subject = Subject(folder)
    scenes = [draw(seed, split="test") for seed in range(n)]
    table = {f"pope {kind}, one word": pope(subject, scenes, kind, ONE_WORD) for kind in KINDS}
    table |= {f"pope {kind}, bare": pope(subject, scenes, kind, "") for kind in KINDS}
    table["chair"] = chair(subject, scenes)
    table |= {f"mme {task}": mme(subject, scenes, task) for task in TASKS}
    table["text"] = reading(subject, scenes)
    return table
