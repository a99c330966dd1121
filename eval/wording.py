"""A judge's official instructions, read out of its authors' script.

Figures compare only if judges were told the same, and the text belongs to its authors. So it is
read from the script in the user's data folder. The script is parsed, never run.
"""

import ast
from pathlib import Path

from halu.errors import BadInput


def texts(script: Path, *names: str) -> list[str]:
    """Return the texts that the top level of a Python file assigns to `names`.

    Raises:
        BadInput: if the file is not Python, or assigns no text to one of them.
    """
    try:
        tree = ast.parse(script.read_text("utf-8-sig"))
    except (OSError, SyntaxError, ValueError) as error:
        raise BadInput(f"{script} is not a Python script.", param="data") from error
    found = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    if missing := [name for name in names if name not in found]:
        raise BadInput(f"{script} sets no text {missing[0]!r}.", param="data")
    return [found[name] for name in names]
