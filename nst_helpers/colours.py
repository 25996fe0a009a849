"""The colours of one picture given to another."""

import torch
from torch import Tensor

FAINTEST = 1e-5  # variance that every direction of colour is taken to have: a grey picture has none in two of them


def recolour(image: Tensor, like: Tensor) -> Tensor:
    """Return the image with the mean and the covariance of the colours of another, clipped to [0, 1].

    Args:
        image: (1, 3, H, W) in [0, 1].
        like: (1, 3, H', W') in [0, 1].

    Each pixel's colour goes through one affine map: of all that give this mean and covariance, the one that moves
    colours least (the Monge–Kantorovitch solution of Pitié and Kokaram 2007, equation 13). Clipping shifts mean and
    covariance a little where colours leave the range.
    """
    mean, root, inverse_root = _moments(image)
    target_mean, target_root, _ = _moments(like)
    covariance = root @ target_root @ target_root @ root
    matrix = inverse_root @ _power(covariance, 0.5) @ inverse_root
    colours = image.detach().cpu()[0].flatten(1).double()
    recoloured = matrix @ (colours - mean) + target_mean
    return recoloured.view(image.shape).to(image).clamp(0, 1)


def _moments(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean colour (3, 1), and the covariance's square root and that one's inverse (3, 3)."""
    colours = image.detach().cpu()[0].flatten(1).double()
    covariance = torch.cov(colours, correction=0) + FAINTEST * torch.eye(3)
    return colours.mean(1, keepdim=True), _power(covariance, 0.5), _power(covariance, -0.5)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp_min(0) ** exponent @ vectors.T
