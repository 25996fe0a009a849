"""Content losses: feature reconstruction, and self-similarity."""

from torch import Tensor
from torch.nn.functional import normalize

from .gatys import content_loss
from .style import pooled


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


CONTENT_LOSSES = {"features": lambda F, P, pool: content_loss(F, P), "self_similarity": self_similarity_loss}
