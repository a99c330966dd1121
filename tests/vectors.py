"""Stored cases: inputs, and what the methods' released code made of them."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

DATA = Path(__file__).parent / "data" / "parity"


class Vectors:
    """The cases of one folder: `id`, `task`, `params`, `tolerance` and a file of arrays each."""

    def __init__(self, folder: str = "") -> None:
        self.folder = DATA / folder
        self.cases = json.loads((self.folder / "manifest.json").read_text())["cases"]
        self.tasks = {case["task"] for case in self.cases}

    def of(self, *tasks: str) -> Any:
        """Parametrises `case` with the cases of these tasks; none: with all."""
        found = [case for case in self.cases if case["task"] in (tasks or self.tasks)]
        assert found
        return pytest.mark.parametrize("case", found, ids=[case["id"] for case in found])

    def stored(self, case: dict[str, Any]) -> SimpleNamespace:
        """The arrays of a case by name, `in_` and `out_` included."""
        with np.load(self.folder / case["file"], allow_pickle=False) as data:
            return SimpleNamespace(**{key: torch.from_numpy(data[key]) for key in data.files})

    def assert_complete(self) -> None:
        """Every file is there, and belongs to a case."""
        named = {case["file"] for case in self.cases if "file" in case}
        assert named == {path.name for path in self.folder.glob("*.npz")}
