"""What a hallucination-mitigation method is: parameters in, a plan out.

A plan makes three decisions and nothing else: which branches run beside the main one, how attention
is steered, and how the branches' rows of scores become one row. Everything else exists once,
elsewhere.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from halu.attention.policy import AttentionPolicy
from halu.prompt import Prompt
from halu.registry import Registry
from halu.search import Pick, Search
from halu.types import Message, Request, checked
from halu.views import ImageView, PixelView

Kind = Literal["decoding", "attention", "logits", "image", "prompt", "control"]


Mode = Annotated[
    Literal["paper", "official"], Field(description="As described, or as the released code does.")
]
"""Whose arithmetic a strategy follows where a paper and its released code disagree."""


class StrategyParams(BaseModel):
    """Parameters of a strategy: every field bounded and described; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, slots=True)
class Paper:
    """Where a method was published."""

    short: str
    arxiv: str
    venue: str


@dataclass(frozen=True, slots=True)
class Branch:
    """What one context runs on.

    Attributes:
        name: unique within the plan; `rows[name]` in a rule.
        prompt: the encoded prompt.
        steered: whether the plan's attention policies act here too; a branch that is subtracted
            stays as it is.
        policies: attention policies of this branch alone.
        messages: its conversation, if that is not the request's.
    """

    name: str
    prompt: Prompt
    steered: bool = True
    policies: tuple["PolicyMaker", ...] = ()
    messages: tuple[Message, ...] | None = None


@dataclass(frozen=True, slots=True)
class Tap:
    """What the output head says of an earlier layer: of the residual stream that enters layer
    `layer` (so 0 is the embeddings), with or without the final norm.
    """

    layer: int
    normed: bool = True


@dataclass(frozen=True, slots=True)
class Step:
    """One decoding step as a rule sees it.

    Attributes:
        index: how many tokens have been generated before.
        rows: raw scores [V] of each branch in float32, the main one's under "main".
        tokens: the tokens generated so far.
        early: scores [V] in float32 that earlier layers of the main branch give, for the plan's
            taps.
    """

    index: int
    rows: Mapping[str, Tensor]
    tokens: Sequence[int]
    early: Mapping[Tap, Tensor] = dataclasses.field(default_factory=dict)

    @property
    def main(self) -> Tensor:
        """The main branch's scores [V]."""
        return self.rows["main"]


Rule = Callable[[Step], Tensor]
"""Scores of all branches to one row [V]; a token at -inf cannot be chosen. Temperature and top-p
come after it.
"""


def keep_main(step: Step) -> Tensor:
    """The rule of plain decoding."""
    return step.main


PolicyMaker = Callable[[Prompt], AttentionPolicy]
"""Makes the attention policy of one branch from its prompt."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a strategy decides, for one request."""

    main: Branch
    extra: tuple[Branch, ...] = ()
    rule: Rule = keep_main
    policies: tuple[PolicyMaker, ...] = ()
    search: Search = dataclasses.field(default_factory=Pick)
    taps: tuple[Tap, ...] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """What a branch says by plain greedy decoding.

    Attributes:
        tokens: token ids, the one that ended it included.
        text: the tokens as text, special tokens left out.
    """

    tokens: tuple[int, ...]
    text: str


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a strategy may know of the model: `name`, `family` (transformers' model type), sizes,
    and whether the output head shares the input embeddings' weights (`tied`).
    """

    name: str
    family: str
    layers: int
    heads: int
    kv_heads: int
    hidden: int
    tied: bool = False

    @property
    def shape(self) -> tuple[str, int, int, int]:
        """What tells one base model from another: family, hidden size, layers, key heads."""
        return self.family, self.hidden, self.layers, self.kv_heads


class Context(Protocol):
    """What a strategy may ask while it plans one request."""

    @property
    def request(self) -> Request:
        """The request."""

    @property
    def main(self) -> Branch:
        """The branch of plain decoding."""

    @property
    def model(self) -> ModelFacts:
        """The model."""

    @property
    def rng(self) -> torch.Generator:
        """A generator of this request and strategy alone (CPU), seeded by the request."""

    def branch(
        self,
        name: str,
        *,
        image: ImageView | None = None,
        pixels: PixelView | None = None,
        messages: tuple[Message, ...] | None = None,
        blind: bool = False,
        words: str | Sequence[str] | None = None,
        opened: bool = False,
        steered: bool = True,
        policies: tuple[PolicyMaker, ...] = (),
    ) -> Branch:
        """Another branch of the request.

        Args:
            name: unique within the plan.
            image: view of each picture before the image processor.
            pixels: view of the normalised pixels after it.
            messages: another conversation instead.
            blind: drop the pictures.
            words: text in the place of each picture, the same or one for each.
            opened: begin the words with the tokenizer's start token, if it has one.
            steered: whether the plan's attention policies act here too.
            policies: attention policies of this branch alone.
        """

    def prefill(self, branch: Branch, policies: Sequence[AttentionPolicy] = ()) -> Tensor:
        """Runs a branch's prompt once, beside decoding, and returns its row [V]; the policies may
        record.
        """

    def class_attention(self, prompt: Prompt, layers: Sequence[int]) -> Tensor:
        """What the vision tower's class token looks at [pictures, layers, patches]: for the first
        grid of each picture the probabilities in these layers of the tower, summed over heads; -1
        is the last layer.

        Raises:
            Unsupported: if the tower has no class token or too few layers, or if the pixels are not
                known.
        """

    def say(
        self,
        branch: Branch,
        max_new_tokens: int,
        policies: Sequence[AttentionPolicy] = (),
        each: Callable[[Tensor], None] | None = None,
    ) -> Said:
        """What a branch says by plain greedy decoding, beside the request's own; the policies may
        record, and `each` hears the raw scores [V] that each token is taken from.
        """

    def after(self, branches: Sequence[Branch], tokens: Sequence[int]) -> Tensor:
        """Runs branches that go on with an answer so far, all in one forward, beside decoding, and
        returns their rows [n, V].
        """

    def text(self, tokens: Sequence[int]) -> str:
        """Generated tokens as text, special tokens left out."""


class Strategy(ABC):
    """A method. Holds its parameters and no per-request state; that lives in what `plan` returns.

    Attributes:
        name: registered name.
        kind: where it acts.
        paper: its source.
        needs_image: refuse requests without a picture.
        off: parameters that switch the method off, so that its rows equal plain decoding.
        rewrites: whether the plan's main branch runs on another conversation. Such a part is
            planned first, and the others see its conversation as the request's.
        takes_back: whether its search may take tokens back, so that none has evidence of its own.
    """

    name: ClassVar[str]
    kind: ClassVar[Kind]
    paper: ClassVar[Paper]
    needs_image: ClassVar[bool] = True
    off: ClassVar[dict[str, Any] | None] = None
    rewrites: ClassVar[bool] = False
    takes_back: ClassVar[bool] = False

    class Params(StrategyParams):
        """No parameters."""

    def __init__(self, params: StrategyParams | None = None) -> None:
        self.params: Any = params if params is not None else self.Params()

    @abstractmethod
    def plan(self, ctx: Context) -> Plan:
        """The plan for one request."""

    @classmethod
    def configured(cls, values: Mapping[str, Any]) -> "Strategy":
        """The strategy with these parameters.

        Raises:
            Unknown: if a parameter does not exist; near matches are named.
            BadInput: if a value is out of range.
        """
        return cls(checked(cls.Params, values, f"parameter of {cls.name}", "params."))


strategies: Registry[type[Strategy]] = Registry("strategy", "halu.decoders", "halu.strategies")
