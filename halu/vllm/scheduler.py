"""vLLM's scheduler for requests of several branches: `--scheduler-cls
halu.vllm.scheduler.Coupled`.

Branches are ordinary requests. They come in together, and a row that the runner dropped, because
another branch had none in that step, is read again in a later one. When a branch ends, the others
do, and whoever asked is told why.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from vllm.v1.core.sched.output import NewRequestData, SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.outputs import LogprobsLists
from vllm.v1.request import Request, RequestStatus

from halu.errors import HaluError
from halu.vllm import internals
from halu.vllm.asked import FORWARDS, Asked, read
from halu.vllm.choosing import Likely
from halu.vllm.door import Door
from halu.vllm.groups import Group, Groups
from halu.vllm.internals import check, lacking
from halu.vllm.settings import settings_of

LEFT = "Another branch of the same request has ended."
LATE = "The other branches of this request have not come."
STALLED = 2
"""Steps with nothing but dropped rows after which halves make room."""


class Coupled(Scheduler):  # type: ignore[misc]  # vLLM has no types here
    """vLLM's scheduler, branches admitted together."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _check_internals()
        super().__init__(*args, **kwargs)
        own = settings_of(self.vllm_config.additional_config)
        self.halu_groups = Groups(patience=own.patience_seconds)
        self.halu_failed: dict[str, str] = {}
        self.halu_idle = 0
        self.halu_door: Door | None = None

    def add_request(self, request: Any) -> None:
        """Takes a request in; what is wrong with it is told in the next step."""
        super().add_request(request)
        params, name = request.sampling_params, request.request_id
        try:
            asked = read(params.extra_args if params is not None else None)
        except HaluError as error:
            self.halu_failed[name] = str(error)
            return
        if asked is None:
            return
        request.halu_steers = asked.steers
        why = self._unfit(request, asked)
        if asked.group:
            group = self.halu_groups.add(asked.group, len(asked.branches), name, request)
            why = why or self._too_large(group)
        if why is not None:
            self.halu_failed[name] = why

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """The next step; requests that wait in vain end first."""
        if self.halu_groups:
            self.halu_failed |= dict.fromkeys(self.halu_groups.late(), LATE)
        if self.halu_idle >= STALLED:
            self._make_room()
        self.halu_door = None
        return super().schedule(*args, **kwargs)

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """What the step came to: dropped rows are to be read again, failed requests end."""
        if not (
            hasattr(model_runner_output, "halu_dropped") or self.halu_failed or self.halu_groups
        ):
            return super().update_from_output(scheduler_output, model_runner_output)
        dropped = getattr(model_runner_output, "halu_dropped", {})
        failed = {**self.halu_failed, **getattr(model_runner_output, "halu_failed", {})}
        self.halu_failed = {}
        for name, count in dropped.items():
            request = self.requests.get(name)
            if request is not None and request.status == RequestStatus.RUNNING:
                request.num_computed_tokens = max(0, request.num_computed_tokens - count)
        scheduled = len(scheduler_output.num_scheduled_tokens)
        self.halu_idle = self.halu_idle + 1 if 0 < len(dropped) == scheduled else 0
        found = super().update_from_output(scheduler_output, model_runner_output)
        said = [one for outputs in found.values() for one in outputs.outputs]
        _count(said, getattr(model_runner_output, "halu_forwards", {}))
        _tell(said, getattr(model_runner_output, "halu_likely", {}))
        over = {one.request_id: LEFT for one in said if one.finish_reason is not None}
        failed = {**self.halu_groups.drop(over), **failed}
        self._end(failed, found)
        return found

    def finish_requests(self, request_ids: Any, finished_status: Any) -> Any:
        """Ends requests from outside; the other branches end with the next step."""
        ended = super().finish_requests(request_ids, finished_status)
        left = self.halu_groups.drop({request.request_id: LEFT for request in ended})
        self.halu_failed = {**left, **self.halu_failed}
        return ended

    def _handle_blocked_waiting_request(self, request: Any) -> bool:
        if not super()._handle_blocked_waiting_request(request):
            return False
        group = self.halu_groups.of(request.request_id)
        members = [request] if group is None else list(group.members.values())
        if any(one.request_id in self.halu_failed for one in members):
            return False
        door = self._door()
        if not door.admits(request.request_id):
            return False
        if any(one.request_id in door.inside for one in members) or self._has_room(members):
            return True
        door.shut = True
        return False

    def _door(self) -> Door:
        """Whom this step lets in; it is told who has come in since it was last asked."""
        if self.halu_door is None:
            self.halu_door = Door(self.halu_groups, self.max_num_running_reqs)
        door = self.halu_door
        door.enter(one.request_id for one in self.running[len(door.inside) :])
        return door

    def _has_room(self, members: Sequence[Any]) -> bool:
        """Whether this step can read the prompts of a request at once, if policies act on them and
        any step could.
        """
        if not any(getattr(one, "halu_steers", False) for one in members):
            return True
        most = left = self.max_num_scheduled_tokens
        for one in self.running:
            left -= min(left, one.num_tokens_with_spec - one.num_computed_tokens)
        needed = sum(one.num_tokens for one in members)
        return bool(needed <= left or needed > most)

    def has_requests(self) -> bool:
        """Whether there is anything to do, telling failures included."""
        return bool(self.halu_failed) or bool(super().has_requests())

    def _unfit(self, request: Any, asked: Asked) -> str | None:
        """Why a request can never run here."""
        if asked.steers and self.cache_config.enable_prefix_caching and not request.cache_salt:
            return "A strategy that changes keys and values needs a cache_salt of its own."
        if asked.group and len(asked.branches) > self.max_num_running_reqs:
            return f"{len(asked.branches)} branches need as many slots (--max-num-seqs)."
        return None

    def _too_large(self, group: Group) -> str | None:
        """Why the branches of a request, once all have come, cannot be in the cache together."""
        if not group.whole:
            return None
        tokens = [
            min(one.num_prompt_tokens + (one.max_tokens or 0), self.max_model_len)
            for one in group.members.values()
        ]
        blocks = sum(-(-count // self.block_size) for count in tokens)
        there = self.kv_cache_config.num_blocks - 1  # one is vLLM's own
        if blocks <= there:
            return None
        return (
            f"{group.size} branches of up to {max(tokens)} tokens need {blocks} blocks of the"
            f" cache; it has {there}."
        )

    def _make_room(self) -> None:
        """Sends all halves back whose partners wait, but those of the oldest request."""
        running = {request.request_id for request in self.running}
        halves = []
        for request in self.running:
            group = self.halu_groups.of(request.request_id)
            if group is not None and not all(name in running for name in group.members):
                halves.append((group, request))
        oldest = min((group for group, _ in halves), key=lambda one: one.since, default=None)
        for group, request in halves:
            if group is not oldest:
                self.running.remove(request)
                self._preempt_request(request, 0.0)
        self.halu_idle = 0

    def _end(self, failed: dict[str, str], found: dict[int, Any]) -> None:
        """Ends requests and tells those who asked."""
        alive = {name: why for name, why in failed.items() if name in self.requests}
        ended: Iterable[Any] = super().finish_requests(set(alive), RequestStatus.FINISHED_ERROR)
        self.halu_failed |= self.halu_groups.drop(alive)
        for request in ended:
            told = found.setdefault(request.client_index, EngineCoreOutputs())
            told.outputs.append(
                EngineCoreOutput(
                    request_id=request.request_id,
                    new_token_ids=[],
                    finish_reason=FinishReason.ERROR,
                    stop_reason=alive[request.request_id],
                )
            )


def _check_internals() -> None:
    check(
        lacking(Scheduler, internals.SCHEDULER, internals.SCHEDULER_FIELDS),
        lacking(Request, fields=internals.REQUEST),
        lacking(RequestStatus, fields=internals.STATUS),
        lacking(SchedulerOutput, fields=internals.STEP),
        lacking(NewRequestData, fields=internals.NEW),
        lacking(EngineCoreOutputs, fields=internals.OUTPUTS),
        lacking(EngineCoreOutput, fields=internals.OUTPUT),
    )


def _count(said: Iterable[EngineCoreOutput], forwards: Mapping[str, int]) -> None:
    """Adds what each request has cost to what is said to it, in the one field of vLLM's outputs
    that takes any document.
    """
    for one in said:
        if one.request_id in forwards:
            known = {FORWARDS: forwards[one.request_id]}
            one.kv_transfer_params = {**(one.kv_transfer_params or {}), **known}


def _tell(said: Iterable[EngineCoreOutput], likely: Mapping[str, Likely]) -> None:
    """Puts the log-probabilities of halu's tokens in place of those of vLLM's."""
    for one in said if likely else ():
        if one.request_id in likely and one.new_token_ids:
            ids, values, rank = likely[one.request_id]
            one.new_logprobs = LogprobsLists(
                np.array([ids]), np.array([values], dtype=np.float32), np.array([rank])
            )
