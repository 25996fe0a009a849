"""Pictures in and out. Inside the toolkit an image is a (1, 3, H, W) float32 tensor with values in [0, 1]."""

import contextlib
import io
import json
import math
import os
import warnings
from collections.abc import Iterator
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from .download import stream

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of ImageNet's training pictures, by channel, in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)
MIN_SIDE = 16  # VGG halves a picture four times before conv5_1
MAX_PIXELS = 178_000_000  # where Pillow, too, suspects a decompression bomb
MAX_BYTES = 50_000_000  # of a picture from an address
RECIPE = "nst_recipe"  # the key under which a PNG holds it
_OVERSHOOT = 0.1  # how far outside [0, 1] a value may lie before it is called a mistake


# ---------------------------------------------------------------------------------------------- the network's input


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


def check_image(image: Tensor, name: str = "image") -> None:
    """Raise a ValueError unless the image is (..., 3, H, W), floating point, finite, and not clearly outside [0, 1]."""
    if image.ndim < 3 or image.shape[-3] != 3 or not image.is_floating_point():
        raise ValueError(f"{name}: a float tensor (..., 3, H, W) is meant, not {image.dtype} {tuple(image.shape)}")
    low, high = (value.item() for value in image.detach().aminmax())
    _check_range(low, high, name)


def _check_range(low: float, high: float, name: str) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{name}: holds values that are not finite (NaN or infinity)")
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        cause = "divide by 255" if low >= 0 and high > 10 else "was it normalized already (preprocess applied twice)?"
        raise ValueError(f"{name}: values from {low:.3g} to {high:.3g} where [0, 1] is meant; {cause}")


# ------------------------------------------------------------------------------------------------------------ saving


def save_image(
    image: Tensor, path: str | os.PathLike, *, recipe: dict | None = None, mask: Tensor | None = None
) -> Path:
    """Write an image to a file, whole or not at all, and return its path.

    Args:
        image: (1, 3, H, W) or (3, H, W) in [0, 1].
        path: ends in .png (lossless), .jpg or .jpeg (quality 95, full color resolution), or .webp (quality 95).
            Missing folders are made.
        recipe: what is embedded in a PNG for `settings_from_png`: `Result.recipe`, or anything that JSON can hold.
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


def settings_from_png(path: str | os.PathLike) -> dict:
    """Return the recipe that `save_image` embedded in a PNG; raises ValueError where there is none."""
    _, picture = read(path)
    picture.load()
    if RECIPE not in getattr(picture, "text", {}):
        raise ValueError(f"{path}: holds no recipe")
    return json.loads(picture.text[RECIPE])


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path to write to, in the same folder and with the same suffix, that becomes `path` if all goes well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def to_pil(image: Tensor) -> Image.Image:
    """Return an image, (1, 3, H, W) or (3, H, W) in [0, 1], as an 8-bit RGB PIL image."""
    check_image(image)
    if image.ndim == 4 and image.shape[0] == 1:
        image = image[0]
    if image.ndim != 3:
        raise ValueError(f"one image at a time, (1, 3, H, W) or (3, H, W), not {tuple(image.shape)}")
    pixels = image.detach().float().clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


# ----------------------------------------------------------------------------------------------------------- loading


def find_picture(name: str | os.PathLike) -> str | Path:
    """Return where a picture is: addresses and paths that exist as given, other paths in the project's folder."""
    if "://" in str(name) or Path(name).expanduser().exists():
        return name
    return Path(__file__).parent.parent / name


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
    bands = _bands(source, name)
    width, height = bands[0].size
    if not width or not height:
        raise ValueError(f"{name}: zero-sized ({width}×{height} px)")
    _check_sides(width, height, name)
    if size is not None:
        height, width = fitted(height, width, size, name)
        bands = resized_bands(bands, height, width)
    return _tensor(bands)


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Return a (1, 3, H, W) image in [0, 1] resized to (1, 3, height, width), with a Lanczos filter, on its device."""
    return _tensor(resized_bands(_float_bands(image[0].permute(1, 2, 0)), height, width)).to(image.device)


def scaled(height: int, width: int, size: int) -> tuple[int, int]:
    """Return (height, width) scaled so that the longest side is `size`."""
    return tuple(max(1, round(side * size / max(height, width))) for side in (height, width))


def fitted(height: int, width: int, size: int, name: str = "image") -> tuple[int, int]:
    """Return the same as `scaled`, with a warning if that enlarges.

    Raises ValueError where a side comes out smaller than the network can take.
    """
    new_height, new_width = scaled(height, width, size)
    _check_sides(new_width, new_height, name)
    if size > max(height, width):
        warnings.warn(f"{name}: enlarged from {width}×{height} to {new_width}×{new_height} px", stacklevel=4)
    return new_height, new_width


def resized_bands(bands: list[Image.Image], height: int, width: int) -> list[Image.Image]:
    return [band.resize((width, height), Image.Resampling.LANCZOS) for band in bands]


def read(source):
    """The source's name for messages, and an opened PIL image, an array or a tensor."""
    if isinstance(source, Image.Image):
        return "<PIL image>", source
    if isinstance(source, Tensor | np.ndarray):
        return f"<{type(source).__name__}>", source
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        return source, _open(io.BytesIO(b"".join(stream(source, MAX_BYTES))), source)
    if isinstance(source, bytes | bytearray | memoryview):
        return "<bytes>", _open(io.BytesIO(source), "<bytes>")
    if hasattr(source, "read"):
        name = str(getattr(source, "name", "<file>"))
        content = source.read()
        if isinstance(content, str):
            raise TypeError(f"{name}: a file opened as text; open it with mode 'rb'")
        return name, _open(io.BytesIO(content), name)
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        if path.is_dir():
            raise IsADirectoryError(f"{path}: a folder, not an image")
        return str(path), _open(io.BytesIO(path.read_bytes()), path)
    raise TypeError(
        f"a picture is a path, address, bytes, file, PIL image, array or tensor, not {type(source).__name__}"
    )


