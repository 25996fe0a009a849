"""The cross term of the Wasserstein distance of two normal distributions, and its gradient."""

import math

import torch
from torch import Tensor

RIDGE = 1e-4  # added to variances, so that their roots have a gradient
SMALLEST = 1e-4  # singular value, relative to the largest, from which `cross_by_products` converges in `ITERATIONS`
ITERATIONS = 14


def cross_by_eigenvalues(covariance: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """Return tr (R Σ R)^½, (B,), and R (R Σ R)^−½ R, (B, C, C), from Σ and R = √T (B, C, C)."""
    product = root @ covariance @ root
    values, vectors = torch.linalg.eigh((product + product.mT) / 2)
    roots = values.clamp_min(RIDGE**2).sqrt()
    turned = root @ vectors
    return roots.sum(1), turned * torch.where(values > RIDGE**2, 1 / roots, 0)[:, None] @ turned.mT


def cross_by_products(covariance: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same as `cross_by_eigenvalues`, by operations for which a GPU does not wait for the host.

    With Σ = L Lᵀ and M = R L, (R Σ R)^½ = (M Mᵀ)^½ = M Uᵀ, where U is the orthogonal factor of the polar decomposition
    of M. U is the limit of the Newton–Schulz iteration X ← X (3 I − Xᵀ X) / 2, scaled for the interval of the singular
    values (Chen and Chow 2014, "A stable scaling of Newton–Schulz"). Products of a single factor of Σ lose half as many
    digits as R Σ R: in float32, this is closer to float64 than the eigenvalues are.
    """
    eye = torch.eye(root.shape[-1], dtype=root.dtype, device=root.device)
    trace = covariance.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    L = torch.linalg.cholesky_ex(covariance + 1e-7 * trace * eye).L  # without the addition, rounding may make it fail
    M = root @ L
    X = M / torch.linalg.matrix_norm(M, keepdim=True)
    square = X.mT @ X
    X = X / (square @ square).square().sum((1, 2), keepdim=True) ** 0.125  # its largest singular value is at most 1
    smallest = SMALLEST
    for _ in range(ITERATIONS):
        scale = math.sqrt(3 / (1 + smallest + smallest**2))
        X = X @ torch.baddbmm(eye, X.mT, X, beta=1.5 * scale, alpha=-0.5 * scale**3)
        smallest *= scale * (3 - (scale * smallest) ** 2) / 2
    pull = torch.linalg.solve_triangular(L, root @ X, upper=False, left=False)
    return (X * M).sum((1, 2)), (pull + pull.mT) / 2
