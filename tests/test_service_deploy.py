"""Files with which operators start the service: what can be read off them, as none runs here."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"


def drain_seconds() -> float:
    pytest.importorskip("pydantic_settings")
    from halu.service.settings import Settings

    return float(Settings.model_fields["drain_seconds"].default)


@pytest.fixture(scope="module")
def dockerfile() -> list[tuple[str, str]]:
    """Instruction and argument of every line, continued lines joined."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    joined = re.sub(r"\\\n", " ", text)
    lines = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2]) for line in lines]


def copied(dockerfile: list[tuple[str, str]]) -> list[str]:
    own = [rest for word, rest in dockerfile if word == "COPY" and not rest.startswith("--from")]
    return [source for rest in own for source in rest.split()[:-1]]


def test_the_image_gets_everything_that_a_build_needs(dockerfile: list[tuple[str, str]]) -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    folders = {
        folder.split("/")[0] for folder in project["tool"]["setuptools"]["package-dir"].values()
    }
    assert folders <= set(copied(dockerfile))
    assert all((ROOT / source).exists() for source in copied(dockerfile))
    assert project["project"]["readme"] in copied(dockerfile)
    (extras,) = re.findall(r"'\.\[(.*?)\]'", " ".join(rest for _, rest in dockerfile))
    assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])


def test_the_builds_context_is_what_is_copied(dockerfile: list[tuple[str, str]]) -> None:
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == set(copied(dockerfile))


def test_the_image_runs_as_nobody_in_particular_and_drains(
    dockerfile: list[tuple[str, str]],
) -> None:
    found = dict(dockerfile)
    assert found["USER"] == "halu"
    assert found["STOPSIGNAL"] == "SIGTERM"
    assert (found["ENTRYPOINT"], found["CMD"]) == ('["halu"]', '["serve"]')
    environment = dict(pair.split("=", 1) for pair in found["ENV"].split())
    pytest.importorskip("pydantic_settings")
    from halu.service.settings import Settings

    own = {name[5:].lower() for name in environment if name.startswith("HALU_")}
    assert own == {"host", "api_key_file"}
    assert own <= set(Settings.model_fields)


def test_compose() -> None:
    yaml = pytest.importorskip("yaml")
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    (service,) = yaml.safe_load(text)["services"].values()
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    assert float(service["stop_grace_period"].removesuffix("s")) > drain_seconds()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert [volume.split(":")[1:] for volume in service["volumes"]] == [["/etc/halu", "ro"]]


def unit() -> Any:
    found = configparser.RawConfigParser(strict=False)
    found.optionxform = str
    found.read(DEPLOY / "halu.service", encoding="utf-8")
    return found


def test_the_unit_gives_a_drain_its_time() -> None:
    service = unit()["Service"]
    assert float(service["TimeoutStopSec"]) > drain_seconds()
    assert service["KillSignal"] == "SIGTERM"
    assert service["ExecStart"].split()[1:] == ["serve", "--config", "/etc/halu/halu.toml"]
    assert service["NoNewPrivileges"] == "yes"


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_the_unit_is_one(tmp_path: Path) -> None:
    text = (DEPLOY / "halu.service").read_text(encoding="utf-8")
    file = tmp_path / "halu.service"
    file.write_text(text.replace("/opt/halu/bin/halu", sys.executable), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(file)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
