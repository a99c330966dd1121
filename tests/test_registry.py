"""Names to things: collisions, aliases, near matches, and packages that register from outside."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halu.errors import HaluError, Unknown
from halu.registry import Registry
from halu.strategy import strategies


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Registry[Any]]:
    """A registry whose package has these modules."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def made(**modules: str) -> Registry[Any]:
        name = f"things_{abs(hash(tmp_path))}"
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        for module, text in modules.items():
            (folder / f"{module}.py").write_text(text)
        found: Registry[Any] = Registry("thing", name, "halu.test_things")
        monkeypatch.setitem(sys.modules, "shared_registry", found)
        return found

    return made


MODULE = """
import shared_registry as registry

@registry.register({name!r}, aliases={aliases!r})
class Thing:
    name = {name!r}
"""


def module(name: str, *aliases: str) -> str:
    return MODULE.format(name=name, aliases=aliases)


def distribution(folder: Path, name: str, entry: str, **modules: str) -> None:
    """An installed package with an entry point in our group."""
    for key, text in modules.items():
        (folder / f"{key}.py").write_text(text)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[halu.test_things]\n{name} = {entry}\n")
    importlib.invalidate_caches()


def test_modules_of_the_package_register_on_first_use(registry: Any) -> None:
    found = registry(second=module("second", "zweite"), first=module("first"))
    assert not any(key.startswith(f"{found.package}.") for key in sys.modules)
    assert found.names() == ["first", "second"]
    assert [thing.name for thing in found] == ["first", "second"]
    assert found.get("zweite") is found.get("second")
    assert "zweite" in found
    assert "second" in found
    assert "third" not in found
    assert "zweite" not in found.names()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("frist", "Did you mean first"),
        ("zweit", "Did you mean zweite"),
        ("", r"Known: first, second\.$"),
        ("quite different", r"Known: first, second\.$"),
        ("FIRST", "first"),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(registry: Any, name: str, says: str) -> None:
    found = registry(second=module("second", "zweite"), first=module("first"))
    with pytest.raises(Unknown, match=says) as error:
        found.get(name)
    assert f"Unknown thing {name!r}" in error.value.message
    assert (error.value.param, error.value.status) == ("thing", 400)


@pytest.mark.parametrize(
    ("name", "aliases"), [("first", ()), ("zweite", ()), ("new", ("first",)), ("new", ("zweite",))]
)
def test_a_name_that_is_taken_is_refused(
    registry: Any, name: str, aliases: tuple[str, ...]
) -> None:
    found = registry(second=module("second", "zweite"), first=module("first"))
    before = found.names()
    with pytest.raises(ValueError, match=r"(first|zweite).*already registered"):
        found.register(name, aliases=aliases)(object())
    assert found.names() == before
    with pytest.raises(Unknown):
        found.get("new")


def test_an_installed_package_registers_itself(registry: Any, tmp_path: Path) -> None:
    found = registry(first=module("first"))
    distribution(tmp_path, "halu-extra", "extra_things", extra_things=module("extra"))
    assert found.names() == ["extra", "first"]
    assert found.get("extra").__module__ == "extra_things"


def test_an_installed_package_cannot_take_a_name(registry: Any, tmp_path: Path) -> None:
    found = registry(first=module("first"))
    distribution(tmp_path, "halu-thief", "thief_things", thief_things=module("first"))
    with pytest.raises((ValueError, HaluError), match=r"first.*already registered"):
        found.names()


def test_a_package_that_fails_to_load_fails_every_time(registry: Any, tmp_path: Path) -> None:
    """Half a registry must not look like a whole one on the second look."""
    found = registry(first=module("first"))
    distribution(tmp_path, "halu-broken", "broken_things", broken_things="1 / 0\n")
    for _ in range(2):
        with pytest.raises((ZeroDivisionError, HaluError)):
            found.names()


def test_strategies_come_through_the_same_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: Any, picture: Any
) -> None:
    """A strategy of another package answers requests by name like our own."""
    from halu.engine import Local

    before = strategies.names()  # all of ours are there before the package can be found
    text = """
from halu.strategy import Context, Paper, Plan, Strategy, strategies

@strategies.register("foreign", aliases=("stranger",))
class Foreign(Strategy):
    name = "foreign"
    kind = "logits"
    paper = Paper(short="Foreign", arxiv="2501.00001", venue="test")

    def plan(self, ctx: Context) -> Plan:
        return Plan(ctx.main, rule=lambda step: -step.main)
"""
    (tmp_path / "foreign_strategies.py").write_text(text)
    info = tmp_path / "foreign-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[halu.strategies]\nforeign = foreign_strategies\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(strategies, "_loaded", False)
    monkeypatch.setattr(strategies, "_things", dict(strategies._things))
    monkeypatch.setattr(strategies, "_aliases", dict(strategies._aliases))
    assert set(strategies.names()) == {*before, "foreign"}
    vlm = Local(adapter("llava"))
    answers = [
        vlm.ask(picture(), "a", strategy=name, max_new_tokens=2) for name in ("foreign", "stranger")
    ]
    assert answers[0] == answers[1]
    assert answers[0].strategy.name == "foreign"
    plain = vlm.ask(picture(), "a", max_new_tokens=2)
    assert [t.id for t in answers[0].tokens] != [t.id for t in plain.tokens]
    with pytest.raises(HaluError, match=r"twice|stranger"):
        vlm.ask(picture(), "a", strategy="foreign+stranger")
