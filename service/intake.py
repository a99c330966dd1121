"""The one door for pictures: from what a client sent to a checked picture, or a refusal.

Size is capped before base64 is decoded and again before pixels are; decoding runs in a thread with
a deadline. A path or a `file:` address is never a picture.
"""

import base64
import binascii
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
from PIL import Image

from halu.errors import BadImage, HaluError
from halu.images import open_image
from halu.service.fetch import Fetch
from halu.service.giving_up import NoTurn, Threads
from halu.service.metrics import Metrics
from halu.service.refusals import BadAddress, Busy
from halu.service.schema import ImageUrl

LOW_DETAIL = 512
"""Pixels a side with `detail: low`."""
THREADS = 4
TYPES = ("image/png", "image/jpeg", "image/jpg", "image/webp", "image/gif")


@dataclass(slots=True)
class Intake:
    """Opens pictures.

    Args:
        fetch: gets remote ones, or refuses.
        metrics: counts refusals.
        max_images: most pictures of a request.
        max_bytes: of one picture.
        max_pixels: of all pictures of a request.
        seconds: to decode one.
    """

    fetch: Fetch
    metrics: Metrics
    max_images: int
    max_bytes: int
    max_pixels: int
    seconds: float
    threads: Threads = field(default_factory=lambda: Threads(THREADS))

    async def open(self, addresses: Mapping[str, ImageUrl]) -> list[Image.Image]:
        """The pictures of a request, in order, by their paths in its body.

        Raises:
            BadImage: the first that cannot be used.
            FetchFailed: a remote one that did not come.
        """
        try:
            return await self._open(addresses)
        except BadImage as error:
            self.metrics.image_rejected.labels(error.code or "invalid_image").inc()
            raise

    async def _open(self, addresses: Mapping[str, ImageUrl]) -> list[Image.Image]:
        if len(addresses) > self.max_images:
            raise BadImage(
                f"The request has {len(addresses)} pictures; at most {self.max_images}.",
                param="messages",
            )
        found: list[Image.Image] = []
        left = self.max_pixels
        for place, address in addresses.items():
            try:
                picture = await self._decoded(await self._bytes(address.url), left)
            except HaluError as error:
                error.param = place
                raise
            left -= picture.width * picture.height
            if address.detail == "low":
                picture.thumbnail((LOW_DETAIL, LOW_DETAIL))
            found.append(picture)
        return found

    async def _bytes(self, url: str) -> bytes:
        if url[:5].lower() == "data:":
            if len(url) > 200_000:
                return await anyio.to_thread.run_sync(from_data_uri, url, self.max_bytes)
            return from_data_uri(url, self.max_bytes)
        with self.metrics.image_fetch.time():
            return await self.fetch.get(url)

    async def _decoded(self, data: bytes, most_pixels: int) -> Image.Image:
        def decode(gone: threading.Event) -> Image.Image:
            return open_image(data, most_pixels=most_pixels)

        try:
            return await self.threads.run(decode, self.seconds)
        except NoTurn:
            raise Busy("Other pictures are being decoded.", seconds=self.seconds) from None
        except TimeoutError:
            raise BadImage(
                "The picture takes too long to decode.", code="image_too_large"
            ) from None


def from_data_uri(uri: str, max_bytes: int) -> bytes:
    """The bytes in `data:image/png;base64,...`.

    Raises:
        BadImage: another media type, no base64, or too long; checked before anything is decoded.
    """
    head, comma, payload = uri.partition(",")
    kind, _, encoding = head[5:].partition(";")
    if not comma or encoding.strip().lower() != "base64":
        raise BadAddress("A picture in a request is written data:image/png;base64,...")
    if kind.strip().lower() not in TYPES:
        raise BadImage(
            "This kind of data is not a picture.",
            hint=f"Send {', '.join(TYPES)}.",
            code="unsupported_image_media_type",
        )
    if len(payload) * 3 // 4 > max_bytes + 2:
        raise BadImage(f"The picture has more than {max_bytes:,} bytes.", code="image_too_large")
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError):
        raise BadImage("The picture is not base64.", code="invalid_base64_image") from None
