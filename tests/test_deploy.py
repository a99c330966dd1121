"""What `deploy/` and the pages tell people to start is there."""

import ast
import json
import re
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
TEXTS = (*sorted((ROOT / "deploy").iterdir()), ROOT / "docs" / "vllm.md")
NAMED = re.compile(r"\bhalu\.vllm\.([a-z0-9_]+)[.:]([A-Z]\w+)")


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_classes_that_are_named_are_there(path: Path) -> None:
    for module, name in NAMED.findall(path.read_text(encoding="utf-8")):
        tree = ast.parse((ROOT / "halu" / "vllm" / f"{module}.py").read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def engine() -> list[str]:
    """The arguments of the Kubernetes manifest's engines."""
    documents: list[Any] = list(yaml.safe_load_all((ROOT / "deploy" / "vllm.yaml").read_text()))
    (deployment,) = (one for one in documents if one["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    plugins = {one["name"]: one.get("value") for one in container["env"]}["VLLM_PLUGINS"]
    points = distribution("halu").entry_points
    known = {point.name for point in points if point.group.startswith("vllm.")}
    assert set(plugins.split(",")) == known
    arguments: list[str] = container["args"]
    return arguments


def test_the_manifest_starts_engines_as_the_page_says() -> None:
    page = (ROOT / "docs" / "vllm.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"VLLM_PLUGINS=\S+ (vllm serve (?:.*\\\n)*.*)", page)
    wanted = set(re.findall(r"--(?:\S+ halu\.\S+|\S+)", command.replace("\\\n", " ")))
    wanted = {one.replace(" ", "=") for one in wanted} - {"--served-model-name"}
    assert wanted <= set(engine())


def test_the_manifests_settings_are_settings() -> None:
    pytest.importorskip("pydantic_settings")
    from halu.service.settings import Settings
    from halu.vllm.settings import settings_of

    (given,) = (one for one in engine() if one.startswith("--additional-config="))
    found = settings_of(json.loads(given.partition("=")[2]))
    assert found.service.keys() <= Settings.model_fields.keys()
