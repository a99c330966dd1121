"""`POST /v1/detect`: which words of a text a picture does not support."""

from typing import Any

from fastapi import APIRouter, Request

from halu.errors import BadInput
from halu.service.deployment import Deployment
from halu.service.documented import REFUSALS
from halu.service.options import checks
from halu.service.refusals import placed
from halu.service.replies import DetectReply
from halu.service.schema import DetectRequest

router = APIRouter(tags=["answers"])


@router.post("/v1/detect", response_model=DetectReply, responses=REFUSALS)
async def detect(body: DetectRequest, http: Request) -> Any:
    """Findings on the characters of a text, whoever wrote it."""
    site: Deployment = http.app.state.deployment
    if len(body.text) + len(body.question) > site.settings.max_text:
        raise BadInput(f"At most {site.settings.max_text:,} characters.", param="text")
    with placed({"detector": "detectors"}):
        using = checks(body.detectors, site.settings)
    end = http.scope["state"]["arrived"] + site.settings.deadline_seconds
    (image,) = await site.intake.open({"image": body.image})
    return DetectReply(findings=await site.checks.text(body.text, image, using, end, body.question))
