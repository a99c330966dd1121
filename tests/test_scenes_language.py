"""Captions and questions on scenes: honest where they are to be, and good English."""

import random
import re
from collections import Counter

import pytest

from halu.scenes import NAMES, Scene, draw
from halu.scenes.grammar import article, listed, one, plural, some, there_are
from halu.scenes.language import describe, pairs, relations, turns
from halu.scenes.statistics import absent, split_statistics
from halu.scenes.themes import COLORS, THEMES

FORMS = {plural(name).replace("pairs of ", ""): name for name in NAMES} | {n: n for n in NAMES}
PATTERN = re.compile(r"\b(" + "|".join(sorted(FORMS, key=len, reverse=True)) + r")\b")


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw(seed, "val", 112) for seed in range(150)]


def named(text: str) -> set[str]:
    return {FORMS[word] for word in PATTERN.findall(text.lower())}


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (plural("person"), "people"),
        (plural("knife"), "knives"),
        (plural("sheep"), "sheep"),
        (plural("bus"), "buses"),
        (plural("wine glass"), "wine glasses"),
        (plural("scissors"), "pairs of scissors"),
        (article("umbrella"), "an umbrella"),
        (article("red umbrella"), "a red umbrella"),
        (one("scissors"), "a pair of scissors"),
        (some(3, "mouse"), "three mice"),
        (there_are(2, "couch"), "there are two couches"),
        (there_are(1, "apple"), "there is an apple"),
        (there_are(1, "apple", "one"), "there is one apple"),
        (listed(["a", "b", "c"]), "a, b and c"),
        (listed(["a"]), "a"),
    ],
)
def test_grammar(made: str, wanted: str) -> None:
    assert made == wanted


def test_no_other_word_of_a_caption_is_an_object() -> None:
    for theme in THEMES:
        assert not named(theme.phrase)
    assert not named(" ".join(COLORS))


def test_honest_captions_name_only_what_is_there(scenes: list[Scene]) -> None:
    for scene in scenes:
        text = describe(scene, random.Random(scene.seed))
        assert named(text) <= scene.names
        assert len(named(text)) >= len(scene.names) - 1
        assert 2 <= text.count(". ") + 1 <= 4


def test_a_slip_names_one_absent_object(scenes: list[Scene]) -> None:
    for scene in scenes:
        text = describe(scene, random.Random(scene.seed), slip=1.0)
        assert len(named(text) - scene.names) == 1


def test_slips_come_as_often_as_told_and_are_plausible(scenes: list[Scene]) -> None:
    rng = random.Random(0)
    slips: list[str] = []
    for scene in scenes:
        slips += named(describe(scene, rng, slip=0.4)) - scene.names
    assert 0.3 < len(slips) / len(scenes) < 0.5
    likely = [s for s in scenes if named(describe(s, random.Random(1), 1.0)) & _likely(s)]
    assert len(likely) > 0.5 * len(scenes)


def _likely(scene: Scene) -> set[str]:
    return set(absent(scene.names, "adversarial", 15, random.Random(0)))


def test_yes_and_no_are_true_and_balanced(scenes: list[Scene]) -> None:
    answers: Counter[str] = Counter()
    for scene in scenes:
        for question, answer in turns(scene, random.Random(scene.seed)):
            found = re.match(
                r"Is there an? (?!.*\b(?:red|blue|green|yellow|pink|purple)\b)", question
            )
            if not found:
                continue
            (name,) = named(question)
            assert answer.lower().startswith("yes" if name in scene.names else "no")
            answers[answer.partition(",")[0]] += 1
    assert answers["Yes"] == answers["No"] > 400


def test_counts_colours_and_words_are_true(scenes: list[Scene]) -> None:
    kinds: Counter[str] = Counter()
    for scene in scenes:
        colors = {(thing.name, thing.color) for thing in scene.things}
        for question, answer in turns(scene, random.Random(scene.seed)):
            if question.startswith("How many") and answer.isdigit():
                kinds["count"] += 1
                (name,) = named(question)
                assert scene.counts[name] == int(answer)
            elif question.startswith("What color"):
                kinds["color"] += 1
                (name,) = named(question)
                assert any((name, color) in colors for color in COLORS if color in answer.lower())
            elif "sign say" in question or "written" in question:
                kinds["text"] += 1
                assert answer == scene.prints[0].text
    assert min(kinds.values()) > 15
    assert len(kinds) == 3


def test_relations_are_clear(scenes: list[Scene]) -> None:
    for scene in scenes:
        for first, words, opposite, second in relations(scene):
            axis = 0 if "left" in words + opposite else 1
            ahead = sum(second.box[axis::2]) / 2 - sum(first.box[axis::2]) / 2
            assert abs(ahead) > 11
            assert (ahead > 0) == (words in ("on the left of", "above"))
            assert scene.counts[first.name] == scene.counts[second.name] == 1


@pytest.mark.parametrize("n", [1, 6, 16])
def test_pairs_are_half_there(scenes: list[Scene], n: int) -> None:
    for scene in scenes[:40]:
        found = pairs(scene, random.Random(scene.seed), n)
        assert len(found) == n
        assert sum(there for _, there in found) == n // 2
        assert all((name in scene.names) == there for name, there in found)


def test_the_same_rng_says_the_same(scenes: list[Scene]) -> None:
    scene = scenes[0]
    assert turns(scene, random.Random(5), 0.5) == turns(scene, random.Random(5), 0.5)


def test_absent_by_the_definitions_of_pope(scenes: list[Scene]) -> None:
    table, rng = split_statistics(), random.Random(0)
    for scene in scenes[:50]:
        left = [name for name in NAMES if name not in scene.names]
        popular = absent(scene.names, "popular", 3, rng)
        adversarial = absent(scene.names, "adversarial", 3, rng)
        assert [table.seen[name] for name in popular] == sorted(
            (table.seen[name] for name in left), reverse=True
        )[:3]
        together = [table.with_any(name, scene.names) for name in adversarial]
        assert (
            together
            == sorted((table.with_any(name, scene.names) for name in left), reverse=True)[:3]
        )
        assert not scene.names & {*popular, *adversarial, *absent(scene.names, "random", 3, rng)}
