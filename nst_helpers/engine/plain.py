"""The plain engine: autograd through torch's layers. All other engines are tested against it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..losses.gatys import gram_matrix
from ..masks import Part
from ..vgg import VGG

Maps = dict[str, Tensor]


class Plain:
    """Autograd through torch's layers in float32; see `engine.Engine`."""

    kind, precision = "plain", "float32"
    low_precision_steps, low_precision = 0, False

    def __init__(self, network: VGG, why: str = ""):
        self.network, self.name = network, f"plain{why}"

    def __call__(
        self,
        image: Tensor,
        layers: Sequence[str],
        gram_layers: Sequence[str],
        means: bool = False,
        parts: Mapping[str, Sequence[Part]] | None = None,
    ) -> tuple[Maps, Maps]:
        maps = self.network(self.network.normalize(image.to(self.network.device)), [*layers, *gram_layers])
        grams = {
            layer: torch.cat([_moments(maps[layer], part, means) for part in (parts[layer] if parts else [None])])
            if parts or means
            else gram_matrix(maps[layer])
            for layer in gram_layers
        }
        return {layer: maps[layer] for layer in layers}, grams


def _moments(maps: Tensor, part: Part | None, means: bool) -> Tensor:
    """Return the Gram matrix (1, C, C) of feature maps or of a part of them, augmented by the means if requested."""
    rows = maps.flatten(2)
    if part is None:
        return augmented(gram_matrix(maps), rows.mean(2))
    rows = rows[..., part.positions]
    gram = gram_matrix((rows * part.weights.sqrt())[..., None])
    return augmented(gram, (rows * part.weights).mean(2)) if means else gram


def augmented(gram: Tensor, mean: Tensor) -> Tensor:
    """Return augmented second moments (R, C + 1, C + 1): Gram matrices of features with an additional channel of ones.

    They consist of the Gram matrices (R, C, C), the means (R, C) as last row and column, and 1 in the corner.
    """
    top = torch.cat([gram, mean[:, :, None]], 2)
    return torch.cat([top, torch.cat([mean, torch.ones_like(mean[:, :1])], 1)[:, None]], 1)
