"""Whether a model still runs: asked after an error that may be its device's or one request's own.

What fails for one strategy's bug, or for a picture that is too much, leaves a plain question
unharmed; a device that is gone answers nothing.
"""

from halu.batch import Batched
from halu.service.logs import log, outline
from halu.types import Request, Sampling, question

PROBE = Request(messages=question("Hello?"), strategy="greedy", sampling=Sampling(max_new_tokens=1))


def works(vlm: Batched) -> bool:
    """Whether it says one token, which waits for all that the device has been told to do."""
    try:
        for _ in vlm.run(PROBE):
            pass
    except Exception as error:
        log.error("device fails", extra={"told": {"why": outline(error)}})
        return False
    return True
