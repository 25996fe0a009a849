"""The objective: α·content + β·style + tv_weight·total variation at one size, and its gradient."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..colors import COLORS
from ..engine import Engine, Request, request_for
from ..images import resize, scaled, sides
from ..losses.content import CONTENT_LOSSES
from ..losses.style import STYLE_LOSSES, pool_side
from ..masks import masks_of, parts_of, resize_mask
from ..presets.variation import variation, variation_gradient
from ..settings import Settings
from ..styles import Region, SavedStyle, Style, style_statistics
from .problem import Compositing, Problem
from .terms import RegionTargets, Terms, rows_by_layer, without_zeros


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
            RegionTargets(share * region.weight, masks, self._targets(region, settings.blend))
            for share, region, masks in zip(shares, problem.regions, layer_masks, strict=True)
        ]
        self._content_maps, _, _ = engine.forward(self.content_image, Request(problem.content_layers, []))
        self._content_units = {
            layer: self._unit(self._content_distance(torch.zeros_like(P), P, self._pool(layer))[0])
            for layer, P in self._content_maps.items()
        }
        self._terms: dict[tuple, Terms] = {}

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
        value, gradients = self._style.weighted(found, terms.gathered, terms.style_shares, terms.beta)
        values.append(value)
        for term, gradient in zip(terms.style, gradients, strict=True):
            if features is maps:
                by_maps[term.layer] = by_maps[term.layer] + gradient if term.layer in by_maps else gradient
            else:
                known = by_grams.get(key := (term.layer, term.region))
                by_grams[key] = gradient if known is None else known + gradient
        gradient = self.engine.backward(tape, by_maps, rows_by_layer(by_grams))
        values.append(variation(settings.tv, seen, self.engine.network))
        if settings.tv_weight:
            gradient += terms.tv_weight * variation_gradient(settings.tv, seen, self.engine.network)
        if self.compositing.outside is not None:
            gradient = gradient * (1 - self.compositing.outside)
        return Evaluation(image, terms.weights @ torch.stack(values), gradient)

    def prepare(self, settings: Settings) -> Terms:
        """Return the terms of the total loss; the settings' weights are copied to the device if they have changed."""
        content, style = map(without_zeros, (settings.content_weights, settings.style_weights))
        if (key := (tuple(content), tuple(style))) not in self._terms:
            request = request_for(self._style.needs, *key, self._parts)
            self._terms[key] = Terms(self._style, self._regions, self._pool, *key, request, self.content_image)
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
