"""The terms of the total loss, and their weights on the device."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..engine import Request
from ..losses.style import StyleLoss
from ..settings import Settings, Weights


class RegionTargets(NamedTuple):
    """The targets of a region at one size."""

    weight: float
    masks: dict[str, Tensor]  # by layer, for losses of feature maps; empty for a region without a mask
    targets: list[tuple[float, dict[str, tuple[object, float]]]]  # (weight, {layer: (target, unit)})


class StyleTerm(NamedTuple):
    """A distance in the style loss: of a region, in a layer, to a style."""

    layer: str
    region: int
    share: float  # of the term in the style loss, for a layer's weight of 1
    target: object
    mask: Tensor | None


class Terms:
    """The terms of the total loss for some layers, and their weights as tensors on the device.

    request: what the engine computes.
    weights: (4, content layers + 2): total, content, style and total variation from the values of the content layers,
        the whole style loss and the total variation.
    content_scales, beta, tv_weight: the first row of `weights`: factors of gradients.
    style_shares: of each term in the style loss, from `StyleLoss.spread`.
    """

    def __init__(
        self,
        style: StyleLoss,
        regions: Sequence[RegionTargets],
        pool: Callable[[str], int],
        content_layers: Sequence[str],
        style_layers: Sequence[str],
        request: Request,
        like: Tensor,
    ):
        self._style, self.content_layers, self.request = style, content_layers, request
        self.style = [
            StyleTerm(layer, index, region.weight * share / unit, target, region.masks.get(layer))
            for index, region in enumerate(regions)
            for share, targets in region.targets
            for layer, (target, unit) in ((layer, targets[layer]) for layer in style_layers)
        ]
        self.gathered = style.gathered([(term.target, term.mask, pool(term.layer)) for term in self.style])
        self._values: list[float] = []
        columns = len(content_layers) + 2
        self._numbers = like.new_empty(4 * columns + len(self.style))
        self.weights, self._shares = self._numbers[: 4 * columns].view(4, -1), self._numbers[4 * columns :]
        self.style_shares = style.spread(self._shares, self.gathered).clone()
        *self.content_scales, self.beta, self.tv_weight = self.weights[0].unbind()

    def put(self, settings: Settings, content: list[float], style: list[float]) -> None:
        """Set the weights; `content` and `style` are the shares of the terms."""
        none = [0.0] * len(content)
        total = [*(settings.alpha * share for share in content), settings.beta, settings.tv_weight]
        values = [*total, *content, 0.0, 0.0, *none, 1.0, 0.0, *none, 0.0, 1.0, *style]
        if values != self._values:
            self._numbers.copy_(torch.tensor(values, dtype=self._numbers.dtype), non_blocking=True)
            self._values = values
            self.style_shares.copy_(self._style.spread(self._shares, self.gathered))


def without_zeros(weights: Weights) -> dict[str, float]:
    """Return {layer: weight} without layers of weight 0, which need not be computed; all if none has a weight."""
    return {layer: weight for layer, weight in dict(weights).items() if weight} or dict(weights)


def rows_by_layer(gradients: dict[tuple[str, int], Tensor]) -> dict[str, Tensor]:
    """Return {layer: gradients (R, C, C)} from those of the single regions, {(layer, region): (1, C, C)}."""
    rows: dict[str, list[Tensor]] = {}
    for (layer, _), gradient in gradients.items():
        rows.setdefault(layer, []).append(gradient)
    return {layer: found[0] if len(found) == 1 else torch.cat(found) for layer, found in rows.items()}
