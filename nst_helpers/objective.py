"""The objective: α·content + β·style + tv_weight·total variation at one size, and its gradient."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

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
    def finite(self) -> Tensor:
        """Whether losses and gradient are finite, a scalar."""
        return self.values.isfinite().all() & self.gradient.isfinite().all()


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
        by_layer: tuple[dict, dict] = {}, {}  # gradients with respect to feature maps and to Gram matrices

        def add(found: tuple[Tensor, Tensor], gradients: dict, key: object) -> None:
            gradient = found[1] * terms.scales[len(values)]
            gradients[key] = gradients[key] + gradient if key in gradients else gradient
            values.append(found[0])

        for layer in terms.content_layers:
            P = self._content_maps[layer]
            add(self._content_distance(maps[layer], P, self._pool(layer)), by_layer[0], layer)
        for layer, index, _, target, mask in terms.style:
            found = features[layer] if self._parts is None else features[layer][index : index + 1]
            result = self._style.with_gradient(found, target, mask, self._pool(layer))
            add(result, *((by_layer[0], layer) if features is maps else (by_layer[1], (layer, index))))
        gradient = self.engine.backward(tape, by_layer[0], _rows(by_layer[1]))
        total_variation = variation(settings.tv, seen, self.engine.network)
        if settings.tv_weight:
            gradient += terms.weights[2] * variation_gradient(settings.tv, seen, self.engine.network)
        if self.compositing.outside is not None:
            gradient = gradient * (1 - self.compositing.outside)
        parts, n = torch.stack(values) * terms.shares, len(terms.content_layers)
        losses = torch.stack([parts[:n].sum(), parts[n:].sum(), total_variation])
        return Evaluation(image, torch.cat([(losses * terms.weights).sum()[None], losses]), gradient.contiguous())

    def prepare(self, settings: Settings) -> "_Terms":
        """Return the terms of the total loss; the settings' weights are copied to the device if they have changed."""
        content, style = map(_without_zeros, (settings.content_weights, settings.style_weights))
        if (key := (tuple(content), tuple(style))) not in self._terms:
            self._terms[key] = _Terms(self, *key)
        terms = self._terms[key]
        content_shares = [weight / self._content_units[layer] for layer, weight in content.items()]
        style_shares = [term.share * style[term.layer] for term in terms.style]
        terms.put(settings.alpha, settings.beta, settings.tv_weight, content_shares, style_shares)
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
    target: Any
    mask: Tensor | None


class _Terms:
    """The terms of the total loss for some layers, and their weights as tensors on the device.

    weights: α, β and tv_weight, (3,).
    shares: of each term in the content or the style loss, (terms,).
    scales: of each term's gradient in that of the total loss: α or β, times the share.
    """

    def __init__(self, objective: Objective, content_layers: Sequence[str], style_layers: Sequence[str]):
        self.content_layers = content_layers
        self.request = request_for(objective._style.needs, content_layers, style_layers, objective._parts)
        self.style = [
            _StyleTerm(
                layer, index, region.weight * share / targets[layer][1], targets[layer][0], region.masks.get(layer)
            )
            for index, region in enumerate(objective._regions)
            for share, targets in region.targets
            for layer in style_layers
        ]
        terms = len(content_layers) + len(self.style)
        self._values: list[float] = []
        self._numbers = objective.content_image.new_empty(3 + 2 * terms)
        self.weights, self.shares, scales = self._numbers.split([3, terms, terms])
        self.scales = scales.unbind()

    def put(self, alpha: float, beta: float, tv_weight: float, content: list[float], style: list[float]) -> None:
        """Set the weights; `content` and `style` are the shares of the terms."""
        scales = [alpha * share for share in content] + [beta * share for share in style]
        values = [alpha, beta, tv_weight, *content, *style, *scales]
        if values != self._values:
            self._numbers.copy_(torch.tensor(values, dtype=self._numbers.dtype), non_blocking=True)
            self._values = values
