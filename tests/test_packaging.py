"""What ships: the wheel has every module and data file and nothing else, and works on its own."""

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath
from shutil import copytree, ignore_patterns

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    "halu": "halu",
    "decoders": "halu/decoders",
    "detectors": "halu/detectors",
    "eval": "halu/eval",
    "service": "halu/service",
}
SHIPPED_MODELS = {"tiny-llava": 25, "tiny-qwen": 25, "tiny-clip": 15}  # largest size in MB
# What `make install` leaves out: a module that needs one may fail to import without it.
NOT_INSTALLED = ("triton", "vllm")

IMPORT_ALL = """
import importlib, sys
sys.meta_path = [f for f in sys.meta_path if "Editable" not in getattr(f, "__name__", "")]
here, absent, *names = sys.argv[1:]
for name in names:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in absent.split(","):
            raise
        continue
    assert module.__file__.startswith(here), module.__file__
ours = [m.__file__ for n, m in sys.modules.items() if n.partition(".")[0] == "halu"]
assert all(file is None or file.startswith(here) for file in ours), ours
print(len(names))
"""


BESIDE = ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "MANIFEST.in")


def copied(tree: Path, *more: str) -> Path:
    """A copy of what halu is built from, and of other folders."""
    for name in (*SOURCES, *more):
        copytree(ROOT / name, tree / name, ignore=ignore_patterns("__pycache__"))
    for name in BESIDE:
        (tree / name).write_bytes((ROOT / name).read_bytes())
    return tree


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing left over from an earlier build can slip in."""
    tree, out = copied(tmp_path_factory.mktemp("tree")), tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", out]
    python("-m", "pip", "wheel", *options, tree)
    (built,) = out.glob("halu-*.whl")
    return built


@pytest.fixture(scope="session")
def files(wheel: Path) -> dict[str, int]:
    """Every file of the wheel and its size in bytes."""
    with zipfile.ZipFile(wheel) as archive:
        return {item.filename: item.file_size for item in archive.infolist() if not item.is_dir()}


def python(*arguments: object, cwd: Path | None = None, **environment: str) -> str:
    """What another interpreter prints; its errors are shown if it fails."""
    command = [sys.executable, *map(str, arguments)]
    env = os.environ | environment
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def in_wheel(path: Path) -> str:
    """Where a file of the tree lies once installed."""
    top, *rest = path.relative_to(ROOT).parts
    return str(PurePosixPath(SOURCES[top], *rest))


def test_every_module_of_the_tree_is_in_the_wheel(files: dict[str, int]) -> None:
    tree = {in_wheel(path) for name in SOURCES for path in (ROOT / name).rglob("*.py")}
    assert {name for name in files if name.endswith(".py")} == tree


def test_every_data_file_of_the_tree_is_in_the_wheel(files: dict[str, int]) -> None:
    tree = {
        in_wheel(path)
        for name in SOURCES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    shipped = {name for name in files if not name.endswith(".py") and name.startswith("halu/")}
    assert shipped == tree
    assert {"halu/py.typed", "halu/scenes/atlas.webp", "halu/scenes/atlas.json"} <= shipped
    assert {"halu/templates/trace.html", "halu/eval/report.html", "halu/eval/report.js"} <= shipped


def test_the_wheel_has_one_root_its_licences_and_no_tests(files: dict[str, int]) -> None:
    roots = Counter(name.partition("/")[0] for name in files)
    (info,) = (root for root in roots if root.endswith(".dist-info"))
    assert set(roots) == {"halu", info}
    for name in ("LICENSE", "NOTICE"):
        assert files[f"{info}/licenses/{name}"] > 0
    assert not [name for name in files if "test_" in name or "conftest" in name]


@pytest.mark.parametrize(("name", "limit"), SHIPPED_MODELS.items())
def test_shipped_models_are_whole_and_small(files: dict[str, int], name: str, limit: int) -> None:
    parts = {PurePosixPath(file).name: size for file, size in files.items() if f"/{name}/" in file}
    if not parts:
        pytest.skip(f"{name} is not in the tree yet")
    assert any(part.endswith(".safetensors") for part in parts)
    assert "README.md" in parts
    assert sum(parts.values()) <= limit * 10**6


@pytest.mark.slow
def test_every_module_imports_from_the_wheel_alone(
    wheel: Path, files: dict[str, int], tmp_path: Path
) -> None:
    options = ["--quiet", "--no-index", "--no-deps", "--target", tmp_path]
    python("-m", "pip", "install", *options, wheel)
    modules = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in files
        if name.endswith(".py") and not name.endswith("__main__.py")
    )
    printed = python(
        "-c",
        IMPORT_ALL,
        tmp_path,
        ",".join(NOT_INSTALLED),
        *modules,
        cwd=tmp_path,  # `python -c` looks there first
        PYTHONPATH=str(tmp_path),
        HF_HUB_OFFLINE="1",
    )
    assert int(printed) == len(modules)


@pytest.mark.slow
def test_every_build_gives_the_same_bytes_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, int]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from dist import build

    built = []
    for number, name in enumerate(("one", "another")):
        tree, out = copied(tmp_path / name / "tree", "tests"), tmp_path / name / "dist"
        for path in tree.rglob("*.py"):
            os.utime(path, (10**9 + number, 10**9 + number))
            path.chmod(0o700 if number else 0o644)
        built.append(build(tree, out, epoch=1_700_000_000))
    assert [path.name for path in built[0]] == [path.name for path in built[1]]
    for first, second in zip(*built, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name
    (source,) = (path for path in built[0] if path.suffix == ".gz")
    with tarfile.open(source) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    there = {str(path.relative_to(ROOT)) for path in tree_files()}
    made = {name for name in packed if name.startswith("halu.egg-info/")}
    assert packed - made == there | {*BESIDE, "PKG-INFO", "setup.cfg"}


def tree_files() -> list[Path]:
    """Every file of the packages."""
    found = (path for name in SOURCES for path in (ROOT / name).rglob("*"))
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def test_importing_halu_is_quick_and_leaves_torch_alone() -> None:
    code = """