def _open(file: io.BytesIO, name) -> Image.Image:
    if not file.getbuffer().nbytes:
        raise ValueError(f"{name}: zero-sized (an empty file)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # at half of MAX_PIXELS
            picture = Image.open(file)
        megapixels = picture.width * picture.height / 1e6
    except Image.DecompressionBombError:
        megapixels = math.inf
    except Exception as error:
        raise ValueError(f"{name}: not an image that can be read") from error
    if megapixels > MAX_PIXELS / 1e6:
        raise ValueError(f"{name}: over {MAX_PIXELS / 1e6:.0f} megapixels")
    return picture


def _bands(source, name: str) -> list[Image.Image]:
    """Red, green and blue as single-band PIL images: 8-bit ("L"), or float32 ("F") with values in [0, 1]."""
    if not isinstance(source, Image.Image):
        array = as_array(source, name)
        if array.dtype != np.uint8 or 0 in array.shape:
            return _float_bands(array, name)
        source = Image.fromarray(array)
    try:
        picture = ImageOps.exif_transpose(source)
        if picture.mode[0] in "IF":  # 16-bit and 32-bit grayscale
            return _float_bands(as_array(np.asarray(picture), name), name)
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        return list(picture.convert("RGB").split())
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"{name}: truncated or damaged ({error})") from error


def as_array(source, name: str) -> np.ndarray:
    """(H, W), (H, W, 3) or (H, W, 4): uint8, or float32 in [0, 1]."""
    if isinstance(source, Tensor):
        tensor = source.detach().cpu()
        tensor = tensor[0] if tensor.ndim == 4 and len(tensor) == 1 else tensor
        if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
            raise ValueError(f"{name}: (1, 3, H, W), (3, H, W) or (1, H, W) is meant, not {tuple(source.shape)}")
        source = (tensor if tensor.dtype != torch.bfloat16 else tensor.float()).permute(1, 2, 0).numpy()
    if source.ndim == 3 and source.shape[2] == 1:
        source = source[:, :, 0]
    if not (source.ndim == 2 or (source.ndim == 3 and source.shape[2] in (3, 4))):
        raise ValueError(f"{name}: an array is (H, W), (H, W, 3) or (H, W, 4), not {source.shape}")
    if source.dtype == np.uint8 or source.dtype == bool:
        return np.ascontiguousarray(source).astype(np.uint8) * (255 if source.dtype == bool else 1)
    if source.dtype == np.int32 and source.size and source.min() >= 0 and source.max() < 2**16:  # Pillow's mode "I"
        source = source.astype(np.uint16)
    if source.dtype.kind == "u" and source.dtype.itemsize == 2:  # either byte order
        return source.astype(np.float32) / 65535
    if source.dtype.kind != "f":
        raise ValueError(f"{name}: an array holds uint8, uint16, bool or floats in [0, 1], not {source.dtype}")
    if source.size:
        _check_range(float(source.min()), float(source.max()), name)
    return source.astype(np.float32)


def _float_bands(array, name: str = "") -> list[Image.Image]:
    array = np.asarray(array.detach().cpu() if isinstance(array, Tensor) else array, dtype=np.float32)
    if 0 in array.shape:
        raise ValueError(f"{name}: zero-sized {array.shape}")
    if array.ndim == 2:
        array = np.stack([array] * 3, axis=2)
    if array.shape[2] == 4:
        array = array[:, :, :3] * array[:, :, 3:] + 1 - array[:, :, 3:]
    return [Image.fromarray(np.ascontiguousarray(array[:, :, band])) for band in range(3)]


def _check_sides(width: int, height: int, name: str) -> None:
    if min(width, height) < MIN_SIDE:
        raise ValueError(f"{name}: {width}×{height} px is smaller than the network can take ({MIN_SIDE} px a side)")


def _tensor(bands: list[Image.Image]) -> Tensor:
    planes = [np.asarray(band, np.float32) / (255 if band.mode == "L" else 1) for band in bands]
    return torch.from_numpy(np.stack(planes)).clamp(0, 1)[None]
