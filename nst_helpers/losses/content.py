"""Content losses: feature reconstruction, and self-similarity."""

from torch import Tensor
from torch.nn.functional import normalize

from .gatys import content_loss
from .style import pooled


def self_similarity_loss(target_maps: Tensor, content_maps: Tensor, pool: int = 1) -> Tensor:
    """Return how differently the features of two pictures resemble each other, place by place, a scalar.

    Args:
        target_maps, content_maps: (1, C, H', W').
        pool: the side in positions of an average pooling before that.

    D_ij = 1 − cos(F_i, F_j), each column divided by its mean; then mean |D − D'| (Kolkin et al. 2019, times
    n², so that the number of places n does not matter). Colors and textures may change; what resembles what may not.
    """

    def distances(maps: Tensor) -> Tensor:
        features = normalize(pooled(maps, None, pool)[0], dim=0)
        D = 1 - features.T @ features
        return D / D.mean(0).clamp_min(1e-6)

    return (distances(target_maps) - distances(content_maps)).abs().mean()


CONTENT_LOSSES = {"features": lambda F, P, pool: content_loss(F, P), "self_similarity": self_similarity_loss}
