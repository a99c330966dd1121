"""What clients get: OpenAI's chat completion and its chunks, with our `halu` object beside."""

from typing import Any, Literal, TypedDict

from pydantic import BaseModel, Field

from halu.types import Evidence, Finding, Resolved


class Outgoing(BaseModel):
    """A part of a reply."""


class ErrorDetail(Outgoing):
    """What is wrong, for people and for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(Outgoing):
    """Every refusal, whatever its status."""

    error: ErrorDetail


class TopLogprob(Outgoing):
    """A token that could have been said."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token that was said."""

    top_logprobs: list[TopLogprob] = []


class Logprobs(Outgoing):
    """Of the row after the strategy's rule."""

    content: list[TokenLogprob]
    refusal: None = None


class SeenToken(Outgoing):
    """A token of the answer, where it stands in the text, and what it looked at."""

    text: str
    start: int
    stop: int
    logprob: float | None
    evidence: Evidence | None


class HaluReport(Outgoing):
    """What really ran and what was found."""

    strategy: Resolved
    seed: int
    forwards: int = Field(description="Rows through the language model, prompt included.")
    image_tokens: int
    findings: list[Finding] | None = Field(
        None, description="Of the detectors that were asked for, and of the strategy itself."
    )
    tokens: list[SeenToken] | None = Field(None, description="If evidence was asked for.")


class PromptDetails(Outgoing):
    """Of the prompt's tokens."""

    cached_tokens: int = 0
    image_tokens: int


class UsageReply(Outgoing):
    """Tokens, over all choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Said(Outgoing):
    """The model's turn."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(Outgoing):
    """One answer; `halu` from the second on, the first one's is the completion's own."""

    index: int
    message: Said
    finish_reason: Literal["stop", "length"]
    logprobs: Logprobs | None = None
    halu: HaluReport | None = None


class Completion(Outgoing):
    """`POST /v1/chat/completions` without stream."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: UsageReply
    system_fingerprint: str
    halu: HaluReport


class Comparison(Outgoing):
    """`POST /v1/compare` without stream: a choice for each strategy, in order, each with `halu`."""

    id: str
    object: Literal["chat.comparison"] = "chat.comparison"
    created: int
    model: str
    choices: list[Choice]
    usage: UsageReply
    system_fingerprint: str


class Delta(TypedDict, total=False):
    """What a chunk adds."""

    role: Literal["assistant"]
    content: str


class ChunkChoice(TypedDict):
    """One answer's part of a chunk."""

    index: int
    delta: Delta
    finish_reason: Literal["stop", "length"] | None
    logprobs: Logprobs | None


class Chunk(TypedDict, total=False):
    """One event of a stream; `halu` is about its choice, or about choice `index` of its own. Made
    once a token, so a plain dictionary.
    """

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: UsageReply | None
    halu: dict[str, Any]


class ModelCard(Outgoing):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "halu"


class ModelList(Outgoing):
    """`GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Catalogue(Outgoing):
    """Strategies or detectors with their parameters as JSON Schema."""

    object: Literal["list"] = "list"
    data: list[dict[str, Any]]


class DetectReply(Outgoing):
    """`POST /v1/detect`."""

    object: Literal["detection"] = "detection"
    findings: list[Finding]


class Health(Outgoing):
    """`ok`, or why not."""

    status: str


class Version(Outgoing):
    """What runs."""

    version: str
    torch: str
    transformers: str
    python: str
