"""`POST /v1/detect`: which words of a text a picture does not support."""

from typing import Any

from fastapi import APIRouter, Request

from halu.service.checking import known
from halu.service.deployment import Deployment
from halu.service.documented import REFUSALS
from halu.service.replies import DetectReply
from halu.service.schema import DetectRequest

router = APIRouter(tags=["answers"])


@router.post("/v1/detect", response_model=DetectReply, responses=REFUSALS)
async def detect(body: DetectRequest, http: Request) -> Any:
    """Findings on the characters of a text, whoever wrote it."""
    site: Deployment = http.app.state.deployment
    known(body.detectors)
    await site.intake.open([body.image])
    return DetectReply(findings=[])
