"""LLaVA-1.5 and LLaVA-NeXT: one run of image tokens for each picture, ordinary positions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution

from halu.adapters.adapter import Adapter
from halu.adapters.pixels import unnormalised
from halu.adapters.vision import Features
from halu.errors import Unsupported
from halu.layout import Grid


class Llava(Adapter):
    """LLaVA-1.5: a square grid of patches."""

    families = ("llava",)
    pixel_keys: ClassVar[tuple[str, ...]] = ("pixel_values",)

    @property
    def side(self) -> int:
        """Patches along one side of the vision tower's picture."""
        vision = self.model.config.vision_config
        return int(vision.image_size // vision.patch_size)

    def grids(self, pixels: Mapping[str, Tensor]) -> list[tuple[tuple[Grid, ...], int]]:
        """The square grid of each picture."""
        grid = Grid(0, self.side, self.side, self.side)
        return [((grid,), self.side**2) for _ in pixels.get("pixel_values", ())]

    def positions(self, ids: Tensor, pixels: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """0, 1, 2, ..."""
        return torch.arange(len(ids)), len(ids)

    def take(self, pixels: Mapping[str, Tensor], start: int, stop: int) -> dict[str, Tensor]:
        """Pictures lie along the first axis."""
        return {key: value[start:stop] for key, value in pixels.items()}

    @property
    def tower(self) -> torch.nn.Module:
        """CLIP."""
        tower: torch.nn.Module = self.model.model.vision_tower
        return tower

    def entering(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
        """One square a picture."""
        return {"pixel_values": args[0] if args else kwargs["pixel_values"]}

    def look(self, pixels: Mapping[str, Tensor]) -> Features:
        """Tower and projector."""
        found = self.model.model.get_image_features(
            pixels["pixel_values"].to(self.model.dtype),
            **self._picture_sizes(pixels),
            return_dict=True,
        )
        return Features(torch.cat(list(found.pooler_output)))

    @torch.inference_mode()
    def class_attention(self, pixels: Mapping[str, Tensor], layers: Sequence[int]) -> Tensor:
        """From the streams that enter the layers: one query row, no maps."""
        tower: Any = self.tower
        if not hasattr(tower.embeddings, "class_embedding"):
            return super().class_attention(pixels, layers)
        blocks = tower.encoder.layers
        if not all(-len(blocks) <= layer < len(blocks) for layer in layers):
            raise Unsupported(
                f"The vision tower of {self.facts.name!r} has {len(blocks)} layers; layers"
                f" {', '.join(map(str, layers))} are wanted.",
                param="strategy",
            )
        whole = self._whole(pixels).to(self.runner.device, self.model.dtype)
        entering = tower(whole, output_hidden_states=True).hidden_states
        found = [_class_row(blocks[n], entering[range(len(blocks))[n]]) for n in layers]
        return torch.stack(found, 1)

    def _whole(self, pixels: Mapping[str, Tensor]) -> Tensor:
        """Of each picture the square [pictures, 3, side, side] that shows all of it."""
        return pixels["pixel_values"]

    def map_pixels(
        self, pixels: Mapping[str, Tensor], view: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """`view` on [..., 3, height, width]."""
        return {**pixels, "pixel_values": view(pixels["pixel_values"])}

    def pictures(self, pixels: Mapping[str, Tensor]) -> tuple[Image.Image, ...]:
        """The square that the tower saw."""
        return tuple(
            unnormalised(picture, self.processor.image_processor)
            for picture in pixels["pixel_values"]
        )

    def _picture_sizes(self, pixels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {}


class LlavaNext(Llava):
    """LLaVA-NeXT: an overview grid, then tiles joined to one larger grid with a line-end token a
    row.
    """

    families = ("llava_next",)
    pixel_keys: ClassVar[tuple[str, ...]] = ("pixel_values", "image_sizes")

    def grids(self, pixels: Mapping[str, Tensor]) -> list[tuple[tuple[Grid, ...], int]]:
        """Overview and tiles of each picture."""
        return (
            [self._grid(height, width) for height, width in pixels["image_sizes"].tolist()]
            if pixels
            else []
        )

    def entering(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Nothing: tiles of all pictures arrive in one pile, without the pictures' sizes."""
        return {}

    def pictures(self, pixels: Mapping[str, Tensor]) -> tuple[Image.Image, ...]:
        """The overview, which shows the whole picture squeezed to a square, back at its own
        proportions.
        """
        found = []
        for tiles, (height, width) in zip(
            pixels["pixel_values"], pixels["image_sizes"].tolist(), strict=True
        ):
            overview = unnormalised(tiles[0], self.processor.image_processor)
            found.append(overview.resize((width, height), Image.Resampling.BICUBIC))
        return tuple(found)

    def _whole(self, pixels: Mapping[str, Tensor]) -> Tensor:
        return pixels["pixel_values"][:, 0]

    def _grid(self, height: int, width: int) -> tuple[tuple[Grid, ...], int]:
        side, size = self.side, self.model.config.vision_config.image_size
        best_height, best_width = select_best_resolution(
            (height, width), self.model.config.image_grid_pinpoints
        )
        rows, columns = _unpadded(
            side * best_height // size, side * best_width // size, height, width
        )
        overview = Grid(0, side, side, side)
        tiles = Grid(side**2, rows, columns, columns + 1)
        return (overview, tiles), side**2 + rows * (columns + 1)

    def _picture_sizes(self, pixels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"image_sizes": pixels["image_sizes"]}


def _class_row(block: Any, stream: Tensor) -> Tensor:
    """Attention of the class token to the patches [pictures, patches], summed over the heads of one
    tower layer, from the stream [pictures, 1 + patches, D] that enters it.
    """
    attention, stream = block.self_attn, block.layer_norm1(stream)
    q, k = attention.q_proj(stream[:, :1]), attention.k_proj(stream)
    q, k = (x.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2).float() for x in (q, k))
    x = q @ k.transpose(-1, -2) * attention.scale
    row: Tensor = torch.softmax(x, -1)[:, :, 0, 1:].sum(1)
    return row


def _unpadded(rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """Grid rows and columns once the padding that kept the proportions is cut off again."""
    if width / height > columns / rows:
        padding = (rows - int(round(height * (columns / width), 7))) // 2
        return rows - 2 * padding, columns
    padding = (columns - int(round(width * (rows / height), 7))) // 2
    return rows, columns - 2 * padding
