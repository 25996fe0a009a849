"""Masks of regions: loading, blurring, segmentation by k-means, and downsampling to each layer's resolution."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, conv2d, interpolate, normalize, pad

from . import validate
from .files.reading import is_binary, mask_values, resized
from .files.surroundings import isolated
from .images import sized_pixels
from .vgg import VGG, get_features


class Part(NamedTuple):
    """The positions of a layer that a mask covers, with their weights."""

    positions: Tensor  # (n,), indices into H'·W'
    weights: Tensor  # (n,), with mean 1


def load_mask(source, size: int | None = 512) -> Tensor:
    """Return a picture's lightness, times its opacity, as a mask (1, 1, H, W): white is inside, black outside.

    Args:
        source, size: see `load_image`. Use the size of the content image.

    One color on black counts as white. So do labels, as segmentation programs write them: integers 0 and 1, or 0 and
    another value of at most `LABEL` of full scale. A warning names the maximum of any other mask if it is below 0.9.

    Raises the errors of `load_image`, and ValueError for a mask that is 0 everywhere, or has several colors.
    """
    if isinstance(source, Tensor | np.ndarray) and is_binary(source):
        source = source != 0
    name, array, sides = sized_pixels(source, size)
    mask = validate.mask(name, resized(mask_values(array, name), sides).clamp(0, 1))
    if (maximum := mask.max().item()) < 0.9:
        validate.warn(f"{name}: expected white inside the region, got a maximum of {maximum:.3g} of 1")
    return mask


@isolated
def feathered(mask: Tensor, radius: float) -> Tensor:
    """Return a mask (1, 1, H, W) with soft edges: blurred by a Gaussian with a standard deviation of `radius` px."""
    radius = validate.number("radius", radius)
    if radius == 0:
        return mask
    reach = min(max(1, round(3 * radius)), min(mask.shape[2:]) - 1)
    x = torch.arange(-reach, reach + 1, dtype=mask.dtype)
    kernel = torch.exp(-0.5 * (x / radius) ** 2)
    kernel = (kernel / kernel.sum()).to(mask.device)
    wide = pad(mask, (reach, reach, reach, reach), mode="replicate")
    return conv2d(conv2d(wide, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1)).clamp(0, 1)


@isolated
def find_regions(
    image: Tensor, n: int, *, network: VGG | None = None, layer: str = "relu3_1", seed: int = 0
) -> tuple[Tensor, ...]:
    """Return a segmentation of an image by k-means: n masks (1, 1, H, W) of 0 and 1 for `Region`, the largest first.

    Args:
        image: (1, 3, H, W) in [0, 1].
        n: number of regions, at least 2.
        network, layer: with a network, the feature vectors of `layer` are clustered; without one, the colors.
        seed: of the random initialization.

    k-means (Lloyd 1982), initialized with k-means++ (Arthur and Vassilvitskii 2007). Raises ValueError if the image has
    fewer than n different colors or feature vectors.
    """
    image = validate.picture("image", image).cpu()
    if not (isinstance(n, int) and n >= 2):
        raise ValueError(f"n: expected a whole number ≥ 2, got {n!r}")
    maps = image if network is None else normalize(get_features(image, network, [layer])[layer].detach(), dim=1).cpu()
    labels = _k_means(maps[0].flatten(1).T.float(), n, torch.Generator().manual_seed(seed))
    labels = labels.view(1, 1, *maps.shape[2:]).float()
    labels = interpolate(labels, image.shape[2:], mode="nearest-exact")[0]
    masks = torch.stack([(labels == label).float() for label in range(n)])
    return masks[masks.sum((1, 2, 3)).argsort(descending=True)].split(1)


def _k_means(points: Tensor, n: int, generator: torch.Generator, rounds: int = 50) -> Tensor:
    """Return the cluster index of each point, (N,), for points (N, D)."""
    centers = points[torch.randint(len(points), (1,), generator=generator)]
    while len(centers) < n:
        distance = torch.cdist(points, centers).min(1).values.square()
        if not distance.max() > 0:
            raise ValueError(f"n: expected at most {len(centers)}, the number of different colors or features, got {n}")
        centers = torch.cat([centers, points[torch.multinomial(distance, 1, generator=generator)]])
    for _ in range(rounds):
        labels = torch.cdist(points, centers).argmin(1)
        sums = torch.zeros_like(centers).index_add_(0, labels, points)
        counts = labels.bincount(minlength=n)[:, None]
        new = torch.where(counts > 0, sums / counts.clamp_min(1), centers)
        if torch.equal(new, centers):
            break
        centers = new
    return torch.cdist(points, centers).argmin(1)


def resize_mask(masks: Tensor, height: int, width: int) -> Tensor:
    """Return masks (R, 1, H, W) resized to (R, 1, height, width), with antialiasing."""
    if masks.shape[2:] == (height, width):
        return masks
    return interpolate(masks, (height, width), mode="bilinear", antialias=True).clamp(0, 1)


def masks_of(masks: Tensor, layers: Sequence[str], network: VGG) -> dict[str, Tensor]:
    """Return {layer: masks (R, 1, H', W')}, average-pooled to the size of each layer's feature maps."""
    height, width = masks.shape[2:]
    strides = {layer: network.stride(layer) for layer in layers}
    return {layer: adaptive_avg_pool2d(masks, (height // s, width // s)) for layer, s in strides.items()}


def parts_of(masks: Tensor, layers: Sequence[str], network: VGG) -> dict[str, list[Part]]:
    """Return, for each layer, the positions that each mask covers: {layer: R parts}.

    masks: (R, 1, H, W) in [0, 1], of the picture's size. A position's weight is proportional to the mean of the mask
    over its pixels. Raises ValueError for a mask that is 0 everywhere.
    """
    if empty := [str(index) for index, mask in enumerate(masks) if not mask.max() > 0]:
        raise ValueError(f"expected masks with values above 0, got masks that are 0 everywhere: {', '.join(empty)}")
    return {
        layer: [_part(mask.flatten()) for mask in found] for layer, found in masks_of(masks, layers, network).items()
    }


def _part(mask: Tensor) -> Part:
    positions = mask.nonzero().flatten()
    weights = mask[positions]
    return Part(positions, weights / weights.mean())
