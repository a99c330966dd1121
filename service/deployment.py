"""What stands behind the routes: models on their devices, workers, places, pictures, counters."""

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from halu.batch import Batched
from halu.engine import load
from halu.errors import BadInput
from halu.service.checking import Checks
from halu.service.fetch import Fetch, Policy
from halu.service.intake import Intake
from halu.service.limits import House
from halu.service.metrics import Metrics
from halu.service.preflight import check_detectors, check_models, check_strategies, check_telemetry
from halu.service.settings import Settings
from halu.service.shelf import Load, Served, Shelf, dealt
from halu.service.worker import Worker
from halu.vllm import load_served


@dataclass(slots=True)
class Deployment:
    """One server's parts; `start` before requests come, `stop` after the last."""

    settings: Settings
    metrics: Metrics
    house: House
    intake: Intake
    checks: Checks
    models: dict[str, Served]
    workers: dict[str | None, Worker]

    def worker(self, model: Served) -> Worker:
        """Who runs a model."""
        return self.workers[model.device]

    def start(self) -> None:
        """Starts the threads and has the first model of each device loaded."""
        for worker in self.workers.values():
            worker.start()
            worker.shelf.take(next(iter(worker.shelf.models)), busy=())

    def stop(self) -> None:
        """Ends the threads after their current steps, and what the models hold."""
        for worker in self.workers.values():
            worker.stop()
        for worker in self.workers.values():
            if worker.is_alive():
                worker.join(timeout=10)
            for vlm in worker.shelf.loaded.values():
                vlm.close()

    @property
    def alive(self) -> bool:
        """Whether every worker works."""
        return not any(worker.dead for worker in self.workers.values())

    @property
    def ready(self) -> str:
        """Why requests should go elsewhere; "ok" if they should not."""
        if self.house.closing:
            return "draining"
        if not self.alive:
            return "engine down"
        if not all(worker.shelf.warm for worker in self.workers.values()):
            return "loading"
        return "ok"


def deployment(
    settings: Settings,
    load_model: Load | None = None,
    offered: Mapping[str | None, Sequence[Served]] | None = None,
) -> Deployment:
    """The parts, as the settings want them; nothing runs yet.

    Args:
        settings: what the operator decided.
        load_model: how a model comes into memory; by default `halu.load`.
        offered: the models by device; by default the settings' dealt to the settings' devices.

    Raises:
        HaluError: settings that name what is not there: a model, a strategy, a network.
    """
    check_telemetry(settings)
    check_strategies(settings)
    check_detectors(settings)
    if load_model is None:
        check_models(settings)
    metrics = Metrics(settings.backend)
    by_device = offered or dealt(settings.models, settings.device)
    bring = load_model or partial(_load, settings)
    workers = {
        device: Worker(
            _shelves(models, bring, settings.memory_gib),
            metrics,
            max_rows=settings.max_rows,
            max_rows_per_request=settings.max_rows_per_request,
        )
        for device, models in by_device.items()
    }
    _watch(metrics, tuple(workers.values()))
    return Deployment(
        settings=settings,
        metrics=metrics,
        house=House(settings.max_requests),
        intake=_intake(settings, metrics),
        checks=Checks(metrics),
        models={model.name: model for models in by_device.values() for model in models},
        workers=workers,
    )


def _watch(metrics: Metrics, workers: Sequence[Worker]) -> None:
    """The gauges of all devices together, as they stand when somebody asks."""
    most = sum(worker.max_rows for worker in workers)
    metrics.running.set_function(lambda: sum(worker.running for worker in workers))
    metrics.waiting.set_function(lambda: sum(len(worker.waiting) for worker in workers))
    metrics.rows.set_function(lambda: sum(worker.rows for worker in workers))
    metrics.full.set_function(lambda: sum(worker.rows for worker in workers) / most)


def _shelves(
    models: Sequence[Served], bring: Load, gib: float | None
) -> Callable[[Callable[[], None]], Shelf]:
    limit = None if gib is None else int(gib * 2**30)
    return lambda ready: Shelf(models, bring, limit, ready)


def _load(settings: Settings, source: str, device: str | None) -> Batched:
    if settings.backend == "vllm":
        return load_served(source, device=device, dtype=settings.dtype, options=settings.vllm)
    found = load(
        source,
        device=device,
        dtype=settings.dtype,
        graphs=settings.graphs,
        feature_cache_mib=settings.feature_cache_mib,
    )
    assert isinstance(found, Batched)
    return found


def _intake(settings: Settings, metrics: Metrics) -> Intake:
    try:
        networks = tuple(ipaddress.ip_network(text) for text in settings.remote_networks)
    except ValueError:
        raise BadInput("remote_networks are written 10.0.0.0/8.", param="remote_networks") from None
    policy = Policy(
        public=settings.remote_images,
        hosts=tuple(host.lower() for host in settings.remote_hosts),
        networks=networks,
        http=settings.remote_http,
    )
    fetch = Fetch(policy, settings.max_image, settings.fetch_seconds, settings.max_fetches)
    return Intake(
        fetch,
        metrics,
        max_images=settings.max_images,
        max_bytes=settings.max_image,
        max_pixels=settings.max_pixels,
        seconds=settings.image_seconds,
    )
