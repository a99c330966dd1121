"""What the vision tower says of pictures: asked once for each distinct one, for several together,
and remembered within a bound.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from halu.errors import Failed
from halu.prompt import Prompt
from halu.tally import Tally

KEPT_BYTES = 2**28
"""Memory for remembered features (some fifty pictures of LLaVA-1.5-7B), least recently used out
first.
"""
_hashes = WeakTensorKeyDictionary()
AT_ONCE = 16
"""Most prompts whose pictures go through the tower together."""


@dataclass(frozen=True, slots=True)
class Features:
    """What the vision tower says of one prompt's pictures.

    Attributes:
        tokens: one row for each image token, all pictures in order [N, hidden].
        deep: rows added to the image tokens after the first layers (Qwen3-VL's DeepStack), [N,
            hidden] each.
    """

    tokens: Tensor
    deep: tuple[Tensor, ...] = ()

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(part.numel() * part.element_size() for part in (self.tokens, *self.deep))

    def rows(self, start: int, stop: int) -> "Features":
        """Those of some of the image tokens, in memory of their own."""
        tokens, *deep = (part[start:stop].clone() for part in (self.tokens, *self.deep))
        return Features(tokens, tuple(deep))


Look = Callable[[Mapping[str, Tensor]], Features]
"""A family's vision tower: pixels to features."""


class Vision:
    """A vision tower with a memory.

    Pictures are told apart by what the processor made of them, shapes and every value, so that the
    same picture under other processor settings is another one.

    Args:
        look: the tower.
        device: where it runs.
        kept_bytes: bound of the memory.

    Attributes:
        bound: most bytes that are remembered.
        tally: prompts with pictures whose features were wanted, and those that needed no tower.
        salt: only those who ask under the same salt share what is remembered. How fast an answer
            comes would otherwise tell one user what others have shown.
    """

    def __init__(self, look: Look, device: torch.device, kept_bytes: int = KEPT_BYTES) -> None:
        self.salt = ""
        self._look = look
        self._device = device
        self.bound = kept_bytes
        self.tally = Tally()
        self._kept: OrderedDict[str, Features] = OrderedDict()
        self._lock = threading.Lock()

    @torch.inference_mode()
    def features(self, prompts: Sequence[Prompt]) -> list[Features | None]:
        """Each prompt's picture rows, none without a picture.

        Raises:
            Failed: if the tower gives another number of rows than a prompt has places.
        """
        keys = [
            f"{self.salt} {digest(prompt.pixels)}" if prompt.layout.images else None
            for prompt in prompts
        ]
        asked = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key}
        with self._lock:
            found = {key: self._kept[key] for key in asked if key in self._kept}
        fresh = {key: prompt for key, prompt in asked.items() if key not in found}
        for batch in _alike(fresh):
            found |= self._seen(batch)
        shown = len(keys) - keys.count(None)
        self.tally.add(shown, shown - len(fresh))
        self._remember(found)
        return [found[key] if key else None for key in keys]

    def _seen(self, batch: Mapping[str, Prompt]) -> dict[str, Features]:
        """One call of the tower for prompts whose pixels have the same shapes."""
        pixels = [prompt.pixels for prompt in batch.values()]
        joined = {key: torch.cat([own[key] for own in pixels]) for key in pixels[0]}
        seen = self._look({key: value.to(self._device) for key, value in joined.items()})
        counts = [prompt.layout.image_tokens for prompt in batch.values()]
        if seen.tokens.shape[0] != sum(counts):
            raise Failed(
                f"The vision tower gave {seen.tokens.shape[0]} rows for {sum(counts)} image tokens."
            )
        found, first = {}, 0
        for key, count in zip(batch, counts, strict=True):
            found[key] = seen if len(batch) == 1 else seen.rows(first, first + count)
            first += count
        return found

    def _remember(self, found: Mapping[str, Features]) -> None:
        with self._lock:
            for key, features in found.items():
                self._kept[key] = features
                self._kept.move_to_end(key)
            while sum(features.size for features in self._kept.values()) > self.bound:
                self._kept.popitem(last=False)


def digest(pixels: Mapping[str, Tensor]) -> str:
    """Full hash of the pixels with their shapes: two pictures never share features."""
    parts = [key.encode() + _hashed(pixels[key]) for key in sorted(pixels)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _hashed(pixels: Tensor) -> bytes:
    """Hash of one tensor, made once for as long as it lives: prompts are never written to."""
    found: bytes | None = _hashes.get(pixels)
    if found is None:
        value = pixels.contiguous().cpu()
        whole = hashlib.sha256(f"{tuple(value.shape)}{value.dtype}".encode())
        whole.update(value.view(torch.uint8).numpy().tobytes())
        found = _hashes[pixels] = whole.digest()
    return found


def _alike(asked: Mapping[str, Prompt]) -> Iterator[dict[str, Prompt]]:
    """The prompts by the shapes of their pixels, in batches."""
    shapes: dict[tuple[tuple[str, torch.Size], ...], dict[str, Prompt]] = {}
    for key, prompt in asked.items():
        shape = tuple((name, value.shape[1:]) for name, value in sorted(prompt.pixels.items()))
        batch = shapes.setdefault(shape, {})
        batch[key] = prompt
        if len(batch) == AT_ONCE:
            yield shapes.pop(shape)
    yield from shapes.values()
