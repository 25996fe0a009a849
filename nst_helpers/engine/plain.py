"""Autograd through torch's own layers: the reference that every other engine is tested against."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..losses.gatys import gram_matrix
from ..masks import Part
from ..vgg import VGG, get_features

Maps = dict[str, Tensor]


class Plain:
    """Autograd through torch's own layers in float32: the reference that every other engine is tested against."""

    has_rough = False

    def __init__(self, network: VGG, why: str = ""):
        self.network, self.name = network, f"plain{why}"

    def __call__(
        self,
        image: Tensor,
        layers: Sequence[str],
        gram_layers: Sequence[str],
        rough: bool = False,
        means: bool = False,
        parts: Mapping[str, Sequence[Part]] | None = None,
    ) -> tuple[Maps, Maps]:
        """Return {layer: feature maps (1, C, H', W')} and {layer: Gram matrices (1 or R, C, C)} of an image.

        Args:
            image: (1, 3, H, W).
            layers, gram_layers: names; results are float32, and differentiable by the image.
            rough: allows an engine that `has_rough` to be in bfloat16 from the third block on, which is faster; then
                losses are right within 0.5 %.
            means: Gram matrices come with one row and one column more, (1 or R, C + 1, C + 1): the channels' means.
            parts: {layer: R parts of the picture}, from `masks.parts_of`; each has a Gram matrix and a mean of its own.
        """
        maps = get_features(image, self.network, [*layers, *gram_layers])
        grams = {
            layer: torch.cat([_moments(maps[layer], part, means) for part in (parts[layer] if parts else [None])])
            if parts or means
            else gram_matrix(maps[layer])
            for layer in gram_layers
        }
        return {layer: maps[layer] for layer in layers}, grams


def _moments(maps: Tensor, part: Part | None, means: bool) -> Tensor:
    """Return the Gram matrix (1, C, C) of a part of feature maps, or of all, with its border where asked."""
    rows = maps.flatten(2)
    if part is None:
        return bordered(gram_matrix(maps), rows.mean(2))
    rows = rows[..., part.places]
    gram = gram_matrix((rows * part.weights.sqrt())[..., None])
    return bordered(gram, (rows * part.weights).mean(2)) if means else gram


def bordered(gram: Tensor, mean: Tensor) -> Tensor:
    """Return (R, C + 1, C + 1): Gram matrices (R, C, C) with the means (R, C) as a last row and column, and a 1."""
    top = torch.cat([gram, mean[:, :, None]], 2)
    return torch.cat([top, torch.cat([mean, torch.ones_like(mean[:, :1])], 1)[:, None]], 1)
