"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: pictures at their own proportions, merged patches, M-RoPE
positions.

Positions are computed for each prompt and passed in, so the model's own `rope_deltas` is never read
or written.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from halu.adapters.adapter import Adapter
from halu.adapters.pixels import unnormalised
from halu.adapters.vision import Features
from halu.layout import Grid


class QwenVL(Adapter):
    """Qwen2-VL, Qwen2.5-VL, Qwen3-VL (dense)."""

    families = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
    pixel_keys: ClassVar[tuple[str, ...]] = ("pixel_values", "image_grid_thw")
    position_axes = 3

    @property
    def placeholders(self) -> frozenset[int]:
        """The picture's tokens and the two markers around them."""
        config = self.model.config
        return frozenset(
            [self.image_token, config.vision_start_token_id, config.vision_end_token_id]
        )

    def grids(self, pixels: Mapping[str, Tensor]) -> list[tuple[tuple[Grid, ...], int]]:
        """The processor's patch grid divided by the merge size."""
        merge = self.model.config.vision_config.spatial_merge_size
        found: list[tuple[tuple[Grid, ...], int]] = []
        for _, height, width in pixels["image_grid_thw"].tolist() if pixels else []:
            rows, columns = height // merge, width // merge
            found.append(((Grid(0, rows, columns, columns),), rows * columns))
        return found

    def positions(self, ids: Tensor, pixels: Mapping[str, Tensor]) -> tuple[Tensor, int]:
        """M-RoPE positions [3, T]: temporal, height, width."""
        if not pixels:
            return torch.arange(len(ids)).expand(3, -1), len(ids)
        places, _ = self.model.model.get_rope_index(
            ids[None],
            mm_token_type_ids=(ids[None] == self.image_token).int(),
            image_grid_thw=pixels["image_grid_thw"].cpu(),
        )
        return places[:, 0], int(places.max()) + 1

    def take(self, pixels: Mapping[str, Tensor], start: int, stop: int) -> dict[str, Tensor]:
        """Patches of all pictures lie one after another; the grids say how many each has."""
        ends = pixels["image_grid_thw"].prod(-1).cumsum(0).tolist()
        first = ends[start - 1] if start else 0
        return {
            "pixel_values": pixels["pixel_values"][first : ends[stop - 1]],
            "image_grid_thw": pixels["image_grid_thw"][start:stop],
        }

    @property
    def tower(self) -> torch.nn.Module:
        """Qwen's own vision transformer, merger included."""
        tower: torch.nn.Module = self.model.model.visual
        return tower

    def entering(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Patches and the grid that they fill."""
        return {"pixel_values": args[0], "image_grid_thw": kwargs["grid_thw"]}

    def look(self, pixels: Mapping[str, Tensor]) -> Features:
        """Tower and patch merger; Qwen3-VL also gives rows for its first layers."""
        found = self.model.model.get_image_features(
            pixels["pixel_values"].to(self.model.dtype), pixels["image_grid_thw"], return_dict=True
        )
        deep = getattr(found, "deepstack_features", None) or ()
        return Features(
            torch.cat(list(found.pooler_output)), tuple(torch.cat(list(part)) for part in deep)
        )

    def map_pixels(
        self, pixels: Mapping[str, Tensor], view: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """`view` on each patch [N, 3, patch, patch]; a still picture is two equal frames, and stays
        so.
        """
        patches = self._patches(pixels)
        seen = view(patches[:, :, 0])
        frames = seen.unsqueeze(2).expand_as(patches)
        return {**pixels, "pixel_values": frames.reshape(pixels["pixel_values"].shape)}

    def pictures(self, pixels: Mapping[str, Tensor]) -> tuple[Image.Image, ...]:
        """Patches put back in their places, at the size that the tower saw."""
        merge = self.model.config.vision_config.spatial_merge_size
        patches, used, found = self._patches(pixels)[:, :, 0], 0, []
        for _, height, width in pixels["image_grid_thw"].tolist():
            own = patches[used : used + height * width]
            used += height * width
            # Processor order: row and column of the merged cell, then those of the patch in it.
            own = own.reshape(height // merge, width // merge, merge, merge, *own.shape[1:])
            picture = own.permute(4, 0, 2, 5, 1, 3, 6).reshape(
                3, height * own.shape[-2], width * own.shape[-1]
            )
            found.append(unnormalised(picture, self.processor.image_processor))
        return tuple(found)

    def _patches(self, pixels: Mapping[str, Tensor]) -> Tensor:
        """Flat patches as [N, 3, frames, patch, patch]."""
        vision = self.model.config.vision_config
        return pixels["pixel_values"].reshape(
            -1, 3, vision.temporal_patch_size, vision.patch_size, vision.patch_size
        )
