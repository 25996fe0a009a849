"""Style losses: Gram matrices, means and standard deviations, Wasserstein distances, nearest neighbors."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, normalize, pad

from .gatys import gram_distance, weighted_sum, with_gradient
from .roots import RIDGE, cross_by_eigenvalues, cross_by_products

MAX_POSITIONS = 4096  # of a feature map whose positions are compared pairwise; larger maps are average-pooled
DIRECTIONS = 64  # maximum number of projections of the sliced Wasserstein distance


class StyleLoss:
    """Distance between a picture and a style in one layer. To add one: subclass, and add it to `STYLE_LOSSES`.

    The style loss of a run is the sum over layers, with `style_weights`. A style is represented by its `statistics`
    only: they can be saved, and the statistics of several styles can be blended.

    needs: which features of a layer the engine computes. "grams": Gram matrices (R, C, C), one for each region;
        "means": Gram matrices augmented by the channels' means, (R, C + 1, C + 1); "maps": feature maps (1, C, H', W').
    """

    needs: str

    def statistics(self, features: Tensor, mask: Tensor | None, pool: int) -> Tensor:
        """Return the statistics that represent a style.

        Args:
            features: of the kind that `needs` names, of one picture or one region of it.
            mask: with "maps", the region's mask (1, 1, H', W'); None is everywhere.
            pool: with "maps", side in positions of the average pooling for losses that compare all pairs of positions.
        """
        return features

    def blend(self, statistics: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        """Return the weighted mean of several styles' statistics; `shares` add up to 1."""
        return weighted_sum(zip(shares, statistics, strict=True))

    def target(self, statistics: Tensor) -> Any:
        """Return statistics prepared for `distance`: computations that need to be made only once."""
        return statistics

    def distance(self, features: Tensor, target: Any, mask: Tensor | None, pool: int) -> Tensor:
        """Return the distance of a picture's features to a target, a scalar; `mask` and `pool` as in `statistics`."""
        raise NotImplementedError

    def with_gradient(self, features: Tensor, target: Any, mask: Tensor | None, pool: int) -> tuple[Tensor, Tensor]:
        """Return `distance` and its gradient with respect to the features: by autograd, unless there is a formula.

        The gradient with respect to Gram matrices is symmetric.
        """
        distance, gradient = with_gradient(lambda features: self.distance(features, target, mask, pool), features)
        return distance, gradient if self.needs == "maps" else (gradient + gradient.mT) / 2

    def gathered(self, terms: Sequence[tuple[Any, Tensor | None, int]]) -> Any:
        """Return several terms of the style loss, (target, mask, pool), prepared for `weighted`."""
        return terms

    def spread(self, shares: Tensor, terms: Any) -> Tensor:
        """Return the shares of the terms, (terms,), prepared for `weighted`; called when they have changed."""
        return shares

    def weighted(self, features: Sequence[Tensor], terms: Any, shares: Tensor, beta: Tensor) -> tuple[Tensor, Sequence]:
        """Return Σ share · distance over several terms, and β times its gradients with respect to their features.

        features: those of each term. terms, shares: from `gathered` and `spread`. beta: a scalar.
        """
        found = [self.with_gradient(one, *term) for one, term in zip(features, terms, strict=True)]
        gradients = [gradient * scale for (_, gradient), scale in zip(found, shares * beta, strict=True)]
        return torch.stack([distance for distance, _ in found]) @ shares, gradients


