"""Styles of a run: `Style`, `Region`, and saved style statistics."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from . import validate
from .engine import Engine, Plain, request_for
from .files.surroundings import isolated
from .files.writing import read_tensors, write_tensors
from .images import fitted, resize, scaled, sides
from .losses.gatys import STYLE_WEIGHTS
from .losses.style import STYLE_LOSSES, StyleLoss, pool_side
from .schedule import coarse_to_fine
from .vgg import VGG, load_vgg

FORMAT = "nst_helpers style 1"
PALETTE = 64  # px: longest side of the thumbnail that a saved style keeps for its colors


@dataclass(frozen=True)
class SavedStyle:
    """Saved statistics of a style image, from `save_style` or `load_style`; use it in place of the image.

    statistics: {size: {layer: Tensor}}: `StyleLoss.statistics` of the image at that size (longest side in pixels).
    palette: a thumbnail (1, 3, H, W) of the image.
    network: `VGG.kind` of the network that computed the features; style_loss: name of the style loss.
    """

    statistics: dict[int, dict[str, Tensor]] = field(repr=False)
    palette: Tensor = field(repr=False)
    network: str
    style_loss: str

    def at(self, size: int, layers: Sequence[str]) -> dict[str, Tensor]:
        """Return the statistics at the nearest saved size; raises ValueError for layers that were not saved."""
        nearest = min(self.statistics, key=lambda saved: abs(math.log(saved / size)))
        statistics = self.statistics[nearest]
        if missing := [layer for layer in layers if layer not in statistics]:
            raise ValueError(f"expected layers of the saved style ({', '.join(statistics)}), got {', '.join(missing)}")
        return {layer: statistics[layer] for layer in layers}

    def check(self, network: str, style_loss: str) -> None:
        """Raise ValueError unless the style was saved with this network and for this style loss."""
        for name, saved, given in (("network", self.network, network), ("style_loss", self.style_loss, style_loss)):
            if given != saved:
                raise ValueError(f"expected the {name} that the style was saved with, {saved}, got {given}")

    def mixed(self, other: "SavedStyle", share: float) -> "SavedStyle":
        """Return a blend of this style (share 0) and another (share 1).

        Raises ValueError unless both were saved with the same network, style loss, sizes and layers.
        """
        share = validate.number("share", share, high=1)
        other.check(self.network, self.style_loss)
        shapes = [{size: set(saved) for size, saved in style.statistics.items()} for style in (self, other)]
        if shapes[0] != shapes[1]:
            raise ValueError("expected two styles that were saved at the same sizes and with the same layers")
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
    """A style image with its weight and scale.

    image: (1, 3, H, W) in [0, 1], or a `SavedStyle`.
    weight: relative to the other styles that it is blended with.
    scale: longest side of the resized style image, relative to the content's; a larger scale makes larger strokes.
        At sizes that the toolkit chooses, the image is not made smaller than the network can take.
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
        """The image; the thumbnail of a saved style."""
        return self.image.palette if isinstance(self.image, SavedStyle) else self.image

    def smallest_size(self, min_side: int) -> int:
        """Return the smallest size of a painting at which the image has sides of `min_side` px; of 1 px if saved."""
        least = 1 if isinstance(self.image, SavedStyle) else validate.smallest_size(*sides(self.image), min_side)
        return math.ceil(least / self.scale)


@dataclass(frozen=True, init=False)
class Region:
    """A region of the content image, and the styles to paint it in.

    mask: (1, 1, H, W) in [0, 1], of the content image's size, from `load_mask` or `find_regions`; None: everywhere.
    styles: an image, a `Style`, or a sequence of these, which are blended.
    weight: of its style loss. With 1, the gradient of a pixel is about as large as if the region were the whole image.
    """

    mask: Tensor | None = field(repr=False, compare=False)
    styles: tuple[Style, ...]
    weight: float

    def __init__(self, mask: Tensor | None, styles: Tensor | Style | Sequence[Tensor | Style], weight: float = 1.0):
        object.__setattr__(self, "mask", None if mask is None else validate.mask("a region's mask", mask))
        object.__setattr__(self, "styles", _normalized(styles))
        object.__setattr__(self, "weight", validate.number("a region's weight", weight))

    def with_images(self, change: Callable[[Tensor], Tensor]) -> "Region":
        """Return this region with `change` applied to its style images; raises ValueError for saved styles."""
        if any(isinstance(style.image, SavedStyle) for style in self.styles):
            raise ValueError("expected style images, got a saved style, which has no image to recolor")
        return Region(self.mask, [replace(style, image=change(style.picture)) for style in self.styles], self.weight)


