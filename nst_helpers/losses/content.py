"""Content losses: feature reconstruction, and self-similarity."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import normalize

from .gatys import with_gradient
from .style import pooled


def feature_reconstruction(target_maps: Tensor, content_maps: Tensor, pool: int = 1) -> tuple[Tensor, Tensor]:
    """Return `content_loss` and its gradient 2 (F − P) / (B·C·H·W) (Gatys et al. 2016, equation 2, without a mean)."""
    difference = target_maps - content_maps
    return difference.square().mean(), difference.mul_(2 / difference.numel())


def self_similarity_loss(target_maps: Tensor, content_maps: Tensor, pool: int = 1) -> Tensor:
    """Return the mean absolute difference of two images' self-similarity matrices, a scalar.

    Args:
        target_maps, content_maps: feature maps (1, C, H', W').
        pool: side, in positions, of the average pooling that is applied first.

    D_ij = 1 − cos(F_i, F_j) for all pairs of the n positions, each column divided by its mean. Loss: mean |D − D'| over
    n² pairs (Kolkin et al. 2019 divide by n² once more). It does not constrain colors and textures.
    """

    def distances(maps: Tensor) -> Tensor:
        features = normalize(pooled(maps, None, pool)[0], dim=0)
        D = 1 - features.T @ features
        return D / D.mean(0).clamp_min(1e-6)

    return (distances(target_maps) - distances(content_maps)).abs().mean()


# Functions of the feature maps of the image, those of the content image, and `pool`: the loss, and its gradient
CONTENT_LOSSES: dict[str, Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]] = {
    "features": feature_reconstruction,
    "self_similarity": lambda F, P, pool: with_gradient(lambda maps: self_similarity_loss(maps, P, pool), F),
}
