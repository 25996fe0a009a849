"""Loading, preprocessing, resizing and saving images. An image is a (1, 3, H, W) float32 tensor in [0, 1], sRGB."""

import io
import json
import os
import zlib
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from .files.decoding import png_text
from .files.reading import filled, on_white, pixels, read, resized
from .files.writing import IMAGE_FORMATS, to_pil, written_whole
from .validate import check_image, large_enough, warn

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of the RGB channels of ImageNet's training images, in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)
MIN_SIDE = 16  # VGG halves a picture four times before conv5_1
RECIPE = "nst_recipe"  # key of the recipe among a PNG's text chunks


def preprocess(image: Tensor) -> Tensor:
    """Return the image normalized for torchvision's networks: (image − mean) / standard deviation.

    Args:
        image: (..., 3, H, W), RGB, floating point, in [0, 1].

    Raises:
        ValueError: not three channels; values clearly (by more than 0.1) outside [0, 1], or not finite.

    Mean and standard deviation are those of the channels of ImageNet's training images. `deprocess` is the inverse.
    """
    check_image(image)
    return (image - channels(IMAGENET_MEAN, image)) / channels(IMAGENET_STD, image)


def deprocess(normalized: Tensor) -> Tensor:
    """Return the image in [0, 1] for a normalized image: the exact inverse of `preprocess`. Nothing is clipped.

    Args:
        normalized: (..., 3, H, W), RGB, floating point, mean 0 and standard deviation 1 over ImageNet.
    """
    return normalized * channels(IMAGENET_STD, normalized) + channels(IMAGENET_MEAN, normalized)


