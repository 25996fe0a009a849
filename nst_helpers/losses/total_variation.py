"""Total variation loss: the mean difference of neighboring pixels."""

import torch
from torch import Tensor


def total_variation_loss(image: Tensor, power: int = 1) -> Tensor:
    """Return mean |difference to the right neighbor|ᵖ + mean |difference to the lower neighbor|ᵖ, a scalar.

    Args:
        image: (B, C, H, W), at least two pixels a side.
        power: p; 1 keeps edges sharp and smooths the areas between them, 2 also blurs edges.

    Each mean is over its own number of differences, B·C·H·(W−1) and B·C·(H−1)·W, so that the loss does not depend on
    the size. Other implementations use sums. p = 1 is the anisotropic form of Rudin, Osher and Fatemi 1992.
    """
    if image.ndim != 4 or min(image.shape[-2:]) < 2:
        raise ValueError(f"expected an image (B, C, H, W) with H and W at least 2, got {tuple(image.shape)}")
    if power not in (1, 2):
        raise ValueError(f"power: expected 1 or 2, got {power!r}")
    measure = torch.abs if power == 1 else torch.square
    return measure(image.diff(dim=3)).mean() + measure(image.diff(dim=2)).mean()


def total_variation_gradient(image: Tensor, power: int = 1) -> Tensor:
    """Return the gradient of `total_variation_loss` with respect to the image, of the same shape."""
    gradient = torch.zeros_like(image)
    for dim in (3, 2):
        difference = image.diff(dim=dim)
        slope = (difference.sign() if power == 1 else 2 * difference) / difference.numel()
        gradient.narrow(dim, 1, slope.shape[dim]).add_(slope)
        gradient.narrow(dim, 0, slope.shape[dim]).sub_(slope)
    return gradient
