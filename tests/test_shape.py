"""Files and functions stay small, imports go one way, and what is waved through has a reason."""

import re
from pathlib import Path

import pytest
from arrows import PACKAGES, ROOT, arrows, code_files, layers, parts
from shape import (
    FUNCTION_LIMIT,
    PAGE,
    SCRIPTS,
    File,
    length,
    stale,
    typed,
)

WAVED = re.compile(r"# (type: ignore|noqa|pragma: no cover)(\[[\w, -]+\]|: \w+(, ?\w+)*)?")


def test_files_and_functions_stay_small() -> None:
    told = []
    for file in map(File, code_files(*PACKAGES, *SCRIPTS)):
        if file.lines > file.limit:
            told.append(f"{file.name}: {file.lines} lines, at most {file.limit}")
        told += [
            f"{file.name}:{each.lineno}: {each.name} {length(each)} lines, at most {FUNCTION_LIMIT}"
            for each in file.functions
            if length(each) > FUNCTION_LIMIT
        ]
    assert not told, "\n".join(told)


def test_every_argument_has_a_type() -> None:
    told = [
        f"{file.name}:{function.lineno}: {function.name}"
        for file in map(File, code_files(*PACKAGES, *SCRIPTS))
        for function in file.functions
        if not all(typed(function))
    ]
    assert not told, "\n".join(told)


def test_imports_between_parts_go_one_way() -> None:
    levels = list(layers(parts(arrows())))  # raises where they go in a circle
    assert "halu.errors" in levels[0]
    assert levels[-1] == ["halu.__main__"]


def test_a_circle_of_imports_is_named() -> None:
    with pytest.raises(ValueError, match="b, c"):
        list(layers({"a": set(), "b": {"a", "c"}, "c": {"b"}}))


def unexplained(path: Path) -> list[int]:
    """Lines on which a check is waved through without a word, there or in the line above."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = []
    for number, line in enumerate(lines, 1):
        waved = WAVED.search(line)
        above = number > 1 and lines[number - 2].lstrip().startswith("# ")
        if waved and not above and not re.match(r"\s+# \w", line[waved.end() :]):
            found.append(number)
    return found


def test_what_a_checker_is_told_to_ignore_has_a_reason() -> None:
    told = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in code_files(*PACKAGES, *SCRIPTS, "tests")
        if path != Path(__file__)  # shows how it looks
        for number in unexplained(path)
    ]
    assert not told, "\n".join(told)


@pytest.mark.parametrize(
    ("line", "fine"),
    [
        ("x = f()  # type: ignore[arg-type]", False),
        ("x = f()  # type: ignore[arg-type]  # their stub is wrong", True),
        ("import x  # noqa: E402", False),
        ("import x  # noqa: E402  # after apply()", True),
        ("# told in the line above\nimport x  # noqa: E402", True),
        ("if x:  # pragma: no cover", False),
        ("if x:  # pragma: no cover  # needs a GPU", True),
    ],
)
def test_a_reason_is_recognised(line: str, fine: bool, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(line, encoding="utf-8")
    assert bool(unexplained(tmp_path / "a.py")) is not fine


def test_written_figures_may_lag_by_a_tenth() -> None:
    assert not stale("| halu | 100 lines, 3.0 |", "| halu | 109 lines, 4.0 |")
    assert stale("| halu | 100 lines |", "| halu | 130 lines |")
    assert stale("| halu | 100 lines |", "| halo | 100 lines |")
    assert stale("| halu | 100 lines |", "| halu | 100 lines |\n| eval | 10 lines |")


def test_contributing_tells_the_shape() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("<!-- generated: shape -->") == 1
    assert re.search(r"\| `halu.decoders` \| \d+ \| \d+ \|", text)