import sys, time
start = time.perf_counter()
import halu, halu.types, halu.errors, halu.registry
print(time.perf_counter() - start)
heavy = {"torch", "transformers", "torchvision", "scipy"} & sys.modules.keys()
assert not heavy, heavy
"""
    alone = code.replace(", halu.types, halu.errors, halu.registry", "")
    python("-c", code)
    assert min(float(python("-c", alone)) for _ in range(3)) < 0.3


@pytest.mark.slow
def test_the_installed_wheel_answers_about_a_picture(wheel: Path, tmp_path: Path) -> None:
    """In a fresh environment and an empty folder. No index is asked: what halu needs is lent by the
    environment that the tests run in, without the links by which an editable halu is found.
    """
    home, empty = tmp_path / "home", tmp_path / "empty"
    empty.mkdir()
    python("-m", "venv", "--without-pip", home)
    there = home / "bin" / "python"
    options = ["--quiet", "--no-index", "--no-deps", "--disable-pip-version-check"]
    python("-m", "pip", "--python", there, "install", *options, wheel)
    (site,) = home.glob("lib/python*/site-packages")
    lent = [path for path in sys.path if path.endswith("site-packages")]
    (site / "lent.pth").write_text("\n".join(lent), encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def said(*command: object) -> str:
        own = {"capture_output": True, "text": True, "cwd": empty, "env": env}
        done = subprocess.run([str(part) for part in command], **own)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    where = said(there, "-c", "import halu; print(halu.__file__)").strip()
    assert Path(where) == site / "halu" / "__init__.py"
    picture = empty / "scene.png"
    picture.write_bytes((ROOT / "examples" / "pictures" / "scene.png").read_bytes())
    ask = (home / "bin" / "halu", "ask", "scene.png")
    told = json.loads(said(*ask, "Is there a dog in the image?", "-s", "vcd", "--json"))
    assert told["text"].startswith("Yes")
    assert told["strategy"]["name"] == "vcd"
    assert said(*ask, "Is there an elephant in the image?").startswith("No")


UNPINNED = {
    "triton": "torch pins it itself",
    "mutmut": "for `make mutants` alone, and not in the environment that is tested",
}


def test_extras_name_only_what_constraints_pin() -> None:
    """And the pins lie within what the extras allow."""
    project = pytest.importorskip("tomllib").loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    pins: dict[str, set[str]] = {}
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition(";")[0].strip().partition("==")
            pins.setdefault(canonicalize_name(name), set()).add(version)
    told = []
    for extra, names in {"": project["project"]["dependencies"], **extras}.items():
        for asked in map(Requirement, names):
            name = canonicalize_name(asked.name)
            if name == "halu":
                told += [f"no extra {one}" for one in asked.extras if one not in extras]
            elif name in UNPINNED:
                continue
            elif name not in pins:
                told.append(f"{extra}: {name} is not pinned")
            elif not all(asked.specifier.contains(version) for version in pins[name]):
                told.append(f"{extra}: {asked} is pinned to {pins[name]}")
    assert len(extras) >= 8
    assert not told
    assert not UNPINNED.keys() & pins.keys()
