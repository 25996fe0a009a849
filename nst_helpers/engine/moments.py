"""Gram matrices with optional means and parts, and their gradient, for `by_hand`."""

import torch
from torch import Tensor

from .plain import Request, augmented

ROWS = 512  # positions per matrix product; the products, rounded to the rows' format, are added up in float32


def rows_of(feature_maps: Tensor) -> Tensor:
    """Return feature maps (1, C, H, W) in channels_last as a view (H·W, C)."""
    return feature_maps[0].permute(1, 2, 0).flatten(0, 1)


def mean_product(a: Tensor, b: Tensor) -> Tensor:
    """Return aᵀ b / N (1, A, B) of a (N, A) and b (N, B), in float32."""
    whole = len(a) - len(a) % ROWS
    total = _products(*(x[:whole].view(-1, ROWS, x.shape[1]) for x in (a, b))).sum(0, dtype=torch.float32)
    if whole < len(a):
        total += _products(a[None, whole:], b[None, whole:])[0]
    return total[None] / len(a)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Return aᵀ b (B, A', B') of batches of matrices (B, n, A') and (B, n, B')."""
    if a.device.type == "cuda" and a.dtype != torch.float32:  # read in the rows' format, and written in float32
        return torch.bmm(a.mT, b, out_dtype=torch.float32)
    if a.dtype == torch.float16:  # sums would exceed 65504, its maximum
        a, b = a.float(), b.float()
    return torch.bmm(a.mT, b)


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


def symmetrized(D: Tensor, rows: Tensor, request: Request, layer: str) -> Tensor:
    """Return gradients of a layer's `moments` plus their transposes, divided by the number of each part's positions."""
    D = D + D.mT
    if request.parts is None:
        return D / len(rows)
    return torch.stack([one / len(part.positions) for one, part in zip(D, request.parts[layer], strict=True)])


def add_gradient(g: Tensor, rows: Tensor, D: Tensor, request: Request, layer: str) -> None:
    """Add the gradient of a layer's `moments` to the gradient g (H·W, C) of its feature maps.

    D: from `symmetrized`.
    """
    channels = rows.shape[1]
    if request.parts is None:
        g.addmm_(rows, D[0, :channels, :channels])
        if request.means:
            g += D[0, :channels, channels].contiguous()  # strided, it would take ten times as long
        return
    for part, given in zip(request.parts[layer], D, strict=True):
        change = rows[part.positions] @ given[:channels, :channels]
        if request.means:
            change += given[:channels, channels].contiguous()
        g.index_add_(0, part.positions, change * part.weights.to(rows.dtype)[:, None])
