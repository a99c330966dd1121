"""What a detector is: an answer and its pictures in, findings on the answer's characters out.

It changes no token and knows no strategy. Here are the interface, the registry, and the two ways to
run detectors: on an answer with all that decoding knows of it (`find`), and on any text about a
picture (`detect`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from halu.conversation import question_of
from halu.errors import BadInput, Unsupported
from halu.images import ImageLike, open_images
from halu.registry import Registry
from halu.types import Answer, Finding, Generate, Request, Resolved, Usage, checked
from halu.types import question as turn
from halu.values import with_parameters

Images = Sequence[Image.Image]
Kind = Literal["trace", "picture", "model"]
Detectors = Sequence["str | Detector"] | Mapping[str, Mapping[str, Any]]
"""Names, configured detectors, or names with parameters."""
LOOKS: dict[str, Any] = {"looks": True}
"""The mark of a parameter that names detectors, whose own parameters may be an operator's."""
Lookers = Annotated[
    tuple[Annotated[str, Field(max_length=4096)], ...],
    Field(min_length=1, max_length=8),
    BeforeValidator(lambda given: (given,) if isinstance(given, str) else given),
]
"""The parameter by which a strategy is told who looks at the picture, each as `"objects"` or
`"objects:finders=open"`; `lookers` reads it.
"""


class DetectorParams(BaseModel):
    """Parameters of a detector: every field bounded and described; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float = Field(0.5, ge=0, le=1, description="Least score of a finding.")


@dataclass(frozen=True, slots=True)
class DetectorContext:
    """What a detector may know besides an answer and its pictures.

    Attributes:
        request: what was answered.
        generate: answers requests with the same model.
        model: the model's name, for what was calibrated for single models.
    """

    request: Request | None = None
    generate: Generate | None = None
    model: str = ""

    @property
    def question(self) -> str:
        """The words that were answered; empty if not known."""
        if self.request is None or all(m.role != "user" for m in self.request.messages):
            return ""
        return question_of(self.request.messages)


class Detector(ABC):
    """A way to tell what of an answer the picture does not support. Holds parameters, and nothing
    of single answers.

    Attributes:
        name: registered name.
        kind: what it rests on: the trace of decoding, the picture, or the model's other answers.
        judges: claims about objects, or quoted words.
        paper: the arXiv number of the idea, if it was published.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    judges: ClassVar[Literal["objects", "quoted words"]] = "objects"
    paper: ClassVar[str] = ""

    class Params(DetectorParams):
        """Only the threshold."""

    @property
    def reads_trace(self) -> bool:
        """Whether it reads what decoding knows of each token, where that is there."""
        return self.kind == "trace"

    @property
    def samples(self) -> int:
        """How many further answers it has the model give."""
        return 0

    def __init__(self, params: DetectorParams | None = None) -> None:
        self.params: Any = params if params is not None else self.Params()

    def __call__(
        self, answer: Answer, images: Images, asked: DetectorContext | None = None
    ) -> list[Finding]:
        """Findings in order of place; none for an empty text.

        Raises:
            Unsupported: if it needs what is not given: a picture, evidence, a model.
            Unavailable: if an extra or weights are missing.
        """
        if not answer.text.strip():
            return []
        if self.kind == "picture" and not images:
            raise Unsupported(f"Detector {self.name!r} needs a picture.", param="detectors")
        found = self.judge(answer, images, asked or DetectorContext())
        kept = [finding for finding in found if finding.score >= self.params.threshold]
        return sorted(kept, key=lambda finding: (finding.start, finding.stop))

    @abstractmethod
    def judge(self, answer: Answer, images: Images, asked: DetectorContext) -> Iterable[Finding]:
        """A finding for each claim that it has an opinion on, however low its score."""

    @classmethod
    def configured(cls, values: Mapping[str, Any]) -> "Detector":
        """The detector with these parameters.

        Raises:
            Unknown: if a parameter does not exist; near matches are named.
            BadInput: if a value is out of range.
        """
        return cls(checked(cls.Params, values, f"parameter of {cls.name}", "detectors."))


detectors: Registry[type[Detector]] = Registry("detector", "halu.detectors", "halu.detectors")


def chosen(names: Detectors) -> tuple[Detector, ...]:
    """The detectors that are named, each once.

    Raises:
        Unknown: a detector or parameter that does not exist; near matches are named.
        BadInput: a parameter out of range, or a name given twice.
    """
    if isinstance(names, str):
        raise BadInput(f"Detectors are a list, not {names!r}.", param="detectors")
    if isinstance(names, Mapping):
        return tuple(detectors.get(name).configured(own) for name, own in names.items())
    found = [one if isinstance(one, Detector) else detectors.get(one)() for one in names]
    if len({one.name for one in found}) < len(found):
        raise BadInput("A detector is named twice.", param="detectors")
    return tuple(found)


def lookers(texts: Sequence[str], strategy: str) -> tuple[Detector, ...]:
    """The detectors with which a strategy looks at the picture; they tell whatever they measure.

    Raises:
        Unknown: a detector or parameter that does not exist; near matches are named.
        BadInput: a parameter out of range, or a threshold, which is the strategy's own.
        Unsupported: a detector that rests on something else.
    """
    found = []
    for name, values in map(with_parameters, texts):
        if "threshold" in values:
            raise BadInput(
                f"Strategy {strategy!r} has thresholds of its own; {name!r} takes none here.",
                param="params.detectors",
            )
        one = detectors.get(name).configured({**values, "threshold": 0.0})
        if one.kind != "picture":
            raise Unsupported(
                f"Strategy {strategy!r} looks at the picture; {one.name!r} does not.",
                param="params.detectors",
            )
        found.append(one)
    return tuple(found)


def find(
    answer: Answer, images: Images, using: Sequence[Detector], asked: DetectorContext | None = None
) -> list[Finding]:
    """What all these detectors find, in order of place; their own order plays no part."""
    return in_order(finding for one in using for finding in one(answer, images, asked))


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Findings of several detectors in order of place."""
    return sorted(findings, key=lambda one: (one.start, one.stop, one.detector, -one.score))


def detect(
    image: ImageLike | Sequence[ImageLike],
    text: str,
    detectors: Detectors = ("clip",),
    *,
    question: str = "",
) -> list[Finding]:
    """Which words of a text, whoever wrote it, the picture does not support.

    Args:
        image: a picture, a path to one, or several.
        text: what is said of it, in English; other languages make no claims.
        detectors: names as in `halu list detectors`, or names with parameters.
        question: what the text answers, if anything.

    Raises:
        HaluError: for a picture that cannot be used, an unknown detector, or one that needs more
            than a text and a picture.
    """
    images = open_images(image)
    request = Request(messages=turn(question, *images)) if question else None
    return find(stated(text), images, chosen(detectors), DetectorContext(request))


def stated(text: str) -> Answer:
    """A text that nothing but its words is known of, as an answer."""
    none = Usage(prompt_tokens=0, image_tokens=0, completion_tokens=0, forwards=0)
    return Answer(
        text=text,
        tokens=(),
        finish_reason="stop",
        usage=none,
        strategy=Resolved(name="", params={}),
    )
