"""What is minimized: α·content + β·style + tv_weight·total variation, at each size, and its gradient."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor

from .by_hand import ByHand
from .colors import COLORS
from .engine import Plain
from .images import fitted, resize, scaled
from .losses import total_loss
from .masks import masks_of, parts_of, resize_mask
from .style_losses import CONTENT_LOSSES, MOST, STYLE_LOSSES
from .styles import Region, SavedStyle, Style
from .total_variation import variation
from .vgg import poolings_before


@dataclass(frozen=True)
class Settings:
    """What a loss depends on besides the image; losses under different settings do not compare."""

    alpha: float
    beta: float
    tv_weight: float
    content_weights: tuple[tuple[str, float], ...]
    style_weights: tuple[tuple[str, float], ...]
    size: int


@dataclass(frozen=True)
class Evaluation:
    """An image, its losses (total, content, style, total variation) and the gradient of the total."""

    image: Tensor
    losses: tuple[float, float, float, float]
    gradient: Tensor

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, self.losses)) and bool(self.gradient.isfinite().all())


@dataclass(frozen=True)
class Kinds:
    """Which losses are meant, and what is done about colors: names that `StyleTransfer` explains."""

    content_loss: str = "features"
    style_loss: str = "gram"
    blend: str = "statistics"
    tv: str = "l1"
    color: str = "style"


@dataclass(frozen=True, eq=False)
class Finish:
    """What the image that is optimized lacks of the one that is seen; plain data."""

    color: str
    photograph: Tensor | None  # for its colors
    content_image: Tensor | None  # for where no region is,
    kept: Tensor | None  # (1, 1, H, W)

    def composed(self, image: Tensor) -> Tensor:
        """Return the image with the photograph where no region is; losses are computed of this."""
        return image if self.kept is None else torch.lerp(image, self.content_image, self.kept)

    @torch.no_grad()
    def __call__(self, image: Tensor) -> Tensor:
        """Return the image as it is seen: composed, and the photograph's colors put back."""
        after = COLORS[self.color].after
        image = self.composed(image)
        return image if after is None else after(image, self.photograph)


class Problem:
    """What is to be painted, at any size.

    Args:
        engine: from `pick_engine`.
        kinds: which losses.
        content_image: (1, 3, H, W) in [0, 1].
        regions: from `as_regions`.
        content_layers, style_layers: names.
    """

    def __init__(
        self,
        engine: Plain | ByHand,
        kinds: Kinds,
        content_image: Tensor,
        regions: Sequence[Region],
        content_layers: Sequence[str],
        style_layers: Sequence[str],
    ):
        self.engine, self.kinds, self.photograph = engine, kinds, content_image
        self.content_layers, self.style_layers = content_layers, style_layers
        before = COLORS[kinds.color]
        self.content_image = content_image if before.content is None else before.content(content_image)
        self.regions = [
            region if before.style is None else region.with_images(lambda image: before.style(image, content_image))
            for region in regions
        ]
        masks = [region.mask for region in regions]
        for mask in masks:
            if mask is not None and mask.shape[2:] != content_image.shape[2:]:
                raise ValueError(
                    f"a region's mask is {tuple(mask.shape[2:])}, the content image {tuple(content_image.shape[2:])} px"
                )
        self.masks = None
        if any(mask is not None for mask in masks):
            everywhere = torch.ones_like(content_image[:, :1])
            self.masks = torch.cat([everywhere if mask is None else mask for mask in masks])

    def check(self, sizes: Sequence[int]) -> None:
        """Say before the first step what is too small for the network (ValueError), or enlarged (a warning)."""
        for size in sizes:
            fitted(*self.content_image.shape[2:], size, "content_image")
            for region in self.regions:
                for style in region.styles:
                    if isinstance(style.image, SavedStyle):
                        style.image.check(self.engine.network.kind, self.kinds.style_loss)
                        continue
                    fitted(*style.image.shape[2:], round(size * style.scale), "style_image")

    def at(self, size: int, rough: bool) -> "Objective":
        """Return what is minimized at a size; `rough` as `engine.Plain` has it."""
        return Objective(self, size, rough)


