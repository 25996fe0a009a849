"""Which styles go where: one picture, several blended, or one or more for each region."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from . import validate
from .engine import Engine, Plain, loss_features
from .files.writing import read_tensors, write_tensors
from .images import fitted, resize, scaled
from .losses.gatys import STYLE_WEIGHTS
from .losses.style import STYLE_LOSSES, StyleLoss, pool_side
from .schedule import coarse_to_fine
from .vgg import VGG, load_vgg

FORMAT = "nst_helpers style 1"
PALETTE = 64  # px of the longest side of the picture's miniature, which is kept for its colors


@dataclass(frozen=True)
class SavedStyle:
    """What is kept of a style image, for `Style` in place of the image; from `save_style` or `load_style`.

    statistics: {size: {layer: Tensor}}, as the style loss makes them of the image at that size (longest side).
    palette: a miniature (1, 3, H, W).
    network: "vgg16", "vgg19", with its pooling, padding and inputs; `style_loss`: whose statistics these are.
    """

    statistics: dict[int, dict[str, Tensor]] = field(repr=False)
    palette: Tensor = field(repr=False)
    network: str
    style_loss: str

    def at(self, size: int, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return the statistics of the size saved that is nearest; raises ValueError for layers that are not there."""
        nearest = min(self.statistics, key=lambda saved: abs(math.log(saved / size)))
        statistics = self.statistics[nearest]
        if missing := [layer for layer in layers if layer not in statistics]:
            raise ValueError(f"the saved style lacks {', '.join(missing)}; it has {', '.join(statistics)}")
        return {layer: statistics[layer] for layer in layers}

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
        share = validate.number("share", share, high=1)
        other.check(self.network, self.style_loss)
        shapes = [{size: set(saved) for size, saved in style.statistics.items()} for style in (self, other)]
        if shapes[0] != shapes[1]:
            raise ValueError("the styles were not saved at the same sizes, with the same layers")
        blend = STYLE_LOSSES[self.style_loss].blend
        statistics = {
            size: {
                layer: blend([kept, other.statistics[size][layer]], [1 - share, share]) for layer, kept in saved.items()
            }
            for size, saved in self.statistics.items()
        }
        palette = torch.lerp(self.palette, resize(other.palette, *self.palette.shape[2:]), share)
        return SavedStyle(statistics, palette, self.network, self.style_loss)


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
            object.__setattr__(self, "image", validate.picture("style_image", self.image))
        validate.number("a style's weight", self.weight)
        validate.number("a style's scale", self.scale, low=0.01)

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
            object.__setattr__(self, "mask", validate.mask("a region's mask", self.mask))
        object.__setattr__(self, "styles", _normalized(self.styles))
        validate.number("a region's weight", self.weight)

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


def style_statistics(
    image: Tensor, style_loss: StyleLoss, engine: Engine, layers: Sequence[str], size: int
) -> dict[str, Tensor]:
    """Return {layer: statistics} of a style image, (1, 3, H, W) at the size that it is taken at.

    `size` is that of the painting, in pixels: with it, losses of feature maps choose how much they pool.
    """
    with torch.no_grad():
        _, features = loss_features(engine, style_loss.needs, image, [], layers)
        return {
            layer: style_loss.statistics(features[layer], None, pool_side(size, engine.network.stride(layer)))
            for layer in layers
        }


def save_style(
    path: str | Path | None,
    style: Tensor | SavedStyle,
    network: VGG | None = None,
    *,
    sizes: Sequence[int] | None = None,
    style_weights: Mapping[str, float] = STYLE_WEIGHTS,
    style_loss: str = "gram",
) -> SavedStyle:
    """Return what is kept of a style image, and write it to a file.

    Args:
        path: ends in .safetensors; None writes nothing. In the file numbers have half precision.
        style: an image (1, 3, H, W) in [0, 1]; or a saved style, to which the other arguments do not apply.
        network: from `load_vgg`; default `load_vgg()`, the network that `transfer` takes by default.
        sizes: longest sides in pixels: those of the paintings to come, times the style's scale. Default: the sizes
            that `transfer` would paint a picture as large as this one at, such as 128, 256 and 512 px.
        style_weights: {layer: weight}, of which the layers are kept.
        style_loss: a name in `STYLE_LOSSES`, for which it is kept.
    """
    if not isinstance(style, SavedStyle):
        image = validate.picture("style_image", style)
        loss = STYLE_LOSSES[validate.one_of("style_loss", style_loss, STYLE_LOSSES)]
        network = load_vgg() if network is None else network
        layers, height, width = network.check_layers(style_weights), *image.shape[2:]
        sizes = coarse_to_fine(height, width) if sizes is None else [int(size) for size in sizes]
        if not sizes:
            raise ValueError("sizes: expected at least one size in pixels, got none")
        shapes = {size: fitted(height, width, size, "style_image") for size in sizes}
        statistics = {
            size: style_statistics(resize(image, *shape).to(network.device), loss, Plain(network), layers, size)
            for size, shape in shapes.items()
        }
        palette = resize(image, *scaled(height, width, PALETTE))
        style = SavedStyle(statistics, palette, network.kind, style_loss)
    if path is not None:
        saved = {
            f"{size}/{layer}": values for size, layers in style.statistics.items() for layer, values in layers.items()
        }
        palette = (style.palette * 255).round().byte()
        write_tensors(
            path, FORMAT, saved | {"palette": palette}, {"network": style.network, "style_loss": style.style_loss}
        )
    return style


def load_style(path: str | Path) -> SavedStyle:
    """Return a style that `save_style` wrote; raises FileNotFoundError, or ValueError for another kind of file."""
    tensors, about = read_tensors(path, FORMAT)
    palette, statistics = tensors.pop("palette").float() / 255, {}
    for key, values in tensors.items():
        size, layer = key.split("/")
        statistics.setdefault(int(size), {})[layer] = values
    return SavedStyle(statistics, palette, **about)
