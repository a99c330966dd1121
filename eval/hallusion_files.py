"""HallusionBench from the authors' files: `HallusionBench.json` and the folder `hallusion_bench`.

Each object has `category` (VD: needs the figure; VS: the figure adds to what is known),
`subcategory`, `set_id`, `figure_id`, `question_id`, `question`, `gt_answer` ("1" is yes),
`gt_answer_details`, `visual_input` ("0": asked without a figure) and `filename`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from PIL import Image

from halu.errors import BadInput
from halu.eval import folder as files
from halu.eval.benchmark import Sample, benchmarks, chosen
from halu.eval.hallusion import NO_FIGURE, Hallusion, Variant, Verdict, ask_judge, read_words
from halu.eval.judge import Judge
from halu.eval.records import Entry, read_entries

QUESTIONS = "HallusionBench.json"
_PLACES = ("", "hallusion_bench", "images", "images/hallusion_bench")
_HINT = f"It must hold {QUESTIONS} and its pictures, such as hallusion_bench/VD/illusion/0_0.png."


@dataclass(frozen=True, slots=True)
class HallusionFiles(Hallusion):
    """The official questions, under the rule of its name; `category` is such as "VD_illusion"."""

    name: str = "hallusionbench"
    about: str = "Yes/no questions on figures and altered ones (HallusionBench, arXiv:2310.14566)"
    splits: tuple[str, ...] = ("test",)
    version: int = 1
    rules: str = "vlmevalkit"
    builtin: bool = False
    judged: bool = False
    judge: Judge | None = None
    suffix: str = ""
    max_new_tokens: int = 128

    def with_judge(self, judge: Judge) -> "HallusionFiles":
        """Return the same benchmark; a judged one is scored by this judge."""
        if not self.judged:
            return self
        return replace(self, judge=judge, rules=f"{self.rules}, judge {judge.model}")

    def samples(
        self, data: Path | None, limit: int | None, seed: int, splits: Sequence[str] | None
    ) -> list[Sample]:
        """List the questions in the order of the file, without a judge only those with a figure.

        Raises:
            BadInput: for missing files or pictures, or a malformed entry.
        """
        folder = files.needed(data, self.name, _HINT)
        wanted = chosen(self.splits, splits)
        asked = read_questions(files.file(folder, QUESTIONS), with_figure=not self.judged)
        return counted(files.limited(folder, asked, wanted, limit, _PLACES))

    def picture(self, image: str, data: Path | None) -> Image.Image:
        """Open a figure by its path below `hallusion_bench`."""
        return files.open_picture(files.needed(data, self.name, _HINT), image, _PLACES)

    def verdict(self, sample: Sample, text: str) -> tuple[Verdict, str | tuple[str, ...]]:
        """Read the answer, or have the judge do it."""
        if not self.judged:
            return read_words(sample, text)
        said = ask_judge(self.judge, self.name, sample, text)
        return said, (said,)


def read_questions(path: Path, with_figure: bool) -> list[Sample]:
    """Read the official file, all of it or only the questions that have a figure.

    Raises:
        BadInput: naming the entry, if one is malformed or occurs twice.
    """
    found: dict[str, Sample] = {}
    for entry in read_entries(path):
        sample = read_question(entry)
        if sample.id in found:
            raise BadInput(f"{entry.where}: question {sample.id} occurs twice.")
        found[sample.id] = sample
    return [s for s in found.values() if s.image is not None or not with_figure]


def counted(samples: Sequence[Sample]) -> list[Sample]:
    """Tell each sample how many variants of its question there are."""
    places = [(sample.cluster, _variant(sample).question) for sample in samples]
    there = Counter(places)
    return [
        replace(sample, detail=replace(_variant(sample), variants=there[place]))
        for sample, place in zip(samples, places, strict=True)
    ]


def read_question(entry: Entry) -> Sample:
    """Read one object; how many variants its question has is not known yet."""
    kind, topic = entry.text("category"), entry.text("subcategory")
    figure, question = _number(entry, "figure_id"), _number(entry, "question_id")
    label = {"1": "yes", "0": "no"}.get(entry.text("gt_answer"))
    if label is None:
        raise BadInput(f"{entry.where}: 'gt_answer' is neither 1 nor 0.")
    group = f"{kind}_{topic}_{_number(entry, 'set_id')}"
    no_figure = kind == "VS" and figure == 0
    return Sample(
        id=f"{group}_{figure}_{question}",
        split="test",
        image=_image(entry, kind, topic),
        prompt=entry.text("question"),
        label=label,
        category=f"{kind}_{topic}",
        detail=Variant(
            NO_FIGURE if no_figure else figure, question, 1, entry.text("gt_answer_details")
        ),
        cluster=group,
    )


def _variant(sample: Sample) -> Variant:
    assert isinstance(sample.detail, Variant)
    return sample.detail


def _image(entry: Entry, kind: str, topic: str) -> str | None:
    if entry.text("visual_input") == "0":
        return None
    return f"{kind}/{topic}/{PurePosixPath(entry.text('filename')).name}"


def _number(entry: Entry, key: str) -> int:
    text = entry.text(key)
    if not (text.isascii() and text.isdigit()):
        raise BadInput(f"{entry.where}: {key!r} is not a number: {text!r}.")
    return int(text)


benchmarks.register("hallusionbench")(HallusionFiles())
benchmarks.register("hallusionbench-official")(
    HallusionFiles(name="hallusionbench-official", rules="official", judged=True)
)
