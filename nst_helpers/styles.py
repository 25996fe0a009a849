"""Which styles go where: one picture, several blended, or one or more for each region."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from . import checks


@dataclass(frozen=True)
class Style:
    """A style image, (1, 3, H, W) in [0, 1], and how it is taken.

    weight: its share among the styles that it is blended with.
    scale: its longest side relative to the content's; larger makes larger strokes.
    """

    image: Tensor = field(repr=False, compare=False)
    weight: float = 1.0
    scale: float = 1.0

    def __post_init__(self):
        object.__setattr__(self, "image", checks.picture("style_image", self.image))
        checks.number("a style's weight", self.weight)
        checks.number("a style's scale", self.scale, low=0.01)


@dataclass(frozen=True)
class Region:
    """A part of the content image, and the styles that it gets.

    mask: (1, 1, H, W) in [0, 1], of the content image's shape, from `load_mask` or `find_regions`: where, and how
        much; None is everywhere.
    styles: an image, a `Style`, or several that are blended.
    weight: of its style loss. With 1, each pixel is pulled as hard as if the styles covered the whole picture.
    """

    mask: Tensor | None = field(repr=False, compare=False)
    styles: Tensor | Style | Sequence[Tensor | Style]
    weight: float = 1.0

    def __post_init__(self):
        if self.mask is not None:
            object.__setattr__(self, "mask", checks.mask("a region's mask", self.mask))
        object.__setattr__(self, "styles", _normalised(self.styles))
        checks.number("a region's weight", self.weight)

    def with_images(self, change: Callable[[Tensor], Tensor]) -> "Region":
        """Return this region with its style images changed."""
        return replace(self, styles=[replace(style, image=change(style.image)) for style in self.styles])


def _normalised(styles: Tensor | Style | Sequence[Tensor | Style]) -> tuple[Style, ...]:
    """Return styles with weights that add up to 1."""
    given = list(styles) if isinstance(styles, Sequence) else [styles]
    styles = [style if isinstance(style, Style) else Style(style) for style in given]
    total = sum(style.weight for style in styles)
    if not total > 0:
        raise ValueError("of the styles that are blended, at least one has a weight above 0")
    return tuple(replace(style, weight=style.weight / total) for style in styles)


def as_regions(styles) -> tuple[Region, ...]:
    """Return what a `StyleTransfer` was given as its styles as regions; one that is everywhere, if none is among them.

    Raises ValueError for regions mixed with styles, and for nothing.
    """
    given = list(styles) if isinstance(styles, Sequence) else [styles]
    if not any(isinstance(style, Region) for style in given):
        return (Region(None, given),)
    if not all(isinstance(style, Region) for style in given):
        raise ValueError("regions and styles are mixed: put each style into a Region, with its mask")
    return tuple(given)
