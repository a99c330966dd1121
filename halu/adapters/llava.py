"""LLaVA-1.5 and LLaVA-NeXT: one run of image tokens for each picture, ordinary positions."""

from collections.abc import Callable, Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution

from halu.adapters.adapter import Adapter, Features
from halu.adapters.pixels import unnormalised
from halu.layout import Grid


class Llava(Adapter):
    """LLaVA-1.5: a square grid of patches."""

    families = ("llava",)
    pixel_keys = ("pixel_values",)

    @property
    def side(self) -> int:
        """Patches along one side of the vision tower's picture."""
        vision = self.model.config.vision_config
        return int(vision.image_size // vision.patch_size)

    def grids(
        self, inputs: Mapping[str, Tensor], images: Sequence[Image.Image]
    ) -> list[tuple[tuple[Grid, ...], int]]:
        """The square grid of each picture."""
        grid = Grid(0, self.side, self.side, self.side)
        return [((grid,), self.side**2) for _ in images]

    def positions(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """0, 1, 2, ..."""
        length = inputs["input_ids"].shape[1]
        return torch.arange(length), length

    def look(self, pixels: Mapping[str, Tensor]) -> Features:
        """Tower and projector."""
        found = self.model.model.get_image_features(
            pixels["pixel_values"].to(self.model.dtype), **self._picture_sizes(pixels), return_dict=True
        )
        return Features(torch.cat(list(found.pooler_output)))

    def map_pixels(self, pixels: Mapping[str, Tensor], view: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """`view` on [..., 3, height, width]."""
        return {**pixels, "pixel_values": view(pixels["pixel_values"])}

    def pictures(self, pixels: Mapping[str, Tensor]) -> tuple[Image.Image, ...]:
        """The square that the tower saw."""
        return tuple(unnormalised(picture, self.processor.image_processor) for picture in pixels["pixel_values"])

    def _picture_sizes(self, pixels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {}


class LlavaNext(Llava):
    """LLaVA-NeXT: an overview grid, then tiles joined to one larger grid with a line-end token a row."""

    families = ("llava_next",)
    pixel_keys = ("pixel_values", "image_sizes")

    def grids(
        self, inputs: Mapping[str, Tensor], images: Sequence[Image.Image]
    ) -> list[tuple[tuple[Grid, ...], int]]:
        """Overview and tiles of each picture."""
        return [self._grid(height, width) for height, width in inputs.get("image_sizes", torch.empty(0)).tolist()]

    def pictures(self, pixels: Mapping[str, Tensor]) -> tuple[Image.Image, ...]:
        """The overview, which shows the whole picture squeezed to a square, back at its own proportions."""
        found = []
        for tiles, (height, width) in zip(pixels["pixel_values"], pixels["image_sizes"].tolist(), strict=True):
            overview = unnormalised(tiles[0], self.processor.image_processor)
            found.append(overview.resize((width, height), Image.Resampling.BICUBIC))
        return tuple(found)

    def _grid(self, height: int, width: int) -> tuple[tuple[Grid, ...], int]:
        side, size = self.side, self.model.config.vision_config.image_size
        best_height, best_width = select_best_resolution((height, width), self.model.config.image_grid_pinpoints)
        rows, columns = _unpadded(side * best_height // size, side * best_width // size, height, width)
        overview = Grid(0, side, side, side)
        tiles = Grid(side**2, rows, columns, columns + 1)
        return (overview, tiles), side**2 + rows * (columns + 1)

    def _picture_sizes(self, pixels: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"image_sizes": pixels["image_sizes"]}


def _unpadded(rows: int, columns: int, height: int, width: int) -> tuple[int, int]:
    """Grid rows and columns once the padding that kept the proportions is cut off again."""
    if width / height > columns / rows:
        padding = (rows - int(round(height * (columns / width), 7))) // 2
        return rows - 2 * padding, columns
    padding = (columns - int(round(width * (rows / height), 7))) // 2
    return rows, columns - 2 * padding
