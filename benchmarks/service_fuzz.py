"""Pictures that are none: generated and damaged inputs through the service's intake.

    python benchmarks/service_fuzz.py --inputs 50000

Every input must end as a checked picture or as a refusal with a known code; anything else is a
crash. Memory must stay below a cap that is set for the process.
"""

import argparse
import asyncio
import base64
import io
import resource
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from service_process import written

from halu.errors import BadImage
from halu.service.fetch import Fetch, Policy
from halu.service.intake import Intake
from halu.service.metrics import Metrics
from halu.service.schema import ImageUrl

T = TypeVar("T")
TAKEN = ("PNG", "JPEG", "WEBP", "GIF")
BATCH = 1000
OTHERS = ("BMP", "TIFF", "ICO", "PPM")
CODES = {
    "picture",
    "invalid_image",
    "invalid_base64_image",
    "invalid_image_url",
    "unsupported_image_media_type",
    "empty_image_file",
    "image_too_large",
    "image_too_small",
}


def samples() -> list[bytes]:
    """Small true pictures of several kinds, to be damaged."""
    found = []
    for form in (*TAKEN * 5, *OTHERS):
        for mode in ("RGB", "L", "P", "RGBA"):
            file = io.BytesIO()
            try:
                Image.linear_gradient("L").resize((24, 16)).convert(mode).save(file, form)
            except (OSError, ValueError):
                continue
            found.append(file.getvalue())
    return found


def damaged() -> st.SearchStrategy[bytes]:
    """A true picture with some bytes changed, cut off, doubled or put in."""
    whole = st.sampled_from(samples())
    change = st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=8))
    changes = st.lists(change, max_size=6)
    cut = st.one_of(st.none(), st.integers(0, 4000))
    return st.builds(_damage, whole, changes, cut)


def _damage(whole: bytes, changes: list[tuple[int, bytes]], cut: int | None) -> bytes:
    data = bytearray(whole)
    for place, new in changes:
        at = (place + 1) * 7919 % len(data)  # small numbers are drawn most; spread them
        data[at : at + len(new)] = new
    return bytes(data if cut is None else data[: cut % (len(data) + 1)])


def addresses() -> st.SearchStrategy[str]:
    """What may stand where a picture's address belongs."""
    taken = [f"image/{form.lower()}" for form in TAKEN]
    kinds = st.sampled_from([*taken * 5, "image/bmp", "text/html", ""])
    data = st.builds(_uri, kinds, _mostly(damaged(), st.binary()))
    loose = st.text(max_size=60).map(lambda text: "data:image/png;base64," + text)
    odd = st.text(min_size=1, max_size=80)
    return _mostly(data, loose, odd, odd.map(lambda text: "https://" + text))


def _mostly(usual: st.SearchStrategy[T], *rare: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """Each of the rare ones once in twenty times; `one_of` would count them alike."""
    return st.integers(0, 19).flatmap(lambda n: rare[n] if n < len(rare) else usual)


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def fuzz(inputs: int, seen: Counter[str]) -> None:
    """Runs so many inputs, in batches: what Hypothesis remembers of a batch would count as the
    intake's memory.
    """
    intake = Intake(
        Fetch(Policy(), 2**20, 1, 1),
        Metrics(),
        max_images=1,
        max_bytes=2**20,
        max_pixels=2**20,
        seconds=10,
    )
    loop = asyncio.new_event_loop()
    for start in range(0, inputs, BATCH):
        seed(start)(_batch(min(BATCH, inputs - start), intake, loop, seen))()
    loop.close()


def _batch(
    inputs: int, intake: Intake, loop: asyncio.AbstractEventLoop, seen: Counter[str]
) -> Callable[[], None]:
    @settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(address=addresses())
    def run(address: str) -> None:
        try:
            (picture,) = loop.run_until_complete(intake.open({"picture": ImageUrl(url=address)}))
        except BadImage as error:
            code = str(error.code)
        else:
            assert picture.mode == "RGB"
            assert not picture.info
            code = "picture"
        assert code in CODES, code
        seen[code] += 1

    return run


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description="Fuzz the intake of pictures.")
    parser.add_argument("--inputs", type=int, default=50_000)
    parser.add_argument("--memory-mb", type=int, default=512, help="above what is there at start")
    parser.add_argument("--out")
    args = parser.parse_args()
    seen: Counter[str] = Counter()
    fuzz(BATCH, Counter())
    before, start = _peak_mb(), time.monotonic()
    fuzz(args.inputs, seen)
    grown = _peak_mb() - before
    assert grown < args.memory_mb, f"{grown:.0f} MB more than at the start"
    result = {
        "what": f"{sum(seen.values())} inputs, {time.monotonic() - start:.0f} s",
        "ended as": dict(seen.most_common()),
        "crashes": 0,
        "peak memory grew, MB": round(grown, 1),
    }
    written(result, args.out)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
