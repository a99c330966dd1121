"""Whether a request fits into a model's context: first by its words alone, which is cheap and comes
before anything is run, then exactly.
"""

from halu.batch import Batched, Work, check_room
from halu.types import Request, Text


def check_words(vlm: Batched, request: Request) -> None:
    """Refuses a text that alone is too long.

    Raises:
        BadInput: with the model's limit.
    """
    tokenizer = vlm.tokenizer
    texts = [p.text for m in request.messages for p in m.content if isinstance(p, Text)]
    count = sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    _check(vlm, count, request)


def check_prompt(vlm: Batched, job: Work) -> None:
    """Refuses a prompt that with its answer is too long.

    Raises:
        BadInput: with the model's limit.
    """
    _check(vlm, max(len(prompt.ids) for prompt in job.prompts), job.request)


def _check(vlm: Batched, prompt: int, request: Request) -> None:
    check_room(prompt, request.sampling.max_new_tokens, vlm.context)
