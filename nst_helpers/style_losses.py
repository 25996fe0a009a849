"""Other ways than Gram matrices to compare two pictures' styles, and than features to compare their contents.

Each compares one layer; `StyleTransfer` adds the layers up with their weights. A style's `summary` is all that is kept
of it: it can be saved, and those of several styles be blended.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, normalize

from .losses import content_loss, gram_distance

MOST = 4096  # positions that are compared each with each; feature maps are averaged down to about so many
RIDGE = 1e-4  # variance that every direction of features is taken to have
DIRECTIONS = 64  # at most, of sliced Wasserstein


class Gram:
    """Gram matrices (Gatys et al. 2016): mean((G − A)²) / 4."""

    needs = "grams"  # "grams": (R, C, C); "means": (R, C + 1, C + 1), see `engine.Plain`; "maps": (1, C, H', W')

    def summary(self, given: Tensor, mask: Tensor | None, thin: int) -> Tensor:
        """Return what is kept of a style.

        Args:
            given: what `needs` says, of one picture or one part of it.
            mask: with maps, of the layer's size: where; None is everywhere.
            thin: with maps, the side in positions that may be averaged into one.
        """
        return given

    def blend(self, summaries: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        """Return the summary of a style between several; shares add up to 1."""
        return sum(share * summary for share, summary in zip(shares, summaries, strict=True))

    def target(self, summary: Tensor) -> object:
        """Return a summary as `distance` takes it."""
        return summary

    def distance(self, given: Tensor, target: object, mask: Tensor | None, thin: int) -> Tensor:
        """Return how far a picture is from a style, a scalar; arguments as for `summary`."""
        return gram_distance(given, target)


class MeanStd(Gram):
    """Means and standard deviations of the channels, the statistics of AdaIN (Huang and Belongie 2017).

    Σ over both of mean((difference)²), divided by C.
    """

    needs = "means"

    def summary(self, given: Tensor, mask: Tensor | None, thin: int) -> Tensor:
        mean = given[:, :-1, -1]
        variance = given.diagonal(dim1=1, dim2=2)[:, :-1] - mean.square()
        return torch.stack([mean, (variance.clamp_min(0) + RIDGE).sqrt()], 1)

    def distance(self, given: Tensor, target: Tensor, mask: Tensor | None, thin: int) -> Tensor:
        return (self.summary(given, mask, thin) - target).square().sum(1).mean()


class Wasserstein(Gram):
    """The squared 2-Wasserstein distance of two normal distributions with the features' means and covariances.

    |μ − ν|² + tr(Σ + T − 2 (√T Σ √T)^½), divided by C (Olkin and Pukelsheim 1982); used for style by Crowson.
    Styles are blended on means and second moments, which gives those of their mixture.
    """

    needs = "means"

    def target(self, summary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, covariance = _normal(summary)
        values, vectors = torch.linalg.eigh(covariance.cpu().double())
        root = vectors * values.clamp_min(0).sqrt()[:, None] @ vectors.mT
        return mean, covariance.diagonal(dim1=1, dim2=2).sum(1), root.to(summary)

    def distance(self, given: Tensor, target: tuple[Tensor, Tensor, Tensor], mask: Tensor | None, thin: int) -> Tensor:
        mean, covariance = _normal(given)
        target_mean, target_trace, root = target
        trace = covariance.diagonal(dim1=1, dim2=2).sum(1)
        product = root @ covariance @ root
        where = "cpu" if product.device.type == "mps" else product.device  # Apple's GPU has no eigenvalues
        values = torch.linalg.eigvalsh((product + product.mT).to(where) / 2)
        cross = values.clamp_min(RIDGE**2).sqrt().sum(1).to(product.device)
        distance = (mean - target_mean).square().sum(1) + trace + target_trace - 2 * cross
        return (distance / mean.shape[1]).mean()


def _normal(bordered: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and covariance from a second moment with its border."""
    mean = bordered[:, :-1, -1]
    covariance = bordered[:, :-1, :-1] - mean[:, :, None] * mean[:, None]
    return mean, covariance + RIDGE * torch.eye(mean.shape[1]).to(mean)


