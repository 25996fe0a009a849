"""The pictures of a run, its layers, and compositing."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..colors import COLORS
from ..files.surroundings import isolated
from ..images import fitted, sides
from ..settings import Settings
from ..styles import Region, SavedStyle
from ..vgg import VGG


@dataclass(frozen=True, eq=False)
class Compositing:
    """Compositing: the optimized image inside the regions, the content image outside; and final color conversion."""

    color: str
    photograph: Tensor | None  # the content image before any color conversion, for color modes that restore its colors
    content_image: Tensor | None  # shown outside all regions
    outside: Tensor | None  # opacity of the content image there, (1, 1, H, W)

    def composite(self, image: Tensor) -> Tensor:
        """Return the image with the content image outside all regions. Losses are computed from this image."""
        if self.content_image is None or self.outside is None:
            return image
        return torch.lerp(image, self.content_image, self.outside)

    @isolated
    @torch.no_grad()
    def display(self, image: Tensor) -> Tensor:
        """Return the image to display: composited, and with the photograph's colors if the color mode restores them."""
        after = COLORS[self.color].after
        image = self.composite(image)
        return image if after is None or self.photograph is None else after(image, self.photograph)


@dataclass(frozen=True, eq=False)
class Problem:
    """The pictures of a run in their original sizes, and the layers of its losses.

    photograph: the content image as it was passed, (1, 3, H, W) in [0, 1].
    content_image, regions: the same pictures after the color mode's conversion.
    masks: the regions' masks (R, 1, H, W); None for a single region without a mask.
    content_layers, style_layers: the layers that can have a weight.
    """

    photograph: Tensor
    content_image: Tensor
    regions: tuple[Region, ...]
    masks: Tensor | None
    content_layers: list[str]
    style_layers: list[str]

    @classmethod
    def of(cls, photograph: Tensor, regions: Sequence[Region], settings: Settings, network: VGG) -> "Problem":
        """Return the problem for a photograph and regions from `as_regions`; raises ValueError for misshapen masks."""
        before = COLORS[settings.color]
        content_image = photograph if before.content is None else before.content(photograph)
        if (convert := before.style) is not None:
            regions = [region.with_images(lambda image: convert(image, photograph)) for region in regions]
        for region in regions:
            if region.mask is not None and region.mask.shape[2:] != photograph.shape[2:]:
                raise ValueError(
                    f"expected masks of the content image's {tuple(photograph.shape[2:])} px, "
                    f"got a region's mask of {tuple(region.mask.shape[2:])} px"
                )
        masks = None
        if any(region.mask is not None for region in regions):
            everywhere = torch.ones_like(photograph[:, :1])
            masks = torch.cat([everywhere if region.mask is None else region.mask for region in regions])
        layers = (network.check_layers(dict(weights)) for weights in (settings.content_weights, settings.style_weights))
        return cls(photograph, content_image, tuple(regions), masks, *layers)

    def check(self, sizes: Sequence[int], network: VGG, style_loss: str, least: int) -> None:
        """Raise ValueError for a picture that is too small, for a style from size `least` on; warn if enlarged."""
        for size in sizes:
            fitted(*sides(self.content_image), size, "content_image", network.min_side)
            for style in (style for region in self.regions for style in region.styles):
                if isinstance(style.image, SavedStyle):
                    style.image.check(network.kind, style_loss)
                else:
                    adapted = max(size, min(least, style.smallest_size(network.min_side)))
                    fitted(*sides(style.image), round(adapted * style.scale), "style_image", network.min_side)

    def check_layers(self, settings: Settings) -> None:
        """Raise ValueError for weights of layers that the run was not created with."""
        known = {"content_weights": self.content_layers, "style_weights": self.style_layers}
        for name, layers in known.items():
            if unknown := set(dict(getattr(settings, name))) - set(layers):
                raise ValueError(
                    f"{name}: expected layers that the run was created with ({', '.join(layers)}), "
                    f"got {', '.join(sorted(unknown))}"
                )
