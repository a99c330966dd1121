"""Views of a picture: seeded, of known size, and what their names say."""

import io
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from halu import views
from halu.views import TRANSFORMS, diffused, transformed

on_each = pytest.mark.parametrize("name", TRANSFORMS)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(image: Image.Image) -> np.ndarray[Any, Any]:
    return np.asarray(image, dtype=int)


@on_each
@pytest.mark.parametrize("size", [(90, 60), (8, 8), (8, 400), (400, 8)])
def test_a_transform_is_pure_seeded_and_keeps_the_size(
    name: str, size: tuple[int, int], picture: Any
) -> None:
    image = picture(*size)
    before = image.tobytes()
    found = [transformed(name, generator(seed))(image) for seed in (1, 1, *range(2, 9))]
    assert image.tobytes() == before
    assert found[0].tobytes() == found[1].tobytes()
    assert {(one.mode, one.size) for one in found} == {
        ("RGB", (336, 336) if name == "crop" else size)
    }
    others = {one.tobytes() for one in found}
    settled = "flip" in name or (name == "crop" and max(size) > 9 * min(size))  # no room to draw
    assert len(others) == 1 if settled else len(others) > 3
    assert before not in others


def test_random_draws_each_of_the_six_alike(picture: Any) -> None:
    image, drawn = picture(60, 40), Counter()
    alone = {
        name: {transformed(name, generator(seed))(image).tobytes() for seed in range(3)}
        for name in ("horizontal_flip", "vertical_flip")
    }
    for seed in range(600):
        made = transformed("random", generator(seed))(image)
        for name, results in alone.items():
            drawn[name] += made.tobytes() in results
        drawn["crop"] += made.size == (336, 336)
    assert all(60 < count < 140 for count in drawn.values()), drawn


def test_flips_and_rotations(picture: Any) -> None:
    image = picture(40, 40)
    assert np.array_equal(pixels(views.horizontal_flip(image, generator())), pixels(image)[:, ::-1])
    assert np.array_equal(pixels(views.vertical_flip(image, generator())), pixels(image)[::-1])
    disc = Image.new("RGB", (101, 101), "red")
    corners, angles = [], []
    for seed in range(20):
        turned = views.rotate(disc, generator(seed))
        assert turned.getpixel((50, 50)) == (255, 0, 0)
        corners.append(turned.getpixel((0, 0)))
        bar = Image.new("RGB", (101, 101))
        bar.paste("white", (50, 45, 101, 56))
        y, x = np.nonzero(pixels(views.rotate(bar, generator(seed))).sum(-1))
        angles.append(np.degrees(np.arctan2(50 - y.mean(), x.mean() - 50)))
    assert (0, 0, 0) in corners
    assert min(angles) < -90
    assert max(angles) > 90


def test_blur_spreads_a_point_by_its_sigma() -> None:
    point = Image.new("RGB", (41, 41))
    point.putpixel((20, 20), (255, 255, 255))
    flat = Image.new("RGB", (30, 30), (10, 200, 77))
    for seed in range(8):
        assert pixels(views.gaussian_blur(flat, generator(seed))).std(axis=(0, 1)).max() == 0
        spread = pixels(views.gaussian_blur(point, generator(seed)))[..., 0]
        assert spread[20, 20] == spread.max()
        # a normalised Gaussian's middle is 1 / (2 pi sigma^2), sigma from 1.5 to 2
        assert 255 / (2 * np.pi * 2.0**2) - 1 <= spread.max() <= 255 / (2 * np.pi * 1.5**2) + 1
        assert np.array_equal(spread, spread[::-1])
        assert np.array_equal(spread, spread.T)
        assert spread[:13].sum() == 0  # 13 taps reach six pixels


def test_crops_are_windows_of_the_published_area_and_proportions() -> None:
    """A picture whose pixels are their own coordinates shows where a crop came from."""
    width, height = 240, 200
    grid = np.zeros((height, width, 3), dtype=np.uint8)
    grid[..., 0], grid[..., 1] = np.arange(width), np.arange(height)[:, None]
    image = Image.fromarray(grid)
    areas = []
    for seed in range(60):
        made = pixels(views.crop(image, generator(seed)))
        w = np.ptp(made[..., 0]) + 1
        h = np.ptp(made[..., 1]) + 1
        areas.append(w * h / (width * height))
        assert 0.70 < w / h < 1.41
    assert 0.07 < min(areas) < 0.2
    assert 0.8 < max(areas) <= 1


def test_colour_jitter_changes_colours_only(picture: Any) -> None:
    grey = Image.new("RGB", (20, 20), (90, 90, 90))
    for seed in range(5):
        made = pixels(views.color_jitter(grey, generator(seed)))
        assert np.ptp(made, axis=-1).max() <= 1, "grey has no hue to shift"
    red = Image.new("RGB", (20, 20), (200, 40, 40))
    hues = {
        int(pixels(views.color_jitter(red, generator(seed)).convert("HSV"))[0, 0, 0] // 43)
        for seed in range(60)
    }
    assert len(hues) == 6
    bright = [pixels(views.color_jitter(red, generator(seed))).mean() for seed in range(30)]
    assert min(bright) < 40
    assert max(bright) > 120
    once = picture(30, 30)
    stored = io.BytesIO()
    once.save(stored, "PNG")
    again = views.color_jitter(Image.open(stored), generator(3))
    assert again.tobytes() == views.color_jitter(once, generator(3)).tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_diffused_pixels_keep_kind_and_shape_and_forget_with_the_step(
    dtype: torch.dtype,
) -> None:
    clean = torch.randn(2, 3, 24, 24, generator=generator(9)).to(dtype)
    alike = []
    for step in (0, 300, 600, 999):
        noisy = diffused(step, generator(1))(clean)
        assert (noisy.dtype, noisy.shape) == (dtype, clean.shape)
        assert torch.equal(noisy, diffused(step, generator(1))(clean))
        assert not torch.equal(noisy, diffused(step, generator(2))(clean))
        alike.append(torch.corrcoef(torch.stack([clean.flatten(), noisy.flatten()]).float())[0, 1])
    assert alike == sorted(alike, reverse=True)
    assert alike[0] > 0.99
    assert alike[-1] < 0.4
