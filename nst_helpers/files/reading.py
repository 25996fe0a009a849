"""Reading pictures from paths, URLs, bytes, files, PIL images, arrays and tensors."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from .. import validate
from . import decoding
from .download import stream

PROJECT = Path(__file__).parents[2]  # root folder of a clone, with data/ and notebooks/
MAX_BYTES = 50_000_000  # of a picture from a URL
CHOOSE = "for the region of one color or label, make a mask with array == label, or (array == color).all(-1)"
LABEL = 0.02  # of full scale: masks of two values, 0 and one up to this, hold labels
MIN_OPACITY = 0.05  # pixels with less are treated as transparent: their color is unreliable


def find_picture(name: str | os.PathLike) -> str | os.PathLike:
    """Return the location of a picture: URLs and existing paths unchanged, other paths inside the project."""
    elsewhere = "://" in str(name) or str(name).startswith("data:")
    return name if elsewhere or os.path.exists(os.path.expanduser(name)) else PROJECT / name


def read(source) -> tuple[str, bytes | Image.Image | np.ndarray | Tensor]:
    """Return a source's name for messages, and a file's bytes, or the PIL image, array or tensor itself."""
    if isinstance(source, Image.Image | Tensor | np.ndarray):
        return "<PIL image>" if isinstance(source, Image.Image) else f"<{type(source).__name__}>", source
    if isinstance(source, bytes | bytearray | memoryview):
        return "<bytes>", bytes(source)
    if hasattr(source, "read"):
        name = str(getattr(source, "name", "<file>"))
        content = source.read()
        if isinstance(content, str):
            raise TypeError(f"{name}: expected a binary file, got one opened as text; open it with mode 'rb'")
        return name, content
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"expected a path, URL, bytes, file, PIL image, array or tensor, got {type(source).__name__}")
    name = str(source) if len(str(source)) <= 300 else f"{str(source)[:80]}…"
    scheme = str(source).partition(":")[0].lower()
    if scheme in ("http", "https"):
        return name, b"".join(stream(str(source), MAX_BYTES))
    if scheme in ("data", "file", "ftp", "s3", "gs", "blob") and ":" in str(source):
        raise ValueError(f"{name[:80]}: expected a path or an http(s) URL, got a {scheme}: address; pass the bytes")
    path = os.path.expanduser(source)
    if os.path.isdir(path):
        raise IsADirectoryError(f"{name}: expected an image, got a folder")
    if not os.path.exists(path):  # also if no file can have that name
        installed = "" if (PROJECT / "data").is_dir() else "; the course's pictures are not in the installed package"
        raise FileNotFoundError(f"{name}: no such file{installed}")
    try:
        return name, Path(path).read_bytes()
    except OSError as error:
        raise type(error)(f"{name}: the file cannot be read ({error.strerror})") from None


def pixels(source, decode: Callable = decoding.decode) -> tuple[str, np.ndarray]:
    """Return a source's name for messages, and its pixels: (H, W, 3 or 4), uint8, or float32 in [0, 1].

    decode: what decodes a file's bytes, with a name for messages, and returns an array and warnings.
    """
    name, content = read(source)
    if isinstance(content, Tensor | np.ndarray):
        return name, as_array(content, name)
    found = decoding.pixels(content, name) if isinstance(content, Image.Image) else decode(content, name)
    array, notes = found
    for note in notes:
        validate.warn(note)
    return name, as_array(array, name)


def as_array(source: np.ndarray | Tensor, name: str) -> np.ndarray:
    """Return an array or a tensor as an array (H, W, 3 or 4): uint8, or float32 in [0, 1]."""
    if isinstance(source, Tensor):
        tensor = source.detach().cpu()
        tensor = tensor[0] if tensor.ndim == 4 and len(tensor) == 1 else tensor
        if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
            raise ValueError(f"{name}: expected (1, 3, H, W), (3, H, W) or (1, H, W), got {tuple(source.shape)}")
        source = (tensor if tensor.dtype != torch.bfloat16 else tensor.float()).permute(1, 2, 0).numpy()
    if source.ndim == 2:
        source = source[:, :, None]
    if source.ndim != 3 or source.shape[2] not in (1, 3, 4):
        raise ValueError(f"{name}: expected an array (H, W), (H, W, 3) or (H, W, 4), got {source.shape}")
    if 0 in source.shape:
        raise ValueError(f"{name}: the picture is zero-sized, {source.shape}")
    if source.shape[2] == 1:
        source = source.repeat(3, 2)
    kind = source.dtype.kind
    if kind not in "biuf":
        raise ValueError(f"{name}: expected uint8, uint16, bool or floats in [0, 1], got {source.dtype}")
    low, high = source.min(), source.max()
    if kind == "b":
        return source.astype(np.uint8) * 255
    if source.dtype == np.uint8:
        return source
    if kind == "f":
        validate.value_range(float(low), float(high), name)
        return source.astype(np.float32)
    if kind == "u" and source.dtype.itemsize == 2 and not 0 < high <= 255:  # either byte order
        return source.astype(np.float32) / 65535
    hint = ""
    if kind in "iu" and low >= 0:
        hint = f"; convert it to {'uint8' if high <= 255 else 'uint16' if high < 2**16 else 'floats in [0, 1]'}"
    raise ValueError(
        f"{name}: expected uint8, uint16 up to 65535, bool or floats in [0, 1], "
        f"got {source.dtype} with values {low} to {high}{hint}"
    )


def resized(array: np.ndarray, sides: tuple[int, int]) -> Tensor:
    """Return pixels (H, W, C), uint8 or float32, as a tensor (1, C, *sides), with white at 1; Lanczos may overshoot."""
    height, width = sides
    bands = [Image.fromarray(np.ascontiguousarray(array[:, :, band])) for band in range(array.shape[2])]
    if array.shape[:2] != sides:
        bands = [band.resize((width, height), Image.Resampling.LANCZOS) for band in bands]
    planes = [np.asarray(band, np.float32) / (255 if band.mode == "L" else 1) for band in bands]
    return torch.from_numpy(np.stack(planes))[None]


def on_white(array: np.ndarray) -> np.ndarray:
    """Return pixels (H, W, 3 or 4) composited over white, (H, W, 3)."""
    if array.shape[2] == 3:
        return array
    if array.dtype == np.uint8:
        picture = Image.fromarray(array)
        return np.asarray(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB"))
    return array[:, :, :3] * array[:, :, 3:] + 1 - array[:, :, 3:]


def is_binary(values: Tensor | np.ndarray) -> bool:
    """Return whether values are integers, 0 or 1."""
    integers = not values.is_floating_point() if isinstance(values, Tensor) else values.dtype.kind in "iu"
    return integers and bool(((values == 0) | (values == 1)).all())


def mask_values(array: np.ndarray, name: str) -> np.ndarray:
    """Return how far pixels (H, W, 3 or 4) are inside a mask, see `masks.load_mask`: (H, W, 1), float32 in [0, 1]."""
    values = array.astype(np.float32) / (255 if array.dtype == np.uint8 else 1)
    colors, alpha = values[:, :, :3], values[:, :, 3:] if array.shape[2] == 4 else np.float32(1)
    light = colors.max(2, keepdims=True) * alpha
    if array.shape[2] == 4 and alpha.any() and not light.any():
        raise ValueError(f"{name}: expected white inside the region, got black on a transparent ground")
    positive = light[light > 0]
    if 0 < len(positive) < light.size and positive.min() <= LABEL:
        labels = np.unique(positive)
        if len(labels) == 1:
            return (light > 0).astype(np.float32)
        if len(labels) <= 4:
            raise ValueError(f"{name}: expected white inside and black outside, got several labels; {CHOOSE}")
    visible = light[:, :, 0] > 0.25
    painted = visible & (colors.min(2) < 0.75 * colors.max(2))  # in a color, not in white or gray
    if painted.sum() <= 0.01 * visible.sum():  # the noise of a JPEG, if anything
        return light
    red, green, blue = colors[painted].T
    hues = np.stack([red - (green + blue) / 2, (green - blue) * 3**0.5 / 2])
    _, counts = np.unique((colors[painted] * 255).round() @ (1, 256, 65536), return_counts=True)
    several = (counts > 0.02 * painted.sum()).sum() > 1 or np.hypot(*(hues / np.hypot(*hues)).mean(1)) < 0.95
    if several or painted.sum() < 0.99 * visible.sum():
        raise ValueError(f"{name}: expected white inside and black outside, got several colors; {CHOOSE}")
    return (light / np.median(light[painted])).clip(0, 1)


def filled(colors: Tensor, alpha: Tensor) -> Tensor:
    """Return colors from colors premultiplied by alpha; transparent pixels get means of the opaque ones around them."""
    here = colors / alpha.clamp_min(1e-6)
    opaque = alpha > MIN_OPACITY
    if bool(opaque.all()) or alpha.numel() == 1:
        return here.clamp(0, 1)
    half = -(-alpha.shape[2] // 2), -(-alpha.shape[3] // 2)
    wide = filled(adaptive_avg_pool2d(colors, half), adaptive_avg_pool2d(alpha, half))
    return torch.where(opaque, here, interpolate(wide, alpha.shape[2:], mode="bilinear")).clamp(0, 1)
