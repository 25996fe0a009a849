"""Which styles go where: one picture, several blended, or one or more for each region."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from . import checks
from .images import resize
from .style_losses import STYLE_LOSSES


@dataclass(frozen=True)
class SavedStyle:
    """What is kept of a style image, for `Style` in place of the image; from `save_style` or `load_style`.

    summaries: {size: {layer: Tensor}}, as the style loss makes them of the image at that size (longest side).
    palette: a miniature (1, 3, H, W).
    network: "vgg16", "vgg19", with its pooling, padding and inputs; `style_loss`: whose summaries these are.
    """

    summaries: dict[int, dict[str, Tensor]] = field(repr=False)
    palette: Tensor = field(repr=False)
    network: str
    style_loss: str

    def at(self, size: int, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return the summaries of the size saved that is nearest; raises ValueError for layers that are not there."""
        nearest = min(self.summaries, key=lambda saved: abs(math.log(saved / size)))
        summaries = self.summaries[nearest]
        if missing := [layer for layer in layers if layer not in summaries]:
            raise ValueError(f"the saved style lacks {', '.join(missing)}; it has {', '.join(summaries)}")
        return {layer: summaries[layer] for layer in layers}

    def check(self, network: str, style_loss: str) -> None:
        """Raise ValueError unless the style was saved with this network and for this style loss."""
        if self.network != network:
            raise ValueError(f"the style was saved with {self.network}, and the network is {network}")
        if self.style_loss != style_loss:
            raise ValueError(f'the style was saved for style_loss="{self.style_loss}", not "{style_loss}"')

    def mixed(self, other: "SavedStyle", share: float) -> "SavedStyle":
        """Return the style between this one (share 0) and another (1), saved alike.

        Raises ValueError where they were not saved with the same network, loss, sizes and layers.
        """
        share = checks.number("share", share, high=1)
        other.check(self.network, self.style_loss)
        shapes = [{size: set(saved) for size, saved in style.summaries.items()} for style in (self, other)]
        if shapes[0] != shapes[1]:
            raise ValueError("the styles were not saved at the same sizes, with the same layers")
        blend = STYLE_LOSSES[self.style_loss].blend
        summaries = {
            size: {
                layer: blend([kept, other.summaries[size][layer]], [1 - share, share]) for layer, kept in saved.items()
            }
            for size, saved in self.summaries.items()
        }
        palette = torch.lerp(self.palette, resize(other.palette, *self.palette.shape[2:]), share)
        return SavedStyle(summaries, palette, self.network, self.style_loss)


@dataclass(frozen=True)
class Style:
    """A style image, (1, 3, H, W) in [0, 1], or a `SavedStyle`, and how it is taken.

    weight: its share among the styles that it is blended with.
    scale: its longest side relative to the content's; larger makes larger strokes.
    """

    image: Tensor | SavedStyle = field(repr=False, compare=False)
    weight: float = 1.0
    scale: float = 1.0

    def __post_init__(self):
        if not isinstance(self.image, SavedStyle):
            object.__setattr__(self, "image", checks.picture("style_image", self.image))
        checks.number("a style's weight", self.weight)
        checks.number("a style's scale", self.scale, low=0.01)

    @property
    def picture(self) -> Tensor:
        """The image; of a saved style, its miniature."""
        return self.image.palette if isinstance(self.image, SavedStyle) else self.image


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
        object.__setattr__(self, "styles", _normalized(self.styles))
        checks.number("a region's weight", self.weight)

    def with_images(self, change: Callable[[Tensor], Tensor]) -> "Region":
        """Return this region with its style images changed; raises ValueError for saved styles, which have none."""
        if any(isinstance(style.image, SavedStyle) for style in self.styles):
            raise ValueError("a saved style cannot be recolored: it has no picture")
        return replace(self, styles=[replace(style, image=change(style.image)) for style in self.styles])


def _normalized(styles: Tensor | Style | Sequence[Tensor | Style]) -> tuple[Style, ...]:
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