def channels(values: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(3, 1, 1)


def save_image(
    image: Tensor, path: str | os.PathLike, *, recipe: dict | None = None, mask: Tensor | None = None
) -> Path:
    """Write an image to a file and return its path. If writing fails, an existing file is left unchanged.

    Args:
        image: (1, 3, H, W) or (3, H, W) in [0, 1].
        path: ends in .png (lossless), .jpg or .jpeg (quality 95, full color resolution), or .webp (quality 95).
            Missing folders are created.
        recipe: `Result.recipe`, or other data that JSON can represent. It is embedded in a PNG for `recipe_from_png`.
        mask: opacity (1, 1, H, W) in [0, 1], from `load_transparent`; not for JPEG, which has no transparency.

    Raises:
        ValueError: unknown suffix; a batch; values outside [0, 1]; a mask for JPEG; a recipe for anything but PNG.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in IMAGE_FORMATS:
        raise ValueError(f"{path}: expected a name that ends in one of {', '.join(IMAGE_FORMATS)}")
    picture, options = to_pil(image), dict(IMAGE_FORMATS[path.suffix.lower()])
    if mask is not None:
        if options["format"] == "JPEG":
            raise ValueError(f"{path}: JPEG has no transparency; use .png or .webp")
        if mask.shape[-2:] != image.shape[-2:]:
            raise ValueError(f"mask: expected {tuple(image.shape[-2:])} px, got {tuple(mask.shape[-2:])} px")
        picture.putalpha(to_pil(mask).getchannel(0))
    if recipe is not None:
        if options["format"] != "PNG":
            raise ValueError(f"{path}: only PNG files can hold a recipe; use .png")
        options["pnginfo"] = chunks = PngInfo()
        chunks.add_itxt(RECIPE, json.dumps(recipe), zip=True)
    picture.save(file := io.BytesIO(), **options)  # in a real file, Pillow does not notice that the disk is full
    with written_whole(path) as unfinished:
        unfinished.write_bytes(file.getvalue())
    return path


def recipe_from_png(path: str | os.PathLike) -> dict:
    """Return the recipe that `save_image` embedded in a PNG; raises ValueError if there is none."""
    name, content = read(path)
    try:
        recipe = json.loads(png_text(content, RECIPE) or "null") if isinstance(content, bytes) else None
    except (zlib.error, IndexError, ValueError) as error:
        raise ValueError(f"{name}: the recipe is damaged ({error})") from error
    if recipe is None:
        raise ValueError(f"{name} holds no recipe; save_image(…, recipe=result.recipe) embeds one in a PNG")
    return recipe


def load_image(source, size: int | None = 512) -> Tensor:
    """Return a picture as an image tensor: (1, 3, H, W) float32 in [0, 1], sRGB.

    Args:
        source: a path, an http(s) URL, bytes, a file object, a PIL image, an array (H, W), (H, W, 3) or (H, W, 4)
            of uint8, uint16, bool or floats in [0, 1], or a tensor (1, 3, H, W), (3, H, W) or (1, H, W).
        size: longest side in pixels. The picture is resized with a Lanczos filter; the aspect ratio stays. None keeps
            the picture's own size. A smaller picture is enlarged, with a warning.

    The color profile and the EXIF rotation are applied. Grayscale, palette, 16-bit (scaled, not clipped), CMYK and
    transparent (over white) pictures are converted to RGB. Of an animation, the first frame is used. Files are JPEG,
    PNG, WebP, TIFF, BMP, GIF, AVIF or, with pillow-heif, HEIC. A warning names a maximum under 1/8 of 16-bit scale.

    Raises:
        FileNotFoundError, IsADirectoryError: no such file, or a folder.
        ConnectionError, TimeoutError: the URL cannot be reached, or the server does not answer for 15 s.
        ValueError: not an image; another format, with its name; truncated; zero-sized; a side under 16 px (VGG halves
            it four times); over 178 megapixels (according to the header); over 50 MB (URLs); values on a scale that
            does not fit their type, such as 0 to 255 in more than 8 bits.
        TypeError: none of the sources above.
    """
    _, array, sides = sized_pixels(source, size)
    return resized(on_white(array), sides).clamp(0, 1)


def load_transparent(source, size: int | None = 512) -> tuple[Tensor, Tensor]:
    """Return a picture's colors, (1, 3, H, W) in [0, 1], and its opacity as a mask, (1, 1, H, W) in [0, 1].

    Args:
        source, size: see `load_image`. The mask of a picture without transparency is 1 everywhere.

    Transparent pixels get the colors of the nearest opaque ones, so that no background color shows at the edges.
    (`load_image` puts white there, which style transfer spreads as a halo.) Use the mask in a `Region` to stylize the
    opaque part only, and in `save_image` to restore the transparency. Raises the errors of `load_image`, and
    ValueError for a picture that is transparent everywhere.
    """
    name, array, sides = sized_pixels(source, size)
    if array.shape[2] == 3:
        colors = resized(array, sides).clamp(0, 1)
        return colors, torch.ones_like(colors[:, :1])
    array = array.astype(np.float32) / (255 if array.dtype == np.uint8 else 1)
    alpha = array[:, :, 3:]
    if not alpha.any():
        raise ValueError(f"{name}: the picture is transparent everywhere")
    planes = resized(np.concatenate([array[:, :, :3] * alpha, alpha], 2), sides)
    return filled(planes[:, :3], planes[:, 3:]), planes[:, 3:].clamp(0, 1)


def sized_pixels(source, size: int | None) -> tuple[str, np.ndarray, tuple[int, int]]:
    """Return a source's name, its pixels (H, W, 3 or 4), and the (height, width) to which they are to be resized."""
    if size is not None and (not isinstance(size, Integral) or size < MIN_SIDE):
        raise ValueError(f"size: expected the longest side in pixels, a whole number ≥ {MIN_SIDE}, got {size!r}")
    name, array = pixels(source)
    height, width = array.shape[:2]
    large_enough(name, height, width, MIN_SIDE)
    return name, array, (height, width) if size is None else fitted(height, width, size, name)


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Return an image (1, 3, H, W) in [0, 1] resized to (1, 3, height, width) with a Lanczos filter, on its device."""
    array = image[0].detach().float().permute(1, 2, 0).cpu().numpy()
    return resized(array, (height, width)).clamp(0, 1).to(image.device)


def sides(image: Tensor) -> tuple[int, int]:
    """Return (height, width) of an image or a mask (…, H, W)."""
    return image.shape[-2], image.shape[-1]


def scaled(height: int, width: int, size: int) -> tuple[int, int]:
    """Return (height, width), scaled so that the longest side is `size`."""
    longest = max(height, width)
    return max(1, round(height * size / longest)), max(1, round(width * size / longest))


def fitted(height: int, width: int, size: int, name: str = "image", min_side: int = MIN_SIDE) -> tuple[int, int]:
    """Return the same as `scaled`, with a warning if this enlarges the picture.

    Raises ValueError if a side becomes shorter than `min_side`.
    """
    new_height, new_width = scaled(height, width, size)
    large_enough(name, new_height, new_width, min_side)
    if size > max(height, width):
        warn(f"{name}: enlarged from {width}×{height} to {new_width}×{new_height} px")
    return new_height, new_width