class Gram(StyleLoss):
    """Mean squared difference of Gram matrices, mean((G − A)²) / 4 (Gatys et al. 2016, equation 4)."""

    needs = "grams"

    def distance(self, features: Tensor, target: Tensor, mask: Tensor | None, pool: int) -> Tensor:
        return gram_distance(features, target)

    def gathered(self, terms: Sequence) -> tuple[Tensor, Tensor, Tensor]:
        """Return all Gram matrices in one row, the index of each element's term, and 1 / (2 C²) for each term."""
        rows = [target.flatten() for target, _, _ in terms]
        sizes = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        index = torch.arange(len(rows), dtype=torch.int64).repeat_interleave(sizes)
        return torch.cat(rows), index.to(rows[0].device), (0.5 / sizes.double()).to(rows[0])

    def spread(self, shares: Tensor, terms: Any) -> Tensor:
        _, index, halves = terms
        return (shares * halves)[index]

    def weighted(self, features: Sequence[Tensor], terms: Any, shares: Tensor, beta: Tensor) -> tuple[Tensor, Sequence]:
        """All terms at once: a GPU takes longer to launch an operation than to do it."""
        difference = torch.cat([gram.flatten() for gram in features]) - terms[0]
        gradient = difference * shares
        parts = (gradient * beta).split([gram.numel() for gram in features])
        return difference @ gradient / 2, [part.view_as(gram) for part, gram in zip(parts, features, strict=True)]


class MeanStd(StyleLoss):
    """Mean squared differences of the channels' means and of their standard deviations (Huang and Belongie 2017)."""

    needs = "means"

    def statistics(self, features: Tensor, mask: Tensor | None, pool: int) -> Tensor:
        mean = features[:, :-1, -1]
        variance = features.diagonal(dim1=1, dim2=2)[:, :-1] - mean.square()
        return torch.stack([mean, (variance.clamp_min(0) + RIDGE).sqrt()], 1)

    def distance(self, features: Tensor, target: Tensor, mask: Tensor | None, pool: int) -> Tensor:
        return (self.statistics(features, mask, pool) - target).square().sum(1).mean()


class Wasserstein(StyleLoss):
    """Squared 2-Wasserstein distance of two normal distributions with the features' means and covariances.

    |μ − ν|² + tr(Σ + T − 2 (√T Σ √T)^½), divided by C (Olkin and Pukelsheim 1982); Crowson uses it as a style loss.
    Blending averages means and second moments, which are those of the mixture distribution.
    """

    needs = "means"

    def target(self, statistics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, covariance = _normal(statistics)
        values, vectors = torch.linalg.eigh(covariance.cpu().double())
        root = vectors * values.clamp_min(0).sqrt()[:, None] @ vectors.mT
        return mean, covariance.diagonal(dim1=1, dim2=2).sum(1), root.to(statistics)

    def distance(self, features: Tensor, target: Any, mask: Tensor | None, pool: int) -> Tensor:
        return self.with_gradient(features, target, mask, pool)[0]

    def with_gradient(self, features: Tensor, target: Any, mask: Tensor | None, pool: int) -> tuple[Tensor, Tensor]:
        """The gradient of tr (√T Σ √T)^½ with respect to Σ is ½ √T (√T Σ √T)^−½ √T."""
        mean, covariance = _normal(features)
        target_mean, target_trace, root = target
        cross, pull = (cross_by_eigenvalues if features.device.type == "cpu" else cross_by_products)(covariance, root)
        difference = mean - target_mean
        distance = difference.square().sum(1) + covariance.diagonal(dim1=1, dim2=2).sum(1) + target_trace - 2 * cross
        by_covariance = (torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device) - pull) / mean.numel()
        gradient = pad(by_covariance, (0, 1, 0, 1))
        by_mean = difference / mean.numel() - (by_covariance @ mean[..., None])[..., 0]  # half of it: it stands twice
        gradient[:, :-1, -1] = gradient[:, -1, :-1] = by_mean
        return (distance / mean.shape[1]).mean(), gradient


