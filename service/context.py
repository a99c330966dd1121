"""Whether a request fits into a model's context: first by its words alone, which is cheap and comes
before anything is run, then exactly.
"""

from halu.engine import Local
from halu.errors import BadInput
from halu.job import Job
from halu.types import Request, Text


def check_words(vlm: Local, request: Request) -> None:
    """Refuses a text that alone is too long.

    Raises:
        BadInput: with the model's limit.
    """
    tokenizer = vlm.adapter.tokenizer
    texts = [p.text for m in request.messages for p in m.content if isinstance(p, Text)]
    count = sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    _check(vlm, count, request)


def check_prompt(vlm: Local, job: Job) -> None:
    """Refuses a prompt that with its answer is too long.

    Raises:
        BadInput: with the model's limit.
    """
    _check(vlm, max(len(prompt.ids) for prompt in job.prompts), job.request)


def _check(vlm: Local, prompt: int, request: Request) -> None:
    most = context(vlm)
    tokens = request.sampling.max_new_tokens
    if prompt + tokens > most:
        raise BadInput(
            f"The model's context is {most} tokens; the prompt has {prompt}, and max_tokens is"
            f" {tokens}.",
            param="messages",
            code="context_length_exceeded",
        )


def context(vlm: Local) -> int:
    """Tokens that a model can tell the places of."""
    found: int = vlm.adapter.model.config.text_config.max_position_embeddings
    return found
