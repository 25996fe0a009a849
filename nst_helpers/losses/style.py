"""Style losses: Gram matrices, and other statistics of feature maps."""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, normalize

from .gatys import gram_distance

MAX_POSITIONS = 4096  # positions that are compared each with each; feature maps are averaged down to about so many
RIDGE = 1e-4  # variance that every direction of features is taken to have
DIRECTIONS = 64  # at most, of sliced Wasserstein


class StyleLoss(Protocol):
    """How far a picture is from a style, in one layer. To add one: inherit, and enter it in `STYLE_LOSSES`.

    `StyleTransfer` adds the layers up with their weights. A style's `statistics` are all that is kept of it: they can
    be saved, and those of several styles be blended.

    needs: what the engine has to give of a layer, called `features` below. "grams": Gram matrices (R, C, C), one for
        each region; "means": the same augmented by the channels' means, (R, C + 1, C + 1); "maps": feature maps
        (1, C, H', W').
    """

    needs: str

    def statistics(self, features: Tensor, mask: Tensor | None, pool: int) -> Tensor:
        """Return what is kept of a style.

        Args:
            features: what `needs` says, of one picture or one region of it.
            mask: with "maps", (1, 1, H', W'): where the region is; None is everywhere.
            pool: with "maps", the side in positions of an average pooling that the loss may begin with.
        """
        return features

    def blend(self, statistics: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        """Return the statistics of a style between several; shares add up to 1."""
        return sum(share * one for share, one in zip(shares, statistics, strict=True))

    def target(self, statistics: Tensor) -> object:
        """Return statistics as `distance` takes them."""
        return statistics

    def distance(self, features: Tensor, target: object, mask: Tensor | None, pool: int) -> Tensor:
        """Return how far a picture is from a style, a scalar; arguments as for `statistics`."""
        raise NotImplementedError


class Gram(StyleLoss):
    """Gram matrices (Gatys et al. 2016): mean((G − A)²) / 4."""

    needs = "grams"

    def distance(self, features: Tensor, target: Tensor, mask: Tensor | None, pool: int) -> Tensor:
        return gram_distance(features, target)


class MeanStd(StyleLoss):
    """Means and standard deviations of the channels, the statistics of AdaIN (Huang and Belongie 2017).

    Σ over both of mean((difference)²), divided by C.
    """

    needs = "means"

    def statistics(self, features: Tensor, mask: Tensor | None, pool: int) -> Tensor:
        mean = features[:, :-1, -1]
        variance = features.diagonal(dim1=1, dim2=2)[:, :-1] - mean.square()
        return torch.stack([mean, (variance.clamp_min(0) + RIDGE).sqrt()], 1)

    def distance(self, features: Tensor, target: Tensor, mask: Tensor | None, pool: int) -> Tensor:
        return (self.statistics(features, mask, pool) - target).square().sum(1).mean()


class Wasserstein(StyleLoss):
    """The squared 2-Wasserstein distance of two normal distributions with the features' means and covariances.

    |μ − ν|² + tr(Σ + T − 2 (√T Σ √T)^½), divided by C (Olkin and Pukelsheim 1982); used for style by Crowson.
    Styles are blended on means and second moments, which gives those of their mixture.
    """

    needs = "means"

    def target(self, statistics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, covariance = _normal(statistics)
        values, vectors = torch.linalg.eigh(covariance.cpu().double())
        root = vectors * values.clamp_min(0).sqrt()[:, None] @ vectors.mT
        return mean, covariance.diagonal(dim1=1, dim2=2).sum(1), root.to(statistics)

    def distance(self, features: Tensor, target: object, mask: Tensor | None, pool: int) -> Tensor:
        mean, covariance = _normal(features)
        target_mean, target_trace, root = target
        trace = covariance.diagonal(dim1=1, dim2=2).sum(1)
        product = root @ covariance @ root
        where = "cpu" if product.device.type == "mps" else product.device  # Apple's GPU has no eigenvalues
        values = torch.linalg.eigvalsh((product + product.mT).to(where) / 2)
        cross = values.clamp_min(RIDGE**2).sqrt().sum(1).to(product.device)
        distance = (mean - target_mean).square().sum(1) + trace + target_trace - 2 * cross
        return (distance / mean.shape[1]).mean()


def _normal(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and covariance from augmented second moments."""
    mean = moments[:, :-1, -1]
    covariance = moments[:, :-1, :-1] - mean[:, :, None] * mean[:, None]
    return mean, covariance + RIDGE * torch.eye(mean.shape[1]).to(mean)


class SlicedWasserstein(StyleLoss):
    """Features projected on directions and sorted: the mean squared difference (Heitz et al. 2021).

    The directions are drawn once, `DIRECTIONS` of them at most, so that the loss is the same function at every step;
    the paper draws C anew each time. A mask counts where it is at least a half of its largest value. Sorting takes
    longer than the network does.
    """

    needs = "maps"

    def statistics(self, features: Tensor, mask: Tensor | None, pool: int) -> Tensor:
        rows = features[0].flatten(1)
        if mask is not None:
            rows = rows[:, mask.flatten() >= mask.max() / 2]
        generator = torch.Generator().manual_seed(len(rows))
        directions = torch.randn(min(len(rows), DIRECTIONS), len(rows), generator=generator).to(rows)
        return (normalize(directions) @ rows).sort(1).values[None]

    def blend(self, statistics: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        most = max(one.shape[2] for one in statistics)
        return super().blend([_resampled(one, most) for one in statistics], shares)

    def distance(self, features: Tensor, target: Tensor, mask: Tensor | None, pool: int) -> Tensor:
        found = self.statistics(features, mask, pool)
        return (found - _resampled(target, found.shape[2])).square().mean()


def _resampled(quantiles: Tensor, n: int) -> Tensor:
    """Return sorted values (1, D, m) as (1, D, n)."""
    if quantiles.shape[2] == n:
        return quantiles
    return interpolate(quantiles, size=n, mode="linear", align_corners=True)


class Nearest(StyleLoss):
    """1 − the cosine to the most similar of the style's features, averaged (Kolkin et al. 2022).

    In each layer alone, where the paper joins layers; feature maps are pooled to about `MAX_POSITIONS` positions.
    """

    needs = "maps"

    def statistics(self, features: Tensor, mask: Tensor | None, pool: int) -> Tensor:
        rows, weights = pooled(features, mask, pool)
        return normalize(rows[:, weights > 0.5 * weights.max()], dim=0)[None]

    def blend(self, statistics: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        raise ValueError('nearest features of several styles are not blended: take blend="losses"')

    def distance(self, features: Tensor, target: Tensor, mask: Tensor | None, pool: int) -> Tensor:
        rows, weights = pooled(features, mask, pool)
        nearest = (normalize(rows, dim=0).T @ target[0]).max(1).values
        return ((1 - nearest) * weights).sum() / weights.sum()


def pooled(maps: Tensor, mask: Tensor | None, pool: int) -> tuple[Tensor, Tensor]:
    """Return features (C, n), averaged over pool × pool positions, and the weight of each."""
    pool = max(1, min(pool, *maps.shape[2:]))
    mask = torch.ones_like(maps[:, :1]) if mask is None else mask
    return avg_pool2d(maps, pool)[0].flatten(1), avg_pool2d(mask, pool).flatten()


def pool_side(size: int, stride: int) -> int:
    """Return the side of the average pooling that keeps losses which compare all positions with all affordable.

    Args:
        size: the picture's longest side in pixels.
        stride: of the layer. A pooled map has about `MAX_POSITIONS` positions at most.
    """
    return math.ceil((size // stride) / math.sqrt(MAX_POSITIONS))


STYLE_LOSSES: dict[str, StyleLoss] = {
    "gram": Gram(),
    "mean_std": MeanStd(),
    "wasserstein": Wasserstein(),
    "sliced_wasserstein": SlicedWasserstein(),
    "nearest": Nearest(),
}

BLENDS = ("statistics", "losses")  # the same gradient for a square: Σ w (G − A)² = (G − Σ w A)² + a constant
