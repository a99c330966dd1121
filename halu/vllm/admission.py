"""What vLLM asks before a request reaches its engine: `--logits-processors
halu.vllm.admission:Admission`.

vLLM lets the parameters of a request be checked by its logits processors, and answers with 400 and
the reason. This one does nothing else. Both model runners have an interface of their own, and take
a class only if it is theirs, so that it is one of both.
"""

from typing import Any

from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.v1.sample.logits_processor import LogitsProcessor as First
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as Second

from halu.errors import HaluError
from halu.vllm.checking import check


class Admission(First, Second):  # type: ignore[misc]  # vLLM has no types here
    """Refuses what cannot be read or planned, whatever its prompt is."""

    def __init__(self, *args: Any) -> None:
        pass

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Checks one request.

        Raises:
            VLLMValidationError: why it is refused.
        """
        try:
            check(sampling_params)
        except HaluError as error:
            raise VLLMValidationError(str(error), parameter=error.param) from None

    def is_argmax_invariant(self) -> bool:
        """It changes nothing."""
        return True

    def update_state(self, batch_update: Any) -> None:
        """It has no state."""

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        """It has nothing to do with any."""
        return False

    def apply(self, logits: Any, *context: Any) -> Any:
        """The scores as they are."""
        return logits
