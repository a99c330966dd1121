"""Views of a picture for other branches: noise on pixels, transforms of images. Seeded and pure.

A view made once gives the same result for each call only as far as its generator has not moved;
strategies make one view per branch and apply it once.
"""

import math
from collections.abc import Callable

import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

ImageView = Callable[[Image.Image], Image.Image]
PixelView = Callable[[Tensor], Tensor]


def signal_and_noise(step: int) -> tuple[float, float]:
    """Factors of picture and noise after `step` (0-based, of 1000) of VCD's forward diffusion.

    beta_i = sigmoid(x_i) (0.5e-2 - 1e-5) + 1e-5 with x from -6 to 6; sqrt(abar), sqrt(1 - abar),
    abar = prod(1 - beta).
    """
    x = torch.linspace(-6, 6, 1000, dtype=torch.float64)
    betas = torch.sigmoid(x) * (0.5e-2 - 1e-5) + 1e-5
    kept = float(torch.cumprod(1 - betas, 0)[step])
    return math.sqrt(kept), math.sqrt(1 - kept)


def diffused(step: int, rng: torch.Generator) -> PixelView:
    """Forward diffusion on normalised pixels [..., 3, height, width], no clipping (VCD, arXiv
    2311.16922, Eq. 2).
    """
    signal, noise = signal_and_noise(step)

    def view(pixels: Tensor) -> Tensor:
        drawn = torch.randn(pixels.shape, generator=rng).to(pixels)
        return signal * pixels + noise * drawn

    return view


def horizontal_flip(image: Image.Image, rng: torch.Generator) -> Image.Image:
    """Left and right swapped."""
    return ImageOps.mirror(image)


def vertical_flip(image: Image.Image, rng: torch.Generator) -> Image.Image:
    """Top and bottom swapped."""
    return ImageOps.flip(image)


def rotate(image: Image.Image, rng: torch.Generator) -> Image.Image:
    """About the centre by -180 to 180 degrees, corners black."""
    return image.rotate(_uniform(rng, -180, 180))


def color_jitter(image: Image.Image, rng: torch.Generator) -> Image.Image:
    """Brightness, contrast, saturation times 0 to 2, hue by up to half a turn, in random order."""
    brightness, contrast, saturation = (_uniform(rng, 0, 2) for _ in range(3))
    hue = _uniform(rng, -0.5, 0.5)
    steps: list[ImageView] = [
        lambda seen: ImageEnhance.Brightness(seen).enhance(brightness),
        lambda seen: ImageEnhance.Contrast(seen).enhance(contrast),
        lambda seen: ImageEnhance.Color(seen).enhance(saturation),
        lambda seen: _hue_shifted(seen, hue),
    ]
    for index in torch.randperm(len(steps), generator=rng).tolist():
        image = steps[index](image)
    return image


def gaussian_blur(image: Image.Image, rng: torch.Generator) -> Image.Image:
    """A 13-tap Gaussian of sigma 1.5 to 2, edges reflected."""
    taps = torch.arange(-6, 7, dtype=torch.float32)
    kernel = torch.exp(-(taps**2) / (2 * _uniform(rng, 1.5, 2.0) ** 2))
    kernel = kernel / kernel.sum()
    pixels = _to_tensor(image)[:, None]  # [3, 1, H, W]
    padded = torch.nn.functional.pad(pixels, (6, 6, 6, 6), mode="reflect")
    rows = torch.nn.functional.conv2d(padded, kernel.reshape(1, 1, 1, -1))
    return _to_image(torch.nn.functional.conv2d(rows, kernel.reshape(1, 1, -1, 1))[:, 0])


def crop(image: Image.Image, rng: torch.Generator, size: int = 336) -> Image.Image:
    """A window of 8 to 100 % of the area and proportions 3:4 to 4:3, resized to 336 x 336
    (bilinear).
    """
    width, height = image.size
    for _ in range(10):
        area = width * height * _uniform(rng, 0.08, 1.0)
        ratio = math.exp(_uniform(rng, math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left = int(_uniform(rng, 0, width - w + 1))
            top = int(_uniform(rng, 0, height - h + 1))
            break
    else:  # extreme proportions: the largest window that is allowed, in the middle
        w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
        left, top = (width - w) // 2, (height - h) // 2
    return image.resize((size, size), Image.Resampling.BILINEAR, box=(left, top, left + w, top + h))


TRANSFORMS = ("horizontal_flip", "vertical_flip", "rotate", "color_jitter", "gaussian_blur", "crop")
_BY_NAME = dict(
    zip(
        TRANSFORMS,
        (horizontal_flip, vertical_flip, rotate, color_jitter, gaussian_blur, crop),
        strict=True,
    )
)


def transformed(name: str, rng: torch.Generator) -> ImageView:
    """One of RITUAL's six transforms (arXiv 2405.17821); "random" draws which."""
    if name == "random":
        name = TRANSFORMS[int(torch.randint(len(TRANSFORMS), (), generator=rng))]
    return lambda image: _BY_NAME[name](image, rng)


def _uniform(rng: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=rng))


def _hue_shifted(image: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    moved = hue.point([(level + round(turns * 255)) % 256 for level in range(256)])
    return Image.merge("HSV", (moved, saturation, value)).convert("RGB")


def _to_tensor(image: Image.Image) -> Tensor:
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.reshape(image.height, image.width, 3).permute(2, 0, 1).float()


def _to_image(pixels: Tensor) -> Image.Image:
    return Image.fromarray(
        pixels.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    )
