"""Schedule of a run: sizes from coarse to fine, steps at each size, and the starting image."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from . import validate
from .colors import recolor
from .images import MIN_SIDE, resize
from .losses.gatys import weighted_sum

COARSE_SHARE = 0.4  # steps at each smaller size, as a share of the steps at the last size
SIZE_RATIO = 1.6  # of a default size to the one before
SMALLEST = 150  # px: default sizes that are smaller than the picture are at least this
QUALITIES = {"draft": (15, 10), "good": (40, 60), "best": (120, 260)}  # steps at each smaller size and at the last size


def coarse_to_fine(height: int, width: int, min_side: int = MIN_SIDE) -> tuple[int, ...]:
    """Return the default sizes (longest sides) of a run, from coarse to fine: 512×512 → (200, 320, 512).

    The size is divided by 1.6 while the longest side stays at least 150 px and the shortest at least `min_side` px.
    """
    sizes, least = [max(height, width)], max(SMALLEST, validate.smallest_size(height, width, min_side))
    while (smaller := round(sizes[0] / SIZE_RATIO)) >= least:
        sizes.insert(0, smaller)
    return tuple(sizes)


def stages(
    steps: int | Sequence[int] | None, sizes: tuple[int, ...], quality: Sequence[int], least: int
) -> dict[int, int]:
    """Return {size: number of steps}: `steps` as given, derived from one number, or those of the quality.

    Sizes below `least` are raised to it, but not above the last size. Of sizes that become equal, the most steps count.
    """
    if not sizes or list(sizes) != sorted(set(sizes)):
        raise ValueError(f"sizes: expected longest sides in pixels, in ascending order, got {sizes}")
    if isinstance(steps, Sequence):
        counts = list(steps)
    else:
        coarse, fine = quality if steps is None else (round(COARSE_SHARE * steps), steps)
        counts = [coarse] * (len(sizes) - 1) + [fine]
    if len(counts) != len(sizes) or min(counts) < 0 or not any(counts):
        raise ValueError(f"steps: expected a number above 0, or one for each of the {len(sizes)} sizes, got {steps}")
    return dict(sorted((min(max(size, least), sizes[-1]), count) for size, count in zip(sizes, counts, strict=True)))


STARTS: dict[str, Callable[[Tensor, Tensor, Callable], Tensor]] = {  # functions of (content image, white noise, mixed)
    "content": lambda content, white, mixed: content,
    "recolored": lambda content, white, mixed: mixed(lambda style: recolor(content, style)),
    "noise": lambda content, white, mixed: white,  # uniform, independent for each pixel and channel
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
    """Return the starting image, with the content image's shape and on its device.

    start: a name in `STARTS`, or an image (1, 3, H, W) in [0, 1], which is resized.
    styles: for each region, pairs of a weight and a style picture.
    masks: the regions' masks (R, 1, H, W); None for a single region without a mask.
    noise, seed: share of white noise in the image, from 0 to 1, and its seed.
    """
    shape = content_image.shape
    white = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32).to(content_image)

    def mixed(make: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the mean of `make(picture)` over the styles of a region, by weight, and composite the regions."""
        images = [weighted_sum((weight, make(one).to(content_image)) for weight, one in region) for region in styles]
        if masks is None:
            return images[0]
        shares = masks / masks.sum(0, keepdim=True).clamp_min(1e-6)
        return (shares * torch.cat(images)).sum(0, keepdim=True)

    if isinstance(start, Tensor):
        image = resize(validate.picture("start", start), *shape[2:]).to(white)
    else:
        image = STARTS[start](content_image, white, mixed)
    return torch.lerp(image, white, noise) if noise else image
