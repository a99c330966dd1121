"""The service's benchmarks at their smallest: what they load is there, what they make is served."""

import importlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
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
    monkeypatch.setitem(shapes.MADE, shapes.RANDOM, Size())
    assert module.source is shapes.source
    with module.source(module.RANDOM) as folder:
        assert Path(folder).name == module.RANDOM
        assert halu.load(folder).ask(scene, "Is there a dog?", max_new_tokens=2).tokens
    assert not Path(folder).exists()
    with module.source("tiny-llava") as name:
        assert name == "tiny-llava"


SHORT = {
    "service_load": ("--seconds", "0.5", "--times", "2", "--places", "2"),
    "service_soak": ("--minutes", "0.01", "--clients", "2"),
    "service_overhead": ("--rounds", "1", "--tokens", "8"),
    "service_fuzz": ("--inputs", "200"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_a_result_says_how_it_was_made(
    benchmark: Any, name: str, monkeypatch: Any, tmp_path: Path, served: Any, capsys: Any
) -> None:
    import torch

    import halu

    module, process = benchmark(name), benchmark("service_process")
    server = process.Server(served.url, SimpleNamespace(pid=os.getpid()))
    monkeypatch.setattr(module, "serving", lambda *_: nullcontext(server), raising=False)
    out = tmp_path / "new" / "result.json"
    options = [*SHORT[name], "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [f"somewhere/{name}.py", *options])
    module.main()
    found = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == found
    assert found["command"] == shlex.join(["python", f"benchmarks/{name}.py", *options])
    assert found["device"] == process.device()
    assert found["versions"] == {"torch": torch.__version__, "halu": halu.__version__}
    assert len(found) > 4
