"""Pictures in and out. Inside the toolkit an image is a (1, 3, H, W) float32 tensor with values in [0, 1]."""

import json
import os
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from .files.reading import bands_of, float_bands, read, rgba
from .files.writing import to_pil, written_whole
from .validate import check_image, warn

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of ImageNet's training pictures, by channel, in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)
MIN_SIDE = 16  # VGG halves a picture four times before conv5_1
FAINT = 0.05  # opacity up to which a pixel's own color is not to be trusted
RECIPE = "nst_recipe"  # the key under which a PNG holds it


def preprocess(image: Tensor) -> Tensor:
    """Return the image as torchvision's networks were trained to see it: (image − mean) / standard deviation.

    Args:
        image: (..., 3, H, W), RGB, floating point, in [0, 1].

    Raises:
        ValueError: not three channels; values clearly (by more than 0.1) outside [0, 1], or not finite.

    Mean and standard deviation are those of ImageNet's training pictures, by channel. `deprocess` is the inverse.
    """
    check_image(image)
    return (image - channels(IMAGENET_MEAN, image)) / channels(IMAGENET_STD, image)


def deprocess(normalized: Tensor) -> Tensor:
    """Return the image in [0, 1] that `preprocess` turned into `normalized`, the exact inverse: nothing is clipped.

    Args:
        normalized: (..., 3, H, W), RGB, floating point, mean 0 and standard deviation 1 over ImageNet.
    """
    return normalized * channels(IMAGENET_STD, normalized) + channels(IMAGENET_MEAN, normalized)


