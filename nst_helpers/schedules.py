"""How many evaluations a painting gets, and at which sizes."""

from collections.abc import Sequence
from numbers import Integral
from typing import NamedTuple

from .images import MIN_SIDE

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
