"""The house keeps its own rules: import arrows, names; and the README tells the truth."""

import ast
import re

from arrows import PACKAGES, ROOT, code_files, imports, modules, within
from shape import SCRIPTS

# What each part may import of halu, besides itself. The longest prefix that fits a module counts.
MAY_IMPORT = {
    "halu.errors": "",
    "halu.types": "errors",
    "halu.registry": "errors",
    "halu.layout": "",
    "halu.images": "errors",
    "halu.scenes": "errors",
    "halu.attention": "errors layout types",
    "halu.adapters": (
        "attention errors hub layout models prompt strategy tally torchvision_shim types"
    ),
    "halu.grounding": "errors hub models scenes torchvision_shim",
    "halu.decoders": (
        "attention claims constants conversation correcting detector drafting endpoint errors"
        " finishing grounding labelling layers layout prompt regions retrieval rules search"
        " strategy types views"
    ),
    "halu.claims": "grounding.nouns",
    "halu.detector": "conversation errors images registry types values",
    "halu.labelling": "claims detector",
    "halu.logistic": "claims detector errors folder types",
    "halu.detectors": "claims detector errors grounding logistic types",
    "halu.eval": (
        "claims detector endpoint engine errors examining images registry scenes types vlm weights"
    ),
    "halu.service": (
        "batch catalogue detector engine errors examining images models planning strategy tally"
        " types values vllm weights"
    ),
}
# Nobody below these imports them.
TOP = ("halu.cli", "halu.eval", "halu.service", "halu.decoders", "halu.detectors", "halu.testing")
MAY_IMPORT_TOP = {
    "halu.catalogue": ("halu.eval", "halu.detectors"),  # through their registries
    "halu.cli": ("halu.eval", "halu.service", "halu.detectors"),
    "halu.calibration": ("halu.eval",),  # labelled pictures, and how answers are read
    "halu.__main__": ("halu.cli",),
}
# Libraries that live in one place.
ONLY_IN = {
    "transformers": ("halu.adapters", "halu.grounding", "halu.testing", "halu.training"),
    "triton": ("halu.attention.triton",),
    "open_clip": ("halu.grounding", "halu.training"),
    "fastapi": ("halu.service",),
    "openai": ("halu.endpoint",),
    "vllm": ("halu.vllm",),
}
WITHOUT_TORCH = ("halu.types", "halu.errors", "halu.registry", "halu.scenes", "halu.eval")

NAMES_THAT_SAY_NOTHING = {"base", "common", "helper", "helpers", "misc", "util", "utils"}
CLASSES_THAT_SAY_NOTHING = ("Helper", "Helpers", "Manager", "Util", "Utils")


def against_the_arrows(name: str, target: str) -> str:
    """Why module `name` must not import `target`; empty if it may."""
    part = max((part for part in MAY_IMPORT if within(name, part)), key=len, default=None)
    if part is not None:
        allowed = [part, *(f"halu.{each}" for each in MAY_IMPORT[part].split())]
        fine = not within(target, "halu") or any(within(target, each) for each in allowed)
        return "" if fine else f"{part} may import {MAY_IMPORT[part] or 'nothing of halu'}"
    above = next((top for top in TOP if within(target, top) and not within(name, top)), None)
    user = next((user for user in MAY_IMPORT_TOP if within(name, user)), "")
    fine = above is None or above in MAY_IMPORT_TOP.get(user, ())
    return "" if fine else f"{above} is not imported from below"


def out_of_place(name: str, target: str) -> str:
    """Why a library must not be imported in module `name`, itself or through one of ours."""
    first, last = target.partition(".")[0], target.rpartition(".")[2]
    if any(within(name, each) for each in WITHOUT_TORCH) and "torch" in (first, last):
        return "no torch here"
    for library, homes in ONLY_IN.items():
        through = last == library and target not in modules()
        if (first == library or through) and not name.startswith(homes):
            return f"{library} belongs in {' or '.join(homes)}"
    return ""


def test_imports_follow_the_arrows() -> None:
    told = [
        f"{path.relative_to(ROOT)}:{found.line}: imports {found.target}; {why}"
        for name, path in modules().items()
        for found in imports(path)
        for why in (against_the_arrows(name, found.target), out_of_place(name, found.target))
        if why
    ]
    assert not told, "\n".join(told)


def test_a_strategy_is_one_file() -> None:
    for path in code_files("decoders"):
        siblings = [i.target for i in imports(path) if within(i.target, "halu.decoders")]
        assert not siblings, f"{path.name} imports {siblings}"


def test_names_say_what_a_thing_is() -> None:
    told = []
    for path in code_files(*PACKAGES, *SCRIPTS, "tests"):
        if NAMES_THAT_SAY_NOTHING & {path.stem.lower(), path.parent.name.lower()}:
            told.append(str(path.relative_to(ROOT)))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and node.name.endswith(CLASSES_THAT_SAY_NOTHING):
                told.append(f"{path.relative_to(ROOT)}:{node.lineno}: class {node.name}")
    assert not told, "\n".join(told)


def test_no_page_installs_the_other_halu_of_pypi() -> None:
    """`pip install halu` and `halu[clip]` would fetch a project that is not this one."""
    named = re.compile(r"\bhalu\[[a-z]|pip3? install[^`\n]*[ '\"]halu\b")
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")]
    assert len(pages) > 20
    told = [str(page) for page in pages if named.search(page.read_text(encoding="utf-8"))]
    assert not told
