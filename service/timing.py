"""When what happened to a task, told to the histograms."""

import time

from halu.batch import Work
from halu.service.metrics import Metrics
from halu.service.tasks import Task
from halu.types import Event


def started(metrics: Metrics, task: Task, job: Work) -> None:
    """Its plan is made and its prompts have been read."""
    task.started = task.last = time.monotonic()
    labels = metrics.labels(task.model, job.chosen.resolved.name)
    metrics.queue.labels(**labels).observe(task.begun - task.arrived)
    metrics.prefill.labels(**labels).observe(task.started - task.begun)


def heard(metrics: Metrics, task: Task, job: Work, event: Event) -> None:
    """It has said something."""
    now = time.monotonic()
    if task.last != task.started and task.each is not None:
        task.each.observe((now - task.last) / max(1, len(event.tokens)))
    else:
        labels = metrics.labels(task.model, job.chosen.resolved.name)
        metrics.first_token.labels(**labels).observe(now - task.arrived)
        task.each = metrics.each_token.labels(**labels)
    task.last = now
    if event.answer is not None:
        labels = metrics.labels(task.model, job.chosen.resolved.name)
        metrics.whole.labels(**labels).observe(now - task.arrived)
        metrics.decode.labels(**labels).observe(now - task.started)
        metrics.answered(task.model, event.answer)
