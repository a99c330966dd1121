"""What clients send: OpenAI's chat request as far as it has a meaning here, and our `halu` object.

Fields that OpenAI has and we do not know are ignored, as clients expect; in our own object an
unknown name is an error, so that a mistyped option never passes silently. Fields that would change
the answer and cannot be honoured are refused unless they have their neutral value.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

Detail = Literal["auto", "low", "high", "original"]
MOST_LETTERS = 200
"""Of a strategy's name, its parts joined."""
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class Incoming(BaseModel):
    """Frozen; unknown fields are kept apart."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def well_formed(document: Any) -> Any:
    """Refuses half characters: JSON can escape them, but no text has them and no tokenizer takes
    them.
    """
    left = [document]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, list):
            left += one
        elif isinstance(one, str) and not one.isascii() and not _encodes(one):
            raise ValueError("a text has half of a surrogate pair")
    return document


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class ImageUrl(Incoming):
    """Where a picture is: a data URI, or an address where the server allows that."""

    url: str = Field(min_length=1, examples=["data:image/png;base64,iVBORw0KGgo..."])
    detail: Detail | None = Field(None, description="low: at most 512 pixels a side.")


class ImagePart(Incoming):
    """A picture in a message."""

    type: Literal["image_url"]
    image_url: ImageUrl

    @field_validator("image_url", mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value


class TextPart(Incoming):
    """Words in a message."""

    type: Literal["text"]
    text: str


def _kind(part: Any) -> Any:
    return part.get("type") if isinstance(part, dict) else getattr(part, "type", None)


Part = Annotated[
    Annotated[TextPart, Tag("text")] | Annotated[ImagePart, Tag("image_url")],
    Discriminator(
        _kind,
        custom_error_type="unknown_part",
        custom_error_message="only parts of type text and image_url are taken",
    ),
]
Content = Annotated[
    Annotated[str, Tag("words")] | Annotated[list[Part], Tag("parts")],
    Discriminator(lambda value: "words" if isinstance(value, str) else "parts"),
]


class ChatMessage(Incoming):
    """One turn; `developer` counts as `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None

    @model_validator(mode="after")
    def _pictures_come_from_users(self) -> "ChatMessage":
        if self.role != "user" and any(part.type == "image_url" for part in self.parts):
            raise ValueError("only the user shows pictures")
        return self

    @property
    def parts(self) -> list[TextPart | ImagePart]:
        """The content as parts."""
        if isinstance(self.content, str):
            return [TextPart(type="text", text=self.content)]
        return self.content or []


Checks = Annotated[
    tuple[Annotated[str, Field(max_length=500)], ...],
    Field(
        description="Names, or NAME:KEY=VALUE; see /v1/detectors.",
        examples=[["clip", "objects:threshold=0.3"]],
    ),
]
"""Which detectors look at the answer."""


class Options(BaseModel):
    """Ours: how to decode, what to check, what to report."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: str | None = Field(
        None, max_length=MOST_LETTERS, description="Registered name; parts joined with '+'."
    )
    params: dict[str, Any] = Field(
        default_factory=dict, description="The strategy's parameters; see /v1/strategies."
    )
    detectors: Checks = ()
    evidence: bool | Literal["none", "mass", "map"] = Field(
        False, description="What each token looked at; true: with a heat map of each picture."
    )


class StreamOptions(Incoming):
    """What a stream carries besides text."""

    include_usage: bool | None = None


class Conversation(Incoming):
    """What chat and comparison share."""

    model: str = Field(min_length=1, max_length=500, examples=["tiny-llava", "tiny-llava@vcd"])
    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, description="None or 0: greedy.")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=2**31)
    repetition_penalty: float | None = Field(None, ge=0.1, le=10)
    stop: str | list[str] | None = Field(None, description="Up to four strings.")
    seed: Seed | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    logprobs: bool | None = Field(
        None, description="Of the row after the strategy's rule, before temperature and top-p."
    )
    top_logprobs: int | None = Field(None, ge=0, le=20)
    user: str | None = None

    # Would change the answer; only their neutral values are taken.
    logit_bias: dict[str, float] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None

    @field_validator("stop")
    @classmethod
    def _few_stops(cls, value: str | list[str] | None) -> list[str]:
        stops = [value] if isinstance(value, str) else value or []
        if len(stops) > 4 or any(not 1 <= len(stop) <= 200 for stop in stops):
            raise ValueError("at most four strings of 1 to 200 characters")
        return stops

    @field_validator("logit_bias", "presence_penalty", "frequency_penalty", "tools", "functions")
    @classmethod
    def _not_here(cls, value: Any) -> Any:
        if value:
            raise ValueError("is not supported")
        return value

    @field_validator("response_format")
    @classmethod
    def _only_text(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value and value.get("type") != "text":
            raise ValueError("only text is supported")
        return value

    @field_validator("modalities")
    @classmethod
    def _only_words(cls, value: list[str] | None) -> list[str] | None:
        if value and value != ["text"]:
            raise ValueError("only text is supported")
        return value

    _well_formed = model_validator(mode="before")(well_formed)

    @model_validator(mode="after")
    def _agree(self) -> "Conversation":
        both = (self.max_tokens, self.max_completion_tokens)
        if None not in both and both[0] != both[1]:
            raise ValueError("max_tokens and max_completion_tokens disagree; give one of them")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self


class ChatRequest(Conversation):
    """`POST /v1/chat/completions`."""

    n: int | None = Field(None, ge=1)
    halu: Options = Options()

    @field_validator("halu", mode="before")
    @classmethod
    def _nothing_asked(cls, value: Any) -> Any:
        return {} if value is None else value


class Arm(BaseModel):
    """One strategy of a comparison."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    strategy: str = Field(max_length=MOST_LETTERS)
    params: dict[str, Any] = Field(default_factory=dict)


class CompareRequest(Conversation):
    """`POST /v1/compare`: one question, several strategies."""

    strategies: list[Arm] = Field(
        min_length=1, examples=[["greedy", {"strategy": "vcd", "params": {"alpha": 0.5}}]]
    )
    detectors: Checks = ()
    evidence: bool | Literal["none", "mass", "map"] = False

    @field_validator("strategies", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        if not isinstance(value, list):
            return value
        return [{"strategy": one} if isinstance(one, str) else one for one in value]


class DetectRequest(BaseModel):
    """`POST /v1/detect`: which words of a text the picture does not support."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: ImageUrl
    text: str = Field(description="What was said about the picture.")
    question: str = Field("", description="What the text answers, if anything.")
    detectors: Checks = Field(min_length=1)

    _well_formed = model_validator(mode="before")(well_formed)

    @field_validator("image", mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value
