"""The plan of a run: sizes, steps, and the starting image."""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from . import validate
from .colors import recolor
from .images import MIN_SIDE, resize
from .losses.gatys import weighted_sum

COARSE_SHARE = 0.4  # of the last size's steps, made at each smaller size
SMALLEST = 96  # px: default sizes halve no further


class Quality(NamedTuple):
    """Evaluations at each size but the last, and at the last; and the start."""

    coarse: int
    fine: int
    start: str


QUALITIES = {
    "draft": Quality(30, 15, "recolored"),
    "good": Quality(50, 75, "recolored"),
    "best": Quality(100, 300, "recolored"),
}


def coarse_to_fine(height: int, width: int, min_side: int = MIN_SIDE) -> tuple[int, ...]:
    """Return the sizes (longest sides) that a picture is painted at by default: 512×512 → (128, 256, 512).

    Its own size, halved as long as 96 px are left, and of the shorter side `min_side`, the least that a network takes.
    """
    sizes = [max(height, width)]
    while sizes[0] // 2 >= SMALLEST and min(height, width) * (sizes[0] // 2) >= min_side * max(height, width):
        sizes.insert(0, sizes[0] // 2)
    return tuple(sizes)


def steps_by_size(steps: int | Sequence[int] | None, sizes: tuple[int, ...], quality: Quality) -> tuple[int, ...]:
    """Return one number of steps a size: those given, or a share of the one given, or those of the quality."""
    if not sizes or list(sizes) != sorted(set(sizes)):
        raise ValueError(f"sizes are longest sides in pixels, ascending, not {sizes}")
    if steps is None:
        steps = [quality.coarse] * (len(sizes) - 1) + [quality.fine]
    if isinstance(steps, Integral):
        steps = [round(COARSE_SHARE * steps)] * (len(sizes) - 1) + [steps]
    if len(steps) != len(sizes) or min(steps) < 0 or not any(steps):
        raise ValueError(f"steps is a number above 0, or one a size, here {len(sizes)}, not {steps}")
    return tuple(steps)


STARTS: dict[str, Callable[[Tensor, Tensor, Callable], Tensor]] = {  # of (content image, white noise, mixed)
    "content": lambda content, white, mixed: content,
    "recolored": lambda content, white, mixed: mixed(lambda style: recolor(content, style)),
    "noise": lambda content, white, mixed: white,  # uniform, each channel of each pixel by itself
    "gray": lambda content, white, mixed: torch.full_like(white, 0.5),
    "style_colors": lambda content, white, mixed: mixed(lambda style: recolor(white, style)),
}


def start_image(
    start: str | Tensor,
    content_image: Tensor,
    styles: Sequence[Sequence[tuple[float, Tensor]]],
    masks: Tensor | None,
    noise: float,
    seed: int,
) -> Tensor:
    """Return the image that a painting begins with, of the content image's shape and on its device.

    start: a name in `STARTS`, or an image (1, 3, H, W) in [0, 1], which is stretched.
    styles: for each region, the weights and the pictures of its styles.
    masks: (R, 1, H, W), where each region is; None for one that is everywhere.
    noise: how much of the image is white noise, from 0 to 1.
    """
    shape = content_image.shape
    white = torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).to(content_image)

    def mixed(make: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what is made of each style picture, mixed as the styles are: by weight, and within each region."""
        images = [
            weighted_sum([(weight, make(picture).to(content_image)) for weight, picture in region]) for region in styles
        ]
        if masks is None:
            return images[0]
        shares = masks / masks.sum(0, keepdim=True).clamp_min(1e-6)
        return (shares * torch.cat(images)).sum(0, keepdim=True)

    if isinstance(start, Tensor):
        image = resize(validate.picture("start", start), *shape[2:]).to(white)
    else:
        image = STARTS[start](content_image, white, mixed)
    return torch.lerp(image, white, noise) if noise else image
