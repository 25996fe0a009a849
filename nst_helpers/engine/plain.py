"""The plain engine: autograd through torch's layers. All other engines are tested against it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..losses.gatys import gram_matrix
from ..masks import Part
from ..vgg import VGG

Maps = dict[str, Tensor]


class Request(NamedTuple):
    """What an evaluation computes.

    layers: names of the layers whose feature maps are returned.
    gram_layers: names of the layers whose Gram matrices are returned.
    means: augment Gram matrices by a row and a column with the channels' means, (1 or R, C + 1, C + 1).
    parts: {layer: R parts}, from `masks.parts_of`: compute a Gram matrix, and means, for each part.
    """

    layers: Sequence[str]
    gram_layers: Sequence[str]
    means: bool = False
    parts: Mapping[str, Sequence[Part]] | None = None


class Plain:
    """Autograd through torch's layers in float32; see `engine.Engine`."""

    kind, precision = "plain", "float32"
    low_precision_steps, low_precision = 0, False

    def __init__(self, network: VGG, why: str = ""):
        self.network, self.name = network, f"plain{why}"

    def forward(self, image: Tensor, request: Request) -> tuple[Maps, Maps, tuple[Tensor, Maps, Maps]]:
        image = image.detach().to(self.network.device).requires_grad_(torch.is_grad_enabled())
        maps = self.network(self.network.normalize(image), [*request.layers, *request.gram_layers])
        parts = request.parts
        grams = {
            layer: torch.cat(
                [_moments(maps[layer], part, request.means) for part in (parts[layer] if parts else [None])]
            )
            if parts or request.means
            else gram_matrix(maps[layer])
            for layer in request.gram_layers
        }
        maps = {layer: maps[layer] for layer in request.layers}
        return _detached(maps), _detached(grams), (image, maps, grams)

    def backward(self, tape: tuple[Tensor, Maps, Maps], maps: Maps, grams: Maps) -> Tensor:
        image, found_maps, found_grams = tape
        outputs = [found_maps[layer] for layer in maps] + [found_grams[layer] for layer in grams]
        (gradient,) = torch.autograd.grad(outputs, image, [*maps.values(), *grams.values()])
        return gradient


def _detached(maps: Maps) -> Maps:
    return {layer: values.detach() for layer, values in maps.items()}


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
