"""What folders of benchmarks with a fixed list of files hold: AMBER, HallusionBench, MMHal-Bench,
VaLLu, TextHalu-Bench.

Every missing file is named at once, with where its authors publish it. Parts of a benchmark that
can be used without the others are checked alone.
"""

from dataclasses import dataclass
from pathlib import Path

from halu.errors import HaluError
from halu.eval import amber, hallusion_files, mmhal, tagging, texthalu, vallu, wordnet
from halu.eval import folder as files
from halu.eval.benchmark import benchmarks
from halu.eval.data_check import Finding, checks


@dataclass(frozen=True, slots=True)
class Part:
    """What some splits (all, if none are named) need: files by any of their names, each with where
    it is published.
    """

    needed: tuple[tuple[tuple[str, ...], str], ...]
    splits: tuple[str, ...] = ()
    called: str = ""


@dataclass(frozen=True, slots=True)
class FileCheck:
    """Checks the folder of one benchmark, part by part; `pictures` tells where those are had."""

    benchmark: str
    parts: tuple[Part, ...]
    pictures: str

    def __call__(self, folder: Path) -> list[Finding]:
        """Name what is missing, or count the samples of each part that lacks no file."""
        return [finding for part in self.parts for finding in self._part(folder, part)]

    def _part(self, folder: Path, part: Part) -> list[Finding]:
        missing = [
            Finding("missing", f"{part.called}{names[0]}", where)
            for names, where in part.needed
            if not files.lies_in(folder, *names)
        ]
        if missing:
            return missing
        try:
            samples = benchmarks.get(self.benchmark).samples(folder, None, 0, part.splits or None)
        except files.Missing as error:
            return [Finding("missing", f"{part.called}{error.message}", self.pictures)]
        except HaluError as error:
            return [Finding("wrong", f"{part.called}{error.message}", error.hint)]
        return [Finding("fine", f"{part.called}{len(samples)} samples")]


_AMBER = "It is in junyangwang0410/AMBER, data/."
_QUERIES = "It is in junyangwang0410/AMBER, data/query/."
_NLTK = "It is among the data packages that NLTK publishes."
_HALLUSION = "It is in tianyi-lab/HallusionBench."
_MMHAL = "It is in the authors' data set Shengcao1006/MMHal-Bench on the Hugging Face hub."
_VALLU = "The VDGD repository, Sreyan88/VDGD, names it; it has not been found published."
_JUDGED = "It is in Sreyan88/VDGD, gpt_evaluations/."
_TEXT = "It is in the authors' data set LinYuanMo/TextHalu-Bench on the Hugging Face hub."

_DESCRIPTIONS = (
    (("relation.json",), _AMBER),
    (("safe_words.txt",), _AMBER),
    *((names, _NLTK) for names in (tagging.PUNKT, tagging.TAGGER, (wordnet.ARCHIVE,))),
)
_YES_NO = ((amber.ANNOTATIONS, _AMBER), ((amber.QUERIES,), _QUERIES))

_CHECKS = (
    FileCheck(
        "amber",
        (
            Part(_YES_NO, amber.SPLITS[1:], "yes/no questions: "),
            Part(_DESCRIPTIONS, (amber.GENERATIVE,), "descriptions: "),
        ),
        "The README of junyangwang0410/AMBER says where its pictures are.",
    ),
    FileCheck(
        "mmhal",
        (Part((((mmhal.QUESTIONS,), _MMHAL), ((mmhal.SCRIPT,), _MMHAL))),),
        "They are in the same data set, Shengcao1006/MMHal-Bench.",
    ),
    FileCheck(
        "vallu",
        (Part(((vallu.QUESTIONS, _VALLU), ((vallu.SCRIPT,), _JUDGED))),),
        "They belong to the benchmarks that VaLLu draws on, which Sreyan88/VDGD names.",
    ),
    FileCheck(
        "textualhalu",
        (Part(tuple((names, _TEXT) for names in texthalu.FILES.values())),),
        "They are in the same data set, LinYuanMo/TextHalu-Bench.",
    ),
    *(
        FileCheck(
            name,
            (Part((((hallusion_files.QUESTIONS,), _HALLUSION),)),),
            "The README of tianyi-lab/HallusionBench says where its pictures are.",
        )
        for name in ("hallusionbench", "hallusionbench-official")
    ),
)

for _check in _CHECKS:
    checks.register(_check.benchmark)(_check)
