"""The service's benchmarks at their smallest: what they load is there, what they make is served."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Imports one of them as it is when it is run as a script."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (BENCHMARKS / f"{name}.py").is_file():
            del sys.modules[name]


@pytest.mark.parametrize("name", ["service_load", "service_soak", "service_overhead"])
def test_its_help_says_what_it_takes(
    benchmark: Any, name: str, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        benchmark(name).main()
    assert ended.value.code == 0
    assert "--out" in capsys.readouterr().out


def test_a_random_model_is_saved_where_it_can_be_served_from(
    benchmark: Any, monkeypatch: Any, scene: Any
) -> None:
    import halu
    from halu.testing.random_models import Size

    shapes, module = benchmark("shapes"), benchmark("service_overhead")
    assert shapes.ON_CPU[shapes.SAVED][0] == "llava"
    monkeypatch.setitem(shapes.ON_CPU, shapes.SAVED, ("llava", Size()))
    assert module.source is shapes.source
    with module.source(module.RANDOM) as folder:
        assert Path(folder).name == module.RANDOM
        assert halu.load(folder).ask(scene, "Is there a dog?", max_new_tokens=2).tokens
    assert not Path(folder).exists()
    with module.source("tiny-llava") as name:
        assert name == "tiny-llava"
