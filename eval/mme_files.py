"""MME from the official folders: fourteen tasks, two questions a picture.

The questions end in "Please answer yes or no." as they are. Nothing is downloaded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from halu.eval import folder as files
from halu.eval.benchmark import Sample, benchmarks, chosen
from halu.eval.mme import TASKS, Mme
from halu.eval.mme_questions import read_questions, samples_of, task_folders

_HINT = "Put MME's task folders there (existence, count and so on)."


@dataclass(frozen=True, slots=True)
class MmeFiles(Mme):
    """The official questions; each task is a split."""

    name: str = "mme"
    about: str = "Fourteen tasks, two questions a picture; official folders (MME, arXiv:2306.13394)"
    builtin: bool = False
    splits: tuple[str, ...] = TASKS

    def samples(
        self, data: Path | None, limit: int | None, seed: int, splits: Sequence[str] | None
    ) -> list[Sample]:
        """List the questions of each task in turn.

        Raises:
            BadInput: for missing files or pictures, or a malformed line.
        """
        folder = files.needed(data, self.name, _HINT)
        lines = read_questions(folder)
        found: list[Sample] = []
        for task in chosen(list(lines), splits):
            own = samples_of({task: lines[task]})
            own = own if limit is None else own[: limit + limit % 2]
            found += own
            names = [(sample.image or "").partition("/")[2] for sample in own]
            files.check_pictures(folder, names, places(folder, task))
        return found

    def picture(self, image: str, data: Path | None) -> Image.Image:
        """Open a picture; its id is the task and the file name.

        Raises:
            BadImage: if it is missing, truncated or not a picture.
        """
        folder = files.needed(data, self.name, _HINT)
        task, _, name = image.partition("/")
        return files.open_picture(folder, name, places(folder, task))


@lru_cache(maxsize=64)
def places(folder: Path, task: str) -> tuple[str, ...]:
    """List where a task's pictures may be."""
    own = task_folders(folder).get(task, folder / task).relative_to(folder)
    return (str(own), str(own / "images"), f"images/{task}", "images", "")


benchmarks.register("mme")(MmeFiles())
