"""The objective: α·content + β·style + tv_weight·total variation at one size, and its gradient."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .colors import COLORS
from .engine import Engine, Request, request_for
from .files.surroundings import isolated
from .images import fitted, resize, scaled, sides
from .losses.content import CONTENT_LOSSES
from .losses.style import STYLE_LOSSES, pool_side
from .masks import masks_of, parts_of, resize_mask
from .presets.variation import variation, variation_gradient
from .settings import Settings, Weights
from .styles import Region, SavedStyle, Style, style_statistics
from .vgg import VGG


class Evaluation(NamedTuple):
    """An image, its losses (total, content, style, total variation), (4,), and the gradient of the total."""

    image: Tensor
    values: Tensor
    gradient: Tensor

    @property
    def losses(self) -> tuple[float, ...]:
        """The four losses as numbers. Reading them waits until the device has computed them."""
        return tuple(self.values.tolist())

    @property
    def comparable(self) -> Tensor:
        """The total loss, a scalar; NaN if the gradient is not finite."""
        return torch.add(self.values[0], self.gradient.norm(), alpha=0)


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


class Objective:
    """The objective function at one size: targets computed once, losses and gradient at each `evaluate`.

    Args:
        problem: the pictures.
        settings: which losses. Their weights are read at each `evaluate`.
        engine: from `engine.pick_engine`.
        size: the longest side in pixels.
    """

    @torch.no_grad()
    def __init__(self, problem: Problem, settings: Settings, engine: Engine, size: int):
        self.problem, self.engine, self.size = problem, engine, size
        self._content_distance = CONTENT_LOSSES[settings.content_loss]
        self._style, self._relative = STYLE_LOSSES[settings.style_loss], settings.relative_losses
        network = engine.network
        self.content_image = self._resized(problem.content_image, size)
        self.masks = self._parts = outside = None
        layer_masks: list[dict[str, Tensor]] = [{} for _ in problem.regions]
        shares = [1.0] * len(problem.regions)
        if problem.masks is not None:
            self.masks = resize_mask(problem.masks, *self.content_image.shape[2:]).to(network.device)
            outside = 1 - self.masks.sum(0, keepdim=True).clamp(max=1)
            outside = outside * (outside > 1e-3) if outside.max() > 1e-3 else None  # smaller values are rounding errors
            shares = self.masks.mean((1, 2, 3)).tolist()
            if self._style.needs == "maps":
                layer_masks = [masks_of(mask[None], problem.style_layers, network) for mask in self.masks]
            else:
                self._parts = parts_of(self.masks, problem.style_layers, network)
        photograph = self._resized(problem.photograph, size) if COLORS[settings.color].after else None
        self.compositing = Compositing(settings.color, photograph, self.content_image, outside)
        self._regions = [
            _RegionTargets(share * region.weight, masks, self._targets(region, settings.blend))
            for share, region, masks in zip(shares, problem.regions, layer_masks, strict=True)
        ]
        self._content_maps, _, _ = engine.forward(self.content_image, Request(problem.content_layers, []))
        self._content_units = {
            layer: self._unit(self._content_distance(torch.zeros_like(P), P, self._pool(layer))[0])
            for layer, P in self._content_maps.items()
        }
        self._terms: dict[tuple, _Terms] = {}

    def _resized(self, image: Tensor, size: int) -> Tensor:
        shape = scaled(*sides(image), size)
        return (image if shape == sides(image) else resize(image, *shape)).to(self.engine.network.mean)

    def _pool(self, layer: str) -> int:
        return pool_side(self.size, self.engine.network.stride(layer))

    def _statistics(self, style: Style) -> dict[str, Tensor]:
        """Return a style's statistics, {layer: Tensor}."""
        layers = self.problem.style_layers
        size = round(max(self.size, style.smallest_size(self.engine.network.min_side)) * style.scale)
        if isinstance(style.image, SavedStyle):
            return {name: one.clone().to(self.content_image) for name, one in style.image.at(size, layers).items()}
        return style_statistics(self._resized(style.image, size), self._style, self.engine, layers, self.size)

    def _targets(self, region: Region, blend: str) -> list[tuple[float, dict[str, tuple[object, float]]]]:
        """Return a region's targets as pairs of a weight and {layer: (target, unit)}: one, or one for each style."""
        layers = self.problem.style_layers
        statistics = [self._statistics(style) for style in region.styles]
        shares = [style.weight for style in region.styles]
        if blend == "statistics" and len(statistics) > 1:
            blended = {layer: self._style.blend([one[layer] for one in statistics], shares) for layer in layers}
            statistics, shares = [blended], [1.0]
        targets = [{layer: self._style_target(layer, one[layer]) for layer in layers} for one in statistics]
        return list(zip(shares, targets, strict=True))

    def _style_target(self, layer: str, statistics: Tensor) -> tuple[object, float]:
        """Return a target, and the loss of a picture whose features in this layer are all 0."""
        target, network = self._style.target(statistics), self.engine.network
        C, (H, W) = network.channels(layer), (side // network.stride(layer) for side in sides(self.content_image))
        shape = {"grams": (1, C, C), "means": (1, C + 1, C + 1), "maps": (1, C, H, W)}[self._style.needs]
        return target, self._unit(self._style.distance(statistics.new_zeros(shape), target, None, self._pool(layer)))

    def _unit(self, loss: Tensor) -> float:
        """Return what a layer's losses are divided by, given the loss of a picture without features in that layer."""
        return loss.item() if self._relative and loss > 0 else 1.0

    def evaluate(self, image: Tensor, settings: Settings) -> Evaluation:
        """Return the losses and the gradient of an image of this size with the settings' weights.

        Everything is computed on the device, without waiting for it; by autograd only where there is no formula.
        """
        image = image.clone() if image.is_inference() else image.detach()
        terms = self.prepare(settings)
        seen = self.compositing.composite(image)
        maps, grams, tape = self.engine.forward(seen, terms.request)
        features = maps if self._style.needs == "maps" else grams
        values: list[Tensor] = []
        by_maps: dict[str, Tensor] = {}  # gradients with respect to feature maps
        by_grams: dict[tuple[str, int], Tensor] = {}  # and to Gram matrices, by layer and region
        for layer, scale in zip(terms.content_layers, terms.content_scales, strict=True):
            value, gradient = self._content_distance(maps[layer], self._content_maps[layer], self._pool(layer))
            values.append(value)
            by_maps[layer] = gradient * scale
        found = [
            features[term.layer] if self._parts is None else features[term.layer][term.region : term.region + 1]
            for term in terms.style
        ]
        value, gradients = self._style.weighted(found, *terms.given, terms.style_shares, terms.beta)
        values.append(value)
        for term, gradient in zip(terms.style, gradients, strict=True):
            if features is maps:
                by_maps[term.layer] = by_maps[term.layer] + gradient if term.layer in by_maps else gradient
            else:
                known = by_grams.get(key := (term.layer, term.region))
                by_grams[key] = gradient if known is None else known + gradient
        gradient = self.engine.backward(tape, by_maps, _rows(by_grams))
        values.append(variation(settings.tv, seen, self.engine.network))
        if settings.tv_weight:
            gradient += terms.tv_weight * variation_gradient(settings.tv, seen, self.engine.network)
        if self.compositing.outside is not None:
            gradient = gradient * (1 - self.compositing.outside)
        return Evaluation(image, terms.weights @ torch.stack(values), gradient)

    def prepare(self, settings: Settings) -> "_Terms":
        """Return the terms of the total loss; the settings' weights are copied to the device if they have changed."""
        content, style = map(_without_zeros, (settings.content_weights, settings.style_weights))
        if (key := (tuple(content), tuple(style))) not in self._terms:
            self._terms[key] = _Terms(self, *key)
        terms = self._terms[key]
        content_shares = [weight / self._content_units[layer] for layer, weight in content.items()]
        style_shares = [term.share * style[term.layer] for term in terms.style]
        terms.put(settings, content_shares, style_shares)
        return terms

    def balance_unit(self, image: Tensor, settings: Settings) -> float:
        """Return the β/α at which content and style gradients of an image have equal norms: the ratio of the norms."""
        content, style = (
            self.evaluate(image, replace(settings, alpha=alpha, beta=beta, tv_weight=0.0)).gradient.norm().item()
            for alpha, beta in ((1.0, 0.0), (0.0, 1.0))
        )
        if not (content > 0 and style > 0):
            raise ValueError("balance: expected a content and a style loss with a gradient; set their weights above 0")
        return content / style


def _without_zeros(weights: Weights) -> dict[str, float]:
    """Return {layer: weight} without layers of weight 0, which need not be computed; all if none has a weight."""
    return {layer: weight for layer, weight in dict(weights).items() if weight} or dict(weights)


def _rows(gradients: dict[tuple[str, int], Tensor]) -> dict[str, Tensor]:
    """Return {layer: gradients (R, C, C)} from those of the single regions, {(layer, region): (1, C, C)}."""
    rows: dict[str, list[Tensor]] = {}
    for (layer, _), gradient in gradients.items():
        rows.setdefault(layer, []).append(gradient)
    return {layer: found[0] if len(found) == 1 else torch.cat(found) for layer, found in rows.items()}


class _RegionTargets(NamedTuple):
    """The targets of a region at one size."""

    weight: float
    masks: dict[str, Tensor]  # by layer, for losses of feature maps; empty for a region without a mask
    targets: list[tuple[float, dict[str, tuple[object, float]]]]  # (weight, {layer: (target, unit)})


class _StyleTerm(NamedTuple):
    """A distance in the style loss: of a region, in a layer, to a style."""

    layer: str
    region: int
    share: float  # of the term in the style loss, for a layer's weight of 1
    target: object
    mask: Tensor | None


class _Terms:
    """The terms of the total loss for some layers, and their weights as tensors on the device.

    weights: (4, terms): total, content, style and total variation from the values of the content layers, the whole
        style loss and the total variation.
    content_scales, beta, tv_weight: the first row of `weights`: factors of gradients.
    style_shares: of each term in the style loss, from `StyleLoss.spread`.
    """

    def __init__(self, objective: Objective, content_layers: Sequence[str], style_layers: Sequence[str]):
        style = objective._style
        self.content_layers = content_layers
        self.request = request_for(style.needs, content_layers, style_layers, objective._parts)
        self.style = [
            _StyleTerm(layer, index, region.weight * share / unit, target, region.masks.get(layer))
            for index, region in enumerate(objective._regions)
            for share, targets in region.targets
            for layer, (target, unit) in ((layer, targets[layer]) for layer in style_layers)
        ]
        pools = [objective._pool(term.layer) for term in self.style]
        self.given = style.gathered([term.target for term in self.style]), [term.mask for term in self.style], pools
        self._values: list[float] = []
        columns = len(content_layers) + 2
        self._numbers = objective.content_image.new_empty(4 * columns + len(self.style))
        self.weights, self._shares = self._numbers[: 4 * columns].view(4, -1), self._numbers[4 * columns :]
        self._style, self.style_shares = style, style.spread(self._shares, self.given[0]).clone()
        *self.content_scales, self.beta, self.tv_weight = self.weights[0].unbind()

    def put(self, settings: Settings, content: list[float], style: list[float]) -> None:
        """Set the weights; `content` and `style` are the shares of the terms."""
        none = [0.0] * len(content)
        total = [*(settings.alpha * share for share in content), settings.beta, settings.tv_weight]
        values = [*total, *content, 0.0, 0.0, *none, 1.0, 0.0, *none, 0.0, 1.0, *style]
        if values != self._values:
            self._numbers.copy_(torch.tensor(values, dtype=self._numbers.dtype), non_blocking=True)
            self._values = values
            self.style_shares.copy_(self._style.spread(self._shares, self.given[0]))
