"""What a painting begins with."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import checks
from .colors import recolor
from .images import resize
from .objective import Objective


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
        image = resize(checks.picture("start", start), *shape[2:]).to(white)
    else:
        image = STARTS[checks.one_of("start, where it is no image,", start, STARTS)](objective, white)
    noise = checks.number("noise", noise, high=1)
    return torch.lerp(image, white, noise) if noise else image
