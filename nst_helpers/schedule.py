"""The plan of a run: sizes, steps, and the starting image."""

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from . import validate
from .colors import recolor
from .images import MIN_SIDE, resize
from .objective import Objective

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


def coarse_to_fine(height: int, width: int) -> tuple[int, ...]:
    """Return the sizes (longest sides) that a picture is painted at by default: 512×512 → (128, 256, 512).

    Its own size, halved as long as 96 px are left, and 16 px of the shorter side, the least that VGG can take.
    """
    sizes = [max(height, width)]
    while sizes[0] // 2 >= SMALLEST and min(height, width) * (sizes[0] // 2) >= MIN_SIDE * max(height, width):
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


def _recolored(objective: Objective, white: Tensor) -> Tensor:
    return objective.by_style(lambda style: recolor(objective.content_image, style))


def _style_colors(objective: Objective, white: Tensor) -> Tensor:
    return objective.by_style(lambda style: recolor(white, style))


STARTS: dict[str, Callable[[Objective, Tensor], Tensor]] = {
    "content": lambda objective, white: objective.content_image,
    "recolored": _recolored,  # the content in the style's colors
    "noise": lambda objective, white: white,  # uniform, each channel of each pixel by itself
    "gray": lambda objective, white: torch.full_like(white, 0.5),
    "style_colors": _style_colors,  # noise with the mean and covariance of the style's colors
}


def start_image(start: str | Tensor, objective: Objective, noise: float, seed: int) -> Tensor:
    """Return the image that a painting begins with, (1, 3, H, W) of the objective's size, on its device.

    Args:
        start: a name in `STARTS`, or an image (1, 3, H, W) in [0, 1], which is stretched.
        noise: how much of it is white noise, from 0 to 1.
        seed: of the noise.
    """
    shape = objective.content_image.shape
    white = torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).to(objective.content_image)
    if isinstance(start, Tensor):
        image = resize(validate.picture("start", start), *shape[2:]).to(white)
    else:
        image = STARTS[validate.one_of("start, where it is no image,", start, STARTS)](objective, white)
    noise = validate.number("noise", noise, high=1)
    return torch.lerp(image, white, noise) if noise else image
