"""Gram matrices with optional means and parts, and their gradient, for `by_hand`."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..masks import Part
from .plain import augmented

ROWS = 512  # positions per matrix product; the products, rounded to the rows' format, are added up in float32


class Request(NamedTuple):
    """The arguments of an evaluation, see `engine.Engine`."""

    layers: Sequence[str]
    gram_layers: Sequence[str]
    means: bool = False
    parts: Mapping[str, Sequence[Part]] | None = None


def rows_of(feature_maps: Tensor) -> Tensor:
    """Return feature maps (1, C, H, W) in channels_last as a view (H·W, C)."""
    return feature_maps[0].permute(1, 2, 0).flatten(0, 1)


def mean_product(a: Tensor, b: Tensor) -> Tensor:
    """Return aᵀ b / N (1, A, B) of a (N, A) and b (N, B), in float32."""
    whole = len(a) - len(a) % ROWS
    parts, others = (x[:whole].view(-1, ROWS, x.shape[1]) for x in (a, b))
    total = torch.bmm(parts.transpose(1, 2), others).sum(0, dtype=torch.float32) + (a[whole:].T @ b[whole:])
    return total[None] / len(a)


def moments(rows: Tensor, request: Request, layer: str) -> Tensor:
    """Return the Gram matrices (R, C, C) of a layer's parts, augmented by the means if requested."""
    rows = rows.float() if rows.dtype == torch.float16 else rows  # sums would exceed 65504, float16's maximum
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


def positions(rows: Tensor, request: Request, layer: str) -> Tensor | int:
    """Return the number of positions by which each Gram matrix is divided: a number, or a tensor (R, 1, 1)."""
    if request.parts is None:
        return len(rows)
    counts = [len(part.positions) for part in request.parts[layer]]
    return torch.tensor(counts, dtype=torch.int64, device=rows.device)[:, None, None]


def add_gradient(g: Tensor, rows: Tensor, D: Tensor, request: Request, layer: str) -> None:
    """Add the gradient of a layer's `moments` to the gradient g (H·W, C) of its feature maps.

    D: gradients of the moments plus their transposes, divided by `positions`.
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