def _normal(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (R, C) and covariance (R, C, C) from augmented second moments (R, C + 1, C + 1)."""
    mean = moments[:, :-1, -1]
    covariance = moments[:, :-1, :-1] - mean[:, :, None] * mean[:, None]
    return mean, covariance + RIDGE * torch.eye(mean.shape[1], dtype=mean.dtype, device=mean.device)


class SlicedWasserstein(StyleLoss):
    """Sliced Wasserstein distance: mean squared difference of features projected on random directions and sorted.

    Heitz et al. 2021 draw C directions at every step. Here min(C, `DIRECTIONS`) are drawn once, so that the loss is a
    fixed function. A region consists of the positions where its mask is at least half its maximum.
    """

    needs = "maps"

    def statistics(self, features: Tensor, mask: Tensor | None, pool: int) -> Tensor:
        rows = features[0].flatten(1)
        if mask is not None:
            rows = rows[:, mask.flatten() >= mask.max() / 2]
        return (_directions(len(rows), rows.device, rows.dtype) @ rows).sort(1).values[None]

    def blend(self, statistics: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        most = max(one.shape[2] for one in statistics)
        return super().blend([_resampled(one, most) for one in statistics], shares)

    def distance(self, features: Tensor, target: Tensor, mask: Tensor | None, pool: int) -> Tensor:
        found = self.statistics(features, mask, pool)
        return (found - _resampled(target, found.shape[2])).square().mean()


@lru_cache(maxsize=32)
def _directions(channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return unit vectors (min(C, `DIRECTIONS`), C); copying them at each step would synchronize a GPU."""
    generator = torch.Generator().manual_seed(channels)
    shape = min(channels, DIRECTIONS), channels
    return normalize(torch.randn(shape, generator=generator, dtype=torch.float32).to(device, dtype))


def _resampled(quantiles: Tensor, n: int) -> Tensor:
    """Return sorted values (1, D, m), interpolated to (1, D, n)."""
    if quantiles.shape[2] == n:
        return quantiles
    return interpolate(quantiles, size=n, mode="linear", align_corners=True)


class Nearest(StyleLoss):
    """Mean cosine distance of each feature vector to its nearest neighbor in the style (Kolkin et al. 2022).

    Each layer is matched separately; the paper concatenates layers. Feature maps are average-pooled to about
    `MAX_POSITIONS` positions.
    """

    needs = "maps"

    def statistics(self, features: Tensor, mask: Tensor | None, pool: int) -> Tensor:
        rows, weights = pooled(features, mask, pool)
        return normalize(rows[:, weights > 0.5 * weights.max()], dim=0)[None]

    def blend(self, statistics: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        raise ValueError('style_loss="nearest" cannot blend the statistics of several styles: use blend="losses"')

    def distance(self, features: Tensor, target: Tensor, mask: Tensor | None, pool: int) -> Tensor:
        rows, weights = pooled(features, mask, pool)
        nearest = (normalize(rows, dim=0).T @ target[0]).max(1).values
        return ((1 - nearest) * weights).sum() / weights.sum()


def pooled(maps: Tensor, mask: Tensor | None, pool: int) -> tuple[Tensor, Tensor]:
    """Return feature vectors (C, n), averaged over pool × pool positions, and the mask's weight of each (n,)."""
    pool = max(1, min(pool, *maps.shape[2:]))
    mask = torch.ones_like(maps[:, :1]) if mask is None else mask
    return avg_pool2d(maps, pool)[0].flatten(1), avg_pool2d(mask, pool).flatten()


def pool_side(size: int, stride: int) -> int:
    """Return the side of the average pooling that keeps pairwise losses below about `MAX_POSITIONS` positions.

    Args:
        size: the picture's longest side in pixels.
        stride: of the layer, in pixels.
    """
    return math.ceil((size // stride) / math.sqrt(MAX_POSITIONS))


STYLE_LOSSES: dict[str, StyleLoss] = {
    "gram": Gram(),
    "mean_std": MeanStd(),
    "wasserstein": Wasserstein(),
    "sliced_wasserstein": SlicedWasserstein(),
    "nearest": Nearest(),
}

BLENDS = ("statistics", "losses")  # of squared differences the gradients are equal: Σ w (G − A)² = (G − Σ w A)² + const