def channels(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(3, 1, 1)


def save_image(
    image: Tensor, path: str | os.PathLike, *, recipe: dict | None = None, mask: Tensor | None = None
) -> Path:
    """Write an image to a file, whole or not at all, and return its path.

    Args:
        image: (1, 3, H, W) or (3, H, W) in [0, 1].
        path: ends in .png (lossless), .jpg or .jpeg (quality 95, full color resolution), or .webp (quality 95).
            Missing folders are made.
        recipe: what is embedded in a PNG for `recipe_from_png`: `Result.recipe`, or anything that JSON can hold.
        mask: (1, 1, H, W), how opaque it is, from `load_transparent`; JPEG has no transparency.

    Raises:
        ValueError: another suffix, a batch, values outside [0, 1], or a format that cannot hold what it should.
    """
    path = Path(path).expanduser()
    formats = {
        ".png": {"format": "PNG", "optimize": True},
        ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
        ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
        ".webp": {"format": "WEBP", "quality": 95},
    }
    if path.suffix.lower() not in formats:
        raise ValueError(f"{path}: the name must end in one of {', '.join(formats)}")
    picture, options = to_pil(image), formats[path.suffix.lower()]
    if mask is not None:
        if options["format"] == "JPEG":
            raise ValueError(f"{path}: JPEG has no transparency; take .png or .webp")
        if mask.shape[-2:] != image.shape[-2:]:
            raise ValueError(f"the mask is {tuple(mask.shape[-2:])}, the image {tuple(image.shape[-2:])} px")
        picture.putalpha(to_pil(mask.expand(1, 3, -1, -1)).getchannel(0))
    if recipe is not None:
        if options["format"] != "PNG":
            raise ValueError(f"{path}: only .png holds a recipe")
        options["pnginfo"] = PngInfo()
        options["pnginfo"].add_itxt(RECIPE, json.dumps(recipe, ensure_ascii=False), zip=True)
    with written_whole(path) as unfinished:
        picture.save(unfinished, **options)
    return path


def recipe_from_png(path: str | os.PathLike) -> dict:
    """Return the recipe that `save_image` embedded in a PNG; raises ValueError where there is none."""
    _, picture = read(path)
    picture.load()
    if RECIPE not in getattr(picture, "text", {}):
        raise ValueError(f"{path}: holds no recipe")
    return json.loads(picture.text[RECIPE])


def load_image(source, size: int | None = 512) -> Tensor:
    """Return a picture as a (1, 3, H, W) float32 tensor in [0, 1], RGB.

    Args:
        source: a path, an http(s) address, bytes, a file object, a PIL image, an array (H, W), (H, W, 3) or (H, W, 4)
            of uint8, uint16, bool or floats in [0, 1], or a tensor (1, 3, H, W), (3, H, W) or (1, H, W).
        size: the longest side in pixels, reached with a Lanczos filter at the same aspect ratio; None keeps the
            picture's own. A smaller picture is enlarged with a warning.

    Rotation in EXIF is applied. Grayscale, palette, 16-bit (scaled, not clipped), CMYK and transparent (over white)
    pictures become RGB. Of an animation the first frame is taken.

    Raises:
        FileNotFoundError, IsADirectoryError: nothing there, or a folder.
        ConnectionError, TimeoutError: the address cannot be had, or is silent for 15 s.
        ValueError: not an image, truncated, zero-sized, a side under 16 px (VGG halves it four times), over
            178 megapixels (judged from the header), over 50 MB (addresses).
        TypeError: none of the sources above.
    """
    name, source = read(source)
    if size is not None and (not isinstance(size, Integral) or size < MIN_SIDE):
        raise ValueError(f"size is the longest side in whole pixels, at least {MIN_SIDE}, not {size!r}")
    bands = bands_of(source, name)
    width, height = bands[0].size
    if not width or not height:
        raise ValueError(f"{name}: zero-sized ({width}×{height} px)")
    _check_sides(width, height, name)
    if size is not None:
        height, width = fitted(height, width, size, name)
        bands = resized_bands(bands, height, width)
    return _tensor(bands)


def load_transparent(source, size: int | None = 512) -> tuple[Tensor, Tensor]:
    """Return a picture without its transparency, (1, 3, H, W) in [0, 1], and the mask of what is there, (1, 1, H, W).

    Args:
        source, size: as `load_image` takes them; what has no transparency has a mask of 1.

    Where nothing is there, the colors of what is nearest go on, so that no background shines through at the edges;
    `load_image` puts white there, which a painting spreads as a halo. Give the mask to a `Region` to take the style of
    nothing else, and to `save_image` to have the transparency back. Raises what `load_image` raises, and ValueError
    where nothing is there at all.
    """
    name, source = read(source)
    array = rgba(source, name)
    alpha = array[:, :, 3:]
    if not alpha.any():
        raise ValueError(f"{name}: nothing is there, all is transparent")
    planes = np.concatenate([array[:, :, :3] * alpha, alpha], 2)
    bands = [Image.fromarray(np.ascontiguousarray(planes[:, :, band])) for band in range(4)]
    if size is not None:
        bands = resized_bands(bands, *fitted(*array.shape[:2], size, name))
    planes = torch.from_numpy(np.stack([np.asarray(band) for band in bands]))[None]
    return _filled(planes[:, :3], planes[:, 3:]), planes[:, 3:].clamp(0, 1)


def _filled(colors: Tensor, alpha: Tensor) -> Tensor:
    """Return colors, given multiplied by alpha, divided by it; where that is 0, means of what is around."""
    here = colors / alpha.clamp_min(1e-6)
    seen = alpha > FAINT
    if bool(seen.all()) or alpha.numel() == 1:
        return here.clamp(0, 1)
    half = [-(-side // 2) for side in alpha.shape[2:]]
    wide = _filled(adaptive_avg_pool2d(colors, half), adaptive_avg_pool2d(alpha, half))
    return torch.where(seen, here, interpolate(wide, alpha.shape[2:], mode="bilinear")).clamp(0, 1)


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Return a (1, 3, H, W) image in [0, 1] resized to (1, 3, height, width), with a Lanczos filter, on its device."""
    return _tensor(resized_bands(float_bands(image[0].permute(1, 2, 0)), height, width)).to(image.device)


def scaled(height: int, width: int, size: int) -> tuple[int, int]:
    """Return (height, width) scaled so that the longest side is `size`."""
    return tuple(max(1, round(side * size / max(height, width))) for side in (height, width))


def fitted(height: int, width: int, size: int, name: str = "image", min_side: int = MIN_SIDE) -> tuple[int, int]:
    """Return the same as `scaled`, with a warning if that enlarges.

    Raises ValueError where a side becomes smaller than the network can take.
    """
    new_height, new_width = scaled(height, width, size)
    _check_sides(new_width, new_height, name, min_side)
    if size > max(height, width):
        warn(f"{name}: enlarged from {width}×{height} to {new_width}×{new_height} px")
    return new_height, new_width


def resized_bands(bands: list[Image.Image], height: int, width: int) -> list[Image.Image]:
    return [band.resize((width, height), Image.Resampling.LANCZOS) for band in bands]


def _check_sides(width: int, height: int, name: str, min_side: int = MIN_SIDE) -> None:
    if min(width, height) < min_side:
        raise ValueError(f"{name}: {width}×{height} px is smaller than the network can take ({min_side} px a side)")


def _tensor(bands: list[Image.Image]) -> Tensor:
    planes = [np.asarray(band, np.float32) / (255 if band.mode == "L" else 1) for band in bands]
    return torch.from_numpy(np.stack(planes)).clamp(0, 1)[None]