class SlicedWasserstein(Gram):
    """Features projected on directions and sorted: the mean squared difference (Heitz et al. 2021).

    The directions are drawn once, `DIRECTIONS` of them at most, so that the loss is the same function at every step;
    the paper draws C anew each time. A mask counts where it is at least a half of its largest value. Sorting takes
    longer than the network does.
    """

    needs = "maps"

    def summary(self, given: Tensor, mask: Tensor | None, thin: int) -> Tensor:
        rows = given[0].flatten(1)
        if mask is not None:
            rows = rows[:, mask.flatten() >= mask.max() / 2]
        generator = torch.Generator().manual_seed(len(rows))
        directions = torch.randn(min(len(rows), DIRECTIONS), len(rows), generator=generator).to(rows)
        return (normalize(directions) @ rows).sort(1).values[None]

    def blend(self, summaries: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        most = max(summary.shape[2] for summary in summaries)
        return super().blend([_resampled(summary, most) for summary in summaries], shares)

    def distance(self, given: Tensor, target: Tensor, mask: Tensor | None, thin: int) -> Tensor:
        found = self.summary(given, mask, thin)
        return (found - _resampled(target, found.shape[2])).square().mean()


def _resampled(quantiles: Tensor, n: int) -> Tensor:
    """Return sorted values (1, D, m) as (1, D, n)."""
    if quantiles.shape[2] == n:
        return quantiles
    return interpolate(quantiles, size=n, mode="linear", align_corners=True)


class Nearest(Gram):
    """1 − the cosine to the most similar of the style's features, averaged (Kolkin et al. 2022).

    In each layer by itself, where the paper joins layers; feature maps are averaged down to about `MOST` positions.
    """

    needs = "maps"

    def summary(self, given: Tensor, mask: Tensor | None, thin: int) -> Tensor:
        rows, weights = _thinned(given, mask, thin)
        return normalize(rows[:, weights > 0.5 * weights.max()], dim=0)[None]

    def blend(self, summaries: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
        raise ValueError('nearest features of several styles are not blended: take blend="losses"')

    def distance(self, given: Tensor, target: Tensor, mask: Tensor | None, thin: int) -> Tensor:
        rows, weights = _thinned(given, mask, thin)
        nearest = (normalize(rows, dim=0).T @ target[0]).max(1).values
        return ((1 - nearest) * weights).sum() / weights.sum()


def _thinned(maps: Tensor, mask: Tensor | None, thin: int) -> tuple[Tensor, Tensor]:
    """Return features (C, n), averaged over thin × thin positions, and the weight of each."""
    thin = max(1, min(thin, *maps.shape[2:]))
    mask = torch.ones_like(maps[:, :1]) if mask is None else mask
    return avg_pool2d(maps, thin)[0].flatten(1), avg_pool2d(mask, thin).flatten()


STYLE_LOSSES = {
    "gram": Gram(),
    "mean_std": MeanStd(),
    "wasserstein": Wasserstein(),
    "sliced_wasserstein": SlicedWasserstein(),
    "nearest": Nearest(),
}


BLENDS = ("statistics", "losses")


def self_similarity_loss(target_maps: Tensor, content_maps: Tensor, thin: int = 1) -> Tensor:
    """Return how differently the features of two pictures resemble each other, place by place, a scalar.

    Args:
        target_maps, content_maps: (1, C, H', W').
        thin: the side in positions that is averaged into one.

    D_ij = 1 − cos(F_i, F_j), each column divided by its mean; then mean |D − D'| (Kolkin et al. 2019, times
    n², so that the number of places n does not matter). Colors and textures may change; what resembles what may not.
    """

    def distances(maps: Tensor) -> Tensor:
        features = normalize(_thinned(maps, None, thin)[0], dim=0)
        D = 1 - features.T @ features
        return D / D.mean(0).clamp_min(1e-6)

    return (distances(target_maps) - distances(content_maps)).abs().mean()


CONTENT_LOSSES = {"features": lambda F, P, thin: content_loss(F, P), "self_similarity": self_similarity_loss}
