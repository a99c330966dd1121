"""One batch: samples become requests, answers become scored rows."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from halu.eval.backends import Timed
from halu.eval.benchmark import Benchmark, Sample, Score
from halu.eval.cache import Cache
from halu.eval.examined import findings, telling
from halu.eval.judge import score_all
from halu.eval.plan import Arm, Plan, Source, sampling
from halu.eval.store import Row
from halu.types import Answer, Finding, Request, question


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples of one benchmark that one model is to answer together under one strategy."""

    source: Source
    benchmark: Benchmark
    arm: Arm
    repeat: int
    samples: tuple[Sample, ...]
    cold: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it was asked about, and the start of SHA-256 over its pixels."""

    image: Image.Image
    digest: str


@dataclass(frozen=True, slots=True)
class _Asked:
    """A sample's request and what came of it."""

    sample: Sample
    request: Request
    picture: Picture | None
    answer: Answer
    cached: bool


def answered(
    batch: Batch,
    plan: Plan,
    answer: Callable[[list[Request]], Timed],
    cache: Cache | None = None,
) -> list[Row]:
    """Ask a batch and score its answers; its time is shared out equally."""
    pictures = _pictures(batch, plan)
    shown = [pictures.get(sample.image) for sample in batch.samples]
    plain = [
        _request(batch, s, plan, picture) for s, picture in zip(batch.samples, shown, strict=True)
    ]
    requests = telling(plain, plan, batch.source)
    known = [cache.get(batch.source, request) if cache else None for request in requests]
    todo = [request for request, old in zip(requests, known, strict=True) if old is None]
    took = answer(todo) if todo else Timed([], 0.0)
    if cache:
        cache.keep(batch.source, list(zip(todo, took.answers, strict=True)))
    new = iter(took.answers)
    found = [
        _Asked(sample, request, picture, old or next(new), old is not None)
        for sample, request, picture, old in zip(batch.samples, requests, shown, known, strict=True)
    ]
    scores = score_all(batch.benchmark, batch.samples, [asked.answer.text for asked in found])
    doubts = [findings(one.request, one.answer, plan, batch.source, answer) for one in found]
    return [
        _row(batch, one, score, took, own)
        for one, score, own in zip(found, scores, doubts, strict=True)
    ]


def _pictures(batch: Batch, plan: Plan) -> dict[str | None, Picture]:
    found: dict[str | None, Picture] = {}
    for sample in batch.samples:
        if sample.image is not None and sample.image not in found:
            image = batch.benchmark.picture(sample.image, plan.data)
            found[sample.image] = Picture(image, digest(image))
    return found


def digest(image: Image.Image) -> str:
    """Take the start of SHA-256 over a picture's size and pixels."""
    told = f"{image.mode} {image.size} ".encode() + image.tobytes()
    return hashlib.sha256(told).hexdigest()[:16]


def _request(batch: Batch, sample: Sample, plan: Plan, picture: Picture | None) -> Request:
    """Ask a question with the run's suffix and decoding.

    The seed is the sample's own: one seed for all would give every sample the same random numbers.
    """
    suffix = batch.benchmark.suffix if plan.suffix is None else plan.suffix
    name = f"{plan.seed} {batch.benchmark.name} {sample.id}"
    if batch.repeat:
        name += f" {batch.repeat}"
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big")
    shown = [picture.image] if picture else []
    return Request(
        messages=question(sample.prompt + suffix, *shown),
        strategy=batch.arm.strategy,
        params=batch.arm.params,
        sampling=sampling(plan, batch.benchmark, seed),
    )


def _row(
    batch: Batch, asked: _Asked, score: Score, took: Timed, doubts: tuple[Finding, ...]
) -> Row:
    sample, answer = asked.sample, asked.answer
    words = asked.request.messages[-1].content[-1]
    return Row(
        model=batch.source.label,
        id=sample.id,
        benchmark=batch.benchmark.name,
        split=sample.split,
        category=sample.category,
        image_id=sample.image,
        cluster=sample.cluster,
        picture=asked.picture.digest if asked.picture else None,
        arm=batch.arm.label,
        repeat=batch.repeat,
        strategy=answer.strategy.name,
        params=answer.strategy.params,
        prompt=words.text if words.type == "text" else "",
        answer=answer.text,
        parsed=score.parsed,
        label=sample.label,
        value=score.value,
        counts=dict(score.counts),
        marks=score.marks,
        findings=doubts,
        tokens=answer.usage.completion_tokens,
        finish_reason=answer.finish_reason,
        forwards=answer.usage.forwards,
        seconds=0.0 if asked.cached else round(took.seconds / len(took.answers), 6),
        memory_mb=None if took.peak is None else round(took.peak, 1),
        cold=batch.cold or took.first,
        cached=asked.cached,
    )
