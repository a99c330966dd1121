"""The code blocks of the documentation, fenced and indented, and why some are only read."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "recipes").glob("*.md")),
]
SHELL = ("sh", "bash", "shell", "console")

_FENCE = re.compile(
    r"(?:<!-- not run: (?P<why>[^>]+?) -->\n\s*)?"
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```",
    re.DOTALL | re.MULTILINE,
)
_INDENTED = re.compile(
    r"(?:<!-- not run: (?P<why>[^>]+?) -->\n)?\n(?P<text>(?:    [^\n]+\n|\n(?=    ))+)"
)
_DIRECTIVE = re.compile(r"^:::[^\n]*\n(?:    [^\n]+\n)*", re.MULTILINE)
_COMMAND = re.compile(r"[\w./]*(halu|make|pip|python3?|curl)\s|[A-Z_]+=\S+ ")
_PYTHON = re.compile(r"(import|from|class|def) |@")


@dataclass(frozen=True)
class Block:
    """One block: its place, its language ("" where the page tells none), why it is not run."""

    page: Path
    line: int
    language: str
    text: str
    why: str = ""

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Every block of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        own = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        line = text.count("\n", 0, match.start("text")) + 1
        found.append(Block(page, line, match["language"], own, match["why"] or ""))
    bare = _DIRECTIVE.sub(_blanked, _FENCE.sub(_blanked, text))
    for match in _INDENTED.finditer(bare):
        own = re.sub(r"^    ", "", match["text"].lstrip("\n"), flags=re.MULTILINE)
        line = text.count("\n", 0, match.end("text")) - own.count("\n") + 1
        language = "sh" if _COMMAND.match(own) else "python" if _PYTHON.match(own) else ""
        found.append(Block(page, line, language, own, match["why"] or ""))
    return sorted(found, key=lambda block: block.line)


def _blanked(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", "", match[0])


def commands(block: Block) -> list[str]:
    """The command lines of a shell block, prompts, comments and continuations removed."""
    lines = re.sub(r" && ", "\n", block.text.replace("\\\n", " ")).splitlines()
    lines = [re.sub(r"\s+#.*", "", line).strip().removeprefix("$ ") for line in lines]
    return [line.removeprefix(".venv/bin/") for line in lines if line and line[0] != "#"]


# Why a command is read by its parser and not run, or Python only compiled, by what it names.
LATER = {
    r"\bBENCHMARK\b|\bNAME\b|\bMODEL\b|\s\.\.\.": "says the form, not a call",
    r"--backend vllm|backend=\"vllm\"|from ray |VLLM_\w+=": "needs vLLM",
    r"(llava-hf|Qwen)/": "needs weights",
    r"--data |--annotations |--questions |data check ": "needs other people's files",
    r"--judge ": "needs a judge",
    r"runs/(pope|chair|coco)/": "needs other people's files",
}


def reason(text: str) -> str:
    """Why this is not run; empty if it is."""
    return next((why for what, why in LATER.items() if re.search(what, text)), "")
