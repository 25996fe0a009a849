"""Reading pictures from paths, URLs, bytes, files, PIL images, arrays and tensors."""

import io
import math
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from ..validate import value_range
from .download import stream

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "TIFF", "BMP", "PPM", "JPEG2000")  # if Pillow supports them.
# Not all formats of Pillow are allowed: to open an EPS file, for example, it runs the PostScript program in it.
PROJECT = Path(__file__).parents[2]  # root folder of a clone, with data/ and notebooks/
MAX_PIXELS = 178_000_000  # Pillow's own limit for decompression bombs
MAX_BYTES = 50_000_000  # of a picture from a URL
MIN_OPACITY = 0.05  # pixels with less are treated as transparent: their color is unreliable


def find_picture(name: str | os.PathLike) -> str | os.PathLike:
    """Return the location of a picture: URLs and existing paths unchanged, other paths inside the project."""
    if "://" in str(name) or Path(name).expanduser().exists():
        return name
    return PROJECT / name


def read(source):
    """Return a source's name for error messages, and an opened PIL image, an array or a tensor."""
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
            raise TypeError(f"{name}: expected a binary file, got one opened as text; open it with mode 'rb'")
        return name, _open(io.BytesIO(content), name)
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        if path.is_dir():
            raise IsADirectoryError(f"{path}: expected an image, got a folder")
        return str(path), _open(io.BytesIO(path.read_bytes()), path)
    raise TypeError(f"expected a path, URL, bytes, file, PIL image, array or tensor, got {type(source).__name__}")


def _open(file: io.BytesIO, name) -> Image.Image:
    if not file.getbuffer().nbytes:
        raise ValueError(f"{name}: the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # at half of MAX_PIXELS
            picture = Image.open(file, formats=_known_formats())
        megapixels = picture.width * picture.height / 1e6
    except Image.DecompressionBombError:
        megapixels = math.inf
    except Exception as error:
        raise ValueError(f"{name}: expected an image in one of the formats {', '.join(_known_formats())}") from error
    if megapixels > MAX_PIXELS / 1e6:
        raise ValueError(f"{name}: expected at most {MAX_PIXELS / 1e6:.0f} megapixels, got more")
    return picture


def _known_formats() -> list[str]:
    """Return the `FORMATS` that this Pillow can open: AVIF depends on its build, HEIF on a plugin."""
    Image.init()
    return [format for format in FORMATS if format in Image.OPEN]


def bands_of(source, name: str) -> list[Image.Image]:
    """Return red, green and blue as single-band PIL images: 8-bit ("L"), or float32 ("F") with values in [0, 1]."""
    if not isinstance(source, Image.Image):
        array = as_array(source, name)
        if array.dtype != np.uint8 or 0 in array.shape:
            return float_bands(array, name)
        source = Image.fromarray(array)
    try:
        picture = ImageOps.exif_transpose(source)
        if picture.mode[0] in "IF":  # 16-bit and 32-bit grayscale
            return float_bands(as_array(np.asarray(picture), name), name)
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        return list(picture.convert("RGB").split())
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(f"{name}: the image is truncated or damaged ({error})") from error


def as_array(source, name: str) -> np.ndarray:
    """Return an array or a tensor as an array (H, W), (H, W, 3) or (H, W, 4): uint8, or float32 in [0, 1]."""
    if isinstance(source, Tensor):
        tensor = source.detach().cpu()
        tensor = tensor[0] if tensor.ndim == 4 and len(tensor) == 1 else tensor
        if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
            raise ValueError(f"{name}: expected (1, 3, H, W), (3, H, W) or (1, H, W), got {tuple(source.shape)}")
        source = (tensor if tensor.dtype != torch.bfloat16 else tensor.float()).permute(1, 2, 0).numpy()
    if source.ndim == 3 and source.shape[2] == 1:
        source = source[:, :, 0]
    if not (source.ndim == 2 or (source.ndim == 3 and source.shape[2] in (3, 4))):
        raise ValueError(f"{name}: expected an array (H, W), (H, W, 3) or (H, W, 4), got {source.shape}")
    if source.dtype == np.uint8 or source.dtype == bool:
        return np.ascontiguousarray(source).astype(np.uint8) * (255 if source.dtype == bool else 1)
    if source.dtype == np.int32 and source.size and source.min() >= 0 and source.max() < 2**16:  # Pillow's mode "I"
        source = source.astype(np.uint16)
    if source.dtype.kind == "u" and source.dtype.itemsize == 2:  # either byte order
        return source.astype(np.float32) / 65535
    if source.dtype.kind != "f":
        raise ValueError(f"{name}: expected uint8, uint16, bool or floats in [0, 1], got {source.dtype}")
    if source.size:
        value_range(float(source.min()), float(source.max()), name)
    return source.astype(np.float32)


def rgba(source, name: str) -> np.ndarray:
    """Return a source from `read` as RGBA: (H, W, 4), float32 in [0, 1]."""
    if isinstance(source, Image.Image):
        source = np.asarray(ImageOps.exif_transpose(source).convert("RGBA"))
    array = as_array(source, name)
    array = array.astype(np.float32) / (255 if array.dtype == np.uint8 else 1)
    if array.ndim == 2:
        array = np.stack([array] * 3, axis=2)
    return array if array.shape[2] == 4 else np.concatenate([array, np.ones_like(array[:, :, :1])], 2)


def filled(colors: Tensor, alpha: Tensor) -> Tensor:
    """Return colors from colors premultiplied by alpha; transparent pixels get means of the opaque ones around them."""
    here = colors / alpha.clamp_min(1e-6)
    opaque = alpha > MIN_OPACITY
    if bool(opaque.all()) or alpha.numel() == 1:
        return here.clamp(0, 1)
    half = -(-alpha.shape[2] // 2), -(-alpha.shape[3] // 2)
    wide = filled(adaptive_avg_pool2d(colors, half), adaptive_avg_pool2d(alpha, half))
    return torch.where(opaque, here, interpolate(wide, alpha.shape[2:], mode="bilinear")).clamp(0, 1)


def float_bands(array, name: str = "") -> list[Image.Image]:
    array = np.asarray(array.detach().cpu() if isinstance(array, Tensor) else array, dtype=np.float32)
    if 0 in array.shape:
        raise ValueError(f"{name}: the picture is zero-sized, {array.shape}")
    if array.ndim == 2:
        array = np.stack([array] * 3, axis=2)
    if array.shape[2] == 4:
        array = array[:, :, :3] * array[:, :, 3:] + 1 - array[:, :, 3:]
    return [Image.fromarray(np.ascontiguousarray(array[:, :, band])) for band in range(3)]
