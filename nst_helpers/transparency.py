"""Pictures with transparency: painted without a halo, and transparent again."""

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from .images import as_array, fitted, read, resized_bands

FAINT = 0.05  # opacity up to which a pixel's own color is not to be trusted


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
    if isinstance(source, Image.Image):
        array = np.asarray(ImageOps.exif_transpose(source).convert("RGBA"))
    else:
        array = as_array(source, name)
    array = array.astype(np.float32) / (255 if array.dtype == np.uint8 else 1)
    if array.ndim == 2:
        array = np.stack([array] * 3, axis=2)
    alpha = array[:, :, 3:] if array.shape[2] == 4 else np.ones_like(array[:, :, :1])
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