class Objective:
    """What is minimized at one size."""

    @torch.no_grad()
    def __init__(self, problem: Problem, size: int, rough: bool):
        self.problem, self.size, self.rough = problem, size, rough
        kinds, device = problem.kinds, problem.engine.network.device
        self._content_distance, self._style = CONTENT_LOSSES[kinds.content_loss], STYLE_LOSSES[kinds.style_loss]
        self.content_image = self._resized(problem.content_image, size)
        self.masks = self._parts = kept = None
        layer_masks = [{} for _ in problem.regions]
        shares = [1.0] * len(problem.regions)
        if problem.masks is not None:
            self.masks = resize_mask(problem.masks, *self.content_image.shape[2:]).to(device)
            kept = 1 - self.masks.sum(0, keepdim=True).clamp(max=1)
            kept = kept * (kept > 1e-3) if kept.max() > 1e-3 else None  # less is rounding
            shares = self.masks.mean((1, 2, 3)).tolist()
            if self._style.needs == "maps":
                layer_masks = [masks_of(mask[None], problem.style_layers) for mask in self.masks]
            else:
                self._parts = parts_of(self.masks, problem.style_layers)
        photograph = self._resized(problem.photograph, size) if COLORS[kinds.color].after else None
        self.finish = Finish(kinds.color, photograph, None if kept is None else self.content_image, kept)
        self._regions = [
            _Region(share * region.weight, masks, self._aims(region))
            for share, region, masks in zip(shares, problem.regions, layer_masks, strict=True)
        ]
        maps, _ = self._features(self.content_image, problem.content_layers, [])
        self._content_maps = {layer: maps[layer] for layer in problem.content_layers}

    def _resized(self, image: Tensor, size: int) -> Tensor:
        shape = scaled(*image.shape[2:], size)
        if shape != image.shape[2:]:
            image = resize(image, *shape)
        return image.to(self.problem.engine.network.conv1_1.weight)

    def _features(self, image: Tensor, content_layers: Sequence[str], style_layers: Sequence[str], parts=None):
        """Return {layer: feature maps} and {layer: what the style loss needs}."""
        engine, needs = self.problem.engine, self._style.needs
        if needs == "maps":
            maps, _ = engine(image, list(dict.fromkeys([*content_layers, *style_layers])), [], self.rough)
            return maps, maps
        return engine(image, content_layers, style_layers, self.rough, needs == "means", parts)

    def _thin(self, layer: str) -> int:
        """Return the side in positions that is averaged into one, where all are compared with all."""
        return math.ceil((self.size >> poolings_before(layer)) / math.sqrt(MOST))

    @torch.no_grad()
    def summaries(self, style: Style) -> dict[str, Tensor]:
        """Return what the style loss keeps of a style, by layer."""
        layers, size = self.problem.style_layers, round(self.size * style.scale)
        if isinstance(style.image, SavedStyle):
            return {layer: kept.to(self.content_image) for layer, kept in style.image.at(size, layers).items()}
        _, given = self._features(self._resized(style.image, size), [], layers)
        return {layer: self._style.summary(given[layer], None, self._thin(layer)) for layer in layers}

    def _aims(self, region: Region) -> list[tuple[float, dict[str, object]]]:
        """Return the targets that a region's losses are taken to, {layer: target} each, and their weights."""
        layers, kinds = self.problem.style_layers, self.problem.kinds
        summaries = [self.summaries(style) for style in region.styles]
        shares = [style.weight for style in region.styles]
        if kinds.blend == "statistics":
            if len(summaries) > 1:
                blended = {layer: self._style.blend([kept[layer] for kept in summaries], shares) for layer in layers}
                summaries = [blended]
            shares = [1.0]
        targets = [{layer: self._style.target(kept[layer]) for layer in layers} for kept in summaries]
        return list(zip(shares, targets, strict=True))

    def evaluate(self, image: Tensor, settings: Settings) -> Evaluation:
        """Return the losses and the gradient of an image, and change nothing."""
        image = image.detach()
        input_image = image.requires_grad_()
        seen = self.finish.composed(input_image)
        weights, content_weights = dict(settings.style_weights), dict(settings.content_weights)
        maps, given = self._features(seen, list(content_weights), list(weights), self._parts)
        content = _weighted_sum(
            (weight, self._content_distance(maps[layer], self._content_maps[layer], self._thin(layer)))
            for layer, weight in content_weights.items()
        )
        style = _weighted_sum(
            (region.weight, self._style_distance(index, region, given, weights))
            for index, region in enumerate(self._regions)
        )
        total_variation = variation(self.problem.kinds.tv, seen, self.problem.engine.network)
        total = total_loss(content, style, settings.alpha, settings.beta) + settings.tv_weight * total_variation
        (gradient,) = torch.autograd.grad(total, input_image)
        losses = torch.stack([total, content, style, total_variation]).tolist()
        return Evaluation(image.detach(), tuple(losses), gradient.contiguous())

    def _style_distance(self, index: int, region: "_Region", given: dict[str, Tensor], weights: dict) -> Tensor:
        def distance(layer: str, target: object) -> Tensor:
            found = given[layer] if self._parts is None else given[layer][index : index + 1]
            return self._style.distance(found, target, region.masks.get(layer), self._thin(layer))

        return _weighted_sum(
            (share, _weighted_sum((weight, distance(layer, targets[layer])) for layer, weight in weights.items()))
            for share, targets in region.aims
        )

    def by_style(self, make: Callable[[Tensor], Tensor]) -> Tensor:
        """Return images made of each style image, mixed as the styles are: by their weights, and in their regions."""
        images = []
        for region in self.problem.regions:
            made = [make(style.picture).to(self.content_image) for style in region.styles]
            images.append(_weighted_sum(zip([style.weight for style in region.styles], made, strict=True)))
        if self.masks is None:
            return images[0]
        shares = self.masks / self.masks.sum(0, keepdim=True).clamp_min(1e-6)
        return (shares * torch.cat(images)).sum(0, keepdim=True)


class _Region(NamedTuple):
    """A region at one size."""

    weight: float
    masks: dict[str, Tensor]  # by layer, for losses of feature maps; none where it is everywhere
    aims: list[tuple[float, dict[str, object]]]  # weights, and targets by layer


def _weighted_sum(terms: Iterable[tuple[float, Tensor]]) -> Tensor:
    """Return Σ weight · value; a weight of 1 costs nothing."""
    return reduce(add, (value if weight == 1 else weight * value for weight, value in terms))