def _normalized(styles: Tensor | Style | Sequence[Tensor | Style]) -> tuple[Style, ...]:
    """Return styles with weights scaled to add up to 1."""
    given = styles if isinstance(styles, Sequence) else [styles]
    found = [style if isinstance(style, Style) else Style(style) for style in given]
    total = sum(style.weight for style in found)
    if not total > 0:
        raise ValueError("expected at least one style with a weight above 0")
    return tuple(replace(style, weight=style.weight / total) for style in found)


def as_regions(styles) -> tuple[Region, ...]:
    """Return the argument `style_image` of `StyleTransfer` as regions; styles become one region without a mask.

    Raises ValueError for a mixture of regions and styles, and for an empty sequence.
    """
    given = list(styles) if isinstance(styles, Sequence) else [styles]
    if not any(isinstance(style, Region) for style in given):
        return (Region(None, given),)
    if not all(isinstance(style, Region) for style in given):
        raise ValueError("expected only styles or only regions, got both: put each style into a Region, with its mask")
    return tuple(given)


def style_statistics(
    image: Tensor, style_loss: StyleLoss, engine: Engine, layers: Sequence[str], size: int
) -> dict[str, Tensor]:
    """Return {layer: statistics} of a style image (1, 3, H, W) that is already resized.

    `size` is the longest side of the painting in pixels. The average pooling of pairwise losses depends on it.
    """
    with torch.no_grad():
        maps, grams, _ = engine.forward(image, request_for(style_loss.needs, [], layers))
        features = maps | grams
        return {
            layer: style_loss.statistics(features[layer], None, pool_side(size, engine.network.stride(layer)))
            for layer in layers
        }


@isolated
def save_style(
    path: str | Path | None,
    style: Tensor | SavedStyle,
    network: VGG | None = None,
    *,
    sizes: Sequence[int] | None = None,
    style_weights: Mapping[str, float] = STYLE_WEIGHTS,
    style_loss: str = "wasserstein",
) -> SavedStyle:
    """Return the statistics of a style image as a `SavedStyle`, and write them to a file.

    Args:
        path: ends in .safetensors; None writes no file. Numbers in the file have half precision.
        style: an image (1, 3, H, W) in [0, 1]; or a `SavedStyle`, to which the other arguments do not apply.
        network: from `load_vgg`; default `load_vgg()`, the default network of `transfer`.
        sizes: longest sides in pixels. Use those of the paintings to be made, times the style's scale. Default: the
            sizes of `transfer` for a content image as large as this one, such as 200, 320 and 512 px.
        style_weights: {layer: weight}; statistics of these layers are saved.
        style_loss: a name in `STYLE_LOSSES`.
    """
    if not isinstance(style, SavedStyle):
        image = validate.picture("style_image", style)
        loss = STYLE_LOSSES[validate.one_of("style_loss", style_loss, STYLE_LOSSES)]
        network = load_vgg() if network is None else network
        layers, least, (height, width) = network.check_layers(style_weights), network.min_side, image.shape[2:]
        sizes = coarse_to_fine(height, width, least) if sizes is None else [int(size) for size in sizes]
        if not sizes:
            raise ValueError("sizes: expected at least one size in pixels, got none")
        shapes = {size: fitted(height, width, size, "style_image", least) for size in sizes}
        statistics = {
            size: style_statistics(resize(image, *shape).to(network.device), loss, Plain(network), layers, size)
            for size, shape in shapes.items()
        }
        palette = resize(image, *scaled(height, width, PALETTE))
        style = SavedStyle(statistics, palette, network.kind, style_loss)
    if path is not None:
        saved = {f"{size}/{layer}": one for size, found in style.statistics.items() for layer, one in found.items()}
        saved["palette"] = (style.palette * 255).round().byte()
        write_tensors(path, FORMAT, saved, {"network": style.network, "style_loss": style.style_loss})
    return style


def load_style(path: str | Path) -> SavedStyle:
    """Return a style from a file of `save_style`; raises FileNotFoundError, and ValueError for other kinds of files."""
    tensors, about = read_tensors(path, FORMAT)
    palette = tensors.pop("palette").float() / 255
    statistics: dict[int, dict[str, Tensor]] = {}
    for key, values in tensors.items():
        size, layer = key.split("/")
        statistics.setdefault(int(size), {})[layer] = values
    return SavedStyle(statistics, palette, **about)
