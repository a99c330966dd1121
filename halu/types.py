"""The data that crosses halu's borders: a request in, an answer with its evidence out. No torch
here.

Everything is frozen and refuses unknown keys. A `Request` is complete: the same request gives the
same answer.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

from PIL import Image
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SkipValidation,
    ValidationError,
    field_validator,
    model_validator,
)

from halu.errors import BadInput, Unknown

Model = TypeVar("Model", bound=BaseModel)


OPERATOR: dict[str, Any] = {"operator": True}
"""`json_schema_extra` of a parameter that names files, weights or what must be fetched first: a
service takes it from its operator, never from a client.
"""


def checked(model: type[Model], values: Mapping[str, Any], what: str, prefix: str = "") -> Model:
    """The model with these values.

    Args:
        model: a pydantic model.
        values: by field name.
        what: what a field is called in messages, "parameter of vcd" for example.
        prefix: put before the field's name in the error's `param`.

    Raises:
        Unknown: a field that does not exist; near matches are named.
        BadInput: a value that does not fit; the value is named.
    """
    for key in values:
        if key not in model.model_fields:
            raise Unknown(what, key, model.model_fields, param=prefix + key)
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        reason = said[0].lower() + said[1:]
        text = f"{what.capitalize()} {where}={first['input']!r}: {reason}."
        raise BadInput(text, param=prefix + where) from None


class Record(BaseModel):
    """Frozen, no unknown keys; pictures are allowed as values."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Text(Record):
    """Words in a message."""

    type: Literal["text"] = "text"
    text: str


class Picture(Record):
    """A picture in a message: RGB, already decoded and checked (`halu.images`)."""

    type: Literal["image"] = "image"
    image: Annotated[Image.Image, SkipValidation] = Field(exclude=True, repr=False)


Part = Text | Picture


class Message(Record):
    """One turn of the conversation."""

    role: Literal["system", "user", "assistant"]
    content: tuple[Part, ...]


class Sampling(Record):
    """How a row of scores becomes a token; the same for every strategy, applied after its rule."""

    temperature: float | None = Field(
        None, ge=0, le=5, description="0 takes the best token; none means 0."
    )
    top_p: float = Field(
        1.0, gt=0, le=1, description="Keep the smallest set with this probability."
    )
    top_k: int = Field(0, ge=0, description="Keep this many best tokens; 0 keeps all.")
    repetition_penalty: float = Field(
        1.0, ge=0.1, le=10, description="Divides scores of tokens already seen."
    )
    max_new_tokens: int = Field(256, ge=1, le=32768, description="Most tokens to generate.")
    stop: tuple[str, ...] = Field(
        (), max_length=16, description="Strings that end the answer; not part of it."
    )
    seed: int = Field(
        0, ge=0, lt=2**63, description="Seeds sampling and every random view of this request."
    )
    logprobs: int | None = Field(
        None, ge=0, le=20, description="Report this many best tokens at each step."
    )

    @field_validator("stop", mode="before")
    @classmethod
    def _one_string(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Request(Record):
    """One question to a model, with the strategy that is to answer it."""

    messages: tuple[Message, ...] = Field(min_length=1)
    strategy: str | None = Field(None, description="Registered name; parts joined with '+'.")
    params: dict[str, Any] = Field(default_factory=dict)
    sampling: Sampling = Sampling()
    evidence: Literal["none", "mass", "map"] = "none"

    @property
    def images(self) -> tuple[Image.Image, ...]:
        """Every picture of the conversation, in order."""
        return tuple(
            part.image for m in self.messages for part in m.content if isinstance(part, Picture)
        )


def question(text: str, *images: Image.Image) -> tuple[Message, ...]:
    """The usual one-turn conversation: the pictures first, then the words."""
    parts: tuple[Part, ...] = (*(Picture(image=image) for image in images), Text(text=text))
    return (Message(role="user", content=parts),)


class Heat(Record):
    """Attention mass over one picture's token grid, row by row, top left first; sums to its share
    of the row.
    """

    image: int
    rows: int
    columns: int
    values: tuple[float, ...]


class Evidence(Record):
    """What decoding knows about one token anyway."""

    entropy: float = Field(description="Of the row after the rule, before temperature, in nats.")
    shift: float = Field(
        description="Jensen-Shannon divergence between the model's own row and the rule's, in nats."
    )
    rank: int = Field(description="Rank of the token in the model's own row; 0 is its favourite.")
    mass: dict[str, float] | None = Field(
        None, description="Attention by key group, mean of layers and heads."
    )
    look: tuple[Heat, ...] | None = Field(
        None, description="Where on the pictures the token looked."
    )


class Alternative(Record):
    """A token that could have been said, after the strategy's rule."""

    id: int
    text: str
    logprob: float


class Token(Record):
    """One generated token; `start` and `stop` are character offsets in the answer's text.

    `logprob` and `top` are under the row after the strategy's rule, before temperature and top-p.
    `spelling`, told with them, is the token alone, as in `top`: " Yes" where the text has "Yes".
    """

    id: int
    text: str
    start: int
    stop: int
    logprob: float | None = None
    top: tuple[Alternative, ...] | None = None
    spelling: str | None = None
    evidence: Evidence | None = None


class Usage(Record):
    """What an answer cost. `forwards` counts rows that went through the language model, prefill
    included.
    """

    prompt_tokens: int
    image_tokens: int
    completion_tokens: int
    forwards: int


class Resolved(Record):
    """The strategy that really ran, with every parameter."""

    name: str
    params: dict[str, Any]


class Finding(Record):
    """A stretch of the answer that the picture does not support, as a detector sees it."""

    start: int = Field(ge=0)
    stop: int
    score: float = Field(ge=0, le=1, description="How sure the detector is, as a probability.")
    reason: str = Field(description="For a person.")
    detector: str
    evidence: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="What it rests on: box and crop (left, top, right, bottom in shares of the"
        " picture), similarity, masses, words read, other answers.",
    )

    @model_validator(mode="after")
    def _runs_forward(self) -> "Finding":
        if self.stop < self.start:
            raise ValueError(f"A finding ends at {self.stop}, before it begins at {self.start}.")
        return self


class Answer(Record):
    """What the model said, and how."""

    text: str
    tokens: tuple[Token, ...]
    finish_reason: Literal["stop", "length"]
    usage: Usage
    strategy: Resolved
    findings: tuple[Finding, ...] = ()

    def tokens_of(self, start: int, stop: int) -> tuple[Token, ...]:
        """The tokens that say the characters [start, stop)."""
        first = bisect_right(self.tokens, start, key=lambda token: token.stop)
        last = bisect_left(self.tokens, stop, lo=first, key=lambda token: token.start)
        return tuple(token for token in self.tokens[first:last] if token.stop > token.start)


class Event(Record):
    """One step of a stream: new text and its tokens; `answer` comes with the last event."""

    text: str
    tokens: tuple[Token, ...] = ()
    answer: Answer | None = None


Generate = Callable[[list[Request]], Iterator[tuple[int, Answer]]]
"""Answers a batch of requests, yielding (index in the batch, answer) as each is done."""
