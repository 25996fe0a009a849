"""Gram matrices with optional means and parts, and their gradient, for `by_hand`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..masks import Part
from .plain import Request, augmented

# Positions in each matrix product. On a CPU, products are rounded to the rows' format before they are added in float32.
ROWS_ON_CPU, ROWS_ON_GPU = 512, 4096


def rows_of(feature_maps: Tensor) -> Tensor:
    """Return feature maps (1, C, H, W) in channels_last as a view (H·W, C)."""
    return feature_maps[0].permute(1, 2, 0).flatten(0, 1)


def mean_product(a: Tensor, b: Tensor) -> Tensor:
    """Return aᵀ b / N (1, A, B) of a (N, A) and b (N, B), in float32."""
    N = len(a)
    n = min(N, ROWS_ON_CPU if a.device.type == "cpu" else ROWS_ON_GPU)
    whole = N - N % n
    parts = _products(a[:whole].view(-1, n, a.shape[1]), b[:whole].view(-1, n, b.shape[1]), 1 / N)
    total = parts.float() if len(parts) == 1 else parts.sum(0, keepdim=True, dtype=torch.float32)
    return total if whole == N else total + _products(a[None, whole:], b[None, whole:], 1 / N)


def _products(a: Tensor, b: Tensor, factor: float) -> Tensor:
    """Return aᵀ b · factor (B, A', B') of batches of matrices a (B, n, A') and b (B, n, B')."""
    on_cuda = a.device.type == "cuda"
    if on_cuda and a.dtype != torch.float32 and hasattr(torch.ops.aten.bmm, "dtype"):  # since torch 2.8
        return torch.bmm(a.mT, b, out_dtype=torch.float32).mul_(factor)
    if on_cuda or a.dtype == torch.float16:  # in float16, sums would exceed 65504
        a, b = a.float(), b.float()
    nothing = a.new_empty(len(a), a.shape[2], b.shape[2])
    return torch.baddbmm(nothing, a.mT, b, beta=0, alpha=factor)


def moments(rows: Tensor, request: Request, layer: str) -> Tensor:
    """Return the Gram matrices (R, C, C) of a layer's parts, augmented by the means if requested."""
    if request.parts is None:
        gram = mean_product(rows, rows)
        return augmented(gram, mean_product(rows.new_ones(len(rows), 1), rows)[0]) if request.means else gram
    grams = []
    for part in request.parts[layer]:
        root = part.weights.sqrt().to(rows.dtype)[:, None]
        chosen = rows[part.positions] * root
        gram = mean_product(chosen, chosen)
        grams.append(augmented(gram, mean_product(root, chosen)[0]) if request.means else gram)
    return torch.cat(grams)


def factor(rows: Tensor, part: Part | None) -> float:
    """Return 2 / N: a symmetric gradient D of G = Fᵀ F / N is one of 2 F D / N with respect to F."""
    return 2 / len(rows if part is None else part.positions)


def add_gradient(g: Tensor | None, rows: Tensor, D: Tensor, parts: Sequence[Part] | None, factors: bool) -> Tensor:
    """Return the gradient g (H·W, C) of a layer's feature maps, changed in place, plus that of its `moments`.

    D: symmetric gradients (1 or R, C, C) or, of augmented moments, (1 or R, C + 1, C + 1).
    factors: whether to multiply by `factor`, or D is multiplied already.
    """
    C = rows.shape[1]
    means = D.shape[1] > C
    if parts is None:
        alpha = factor(rows, None) if factors else 1.0
        g, beta = (torch.empty_like(rows), 0) if g is None else (g, 1)
        g.addmm_(rows, D[0, :C, :C], alpha=alpha, beta=beta)
        if means:
            g.add_(D[0, :C, C].contiguous(), alpha=alpha)  # strided, it would take ten times as long
        return g
    g = torch.zeros_like(rows) if g is None else g
    for part, given in zip(parts, D, strict=True):
        change = rows[part.positions] @ given[:C, :C]
        if means:
            change += given[:C, C].contiguous()
        weights = part.weights * factor(rows, part) if factors else part.weights
        g.index_add_(0, part.positions, change * weights.to(rows.dtype)[:, None])
    return g
