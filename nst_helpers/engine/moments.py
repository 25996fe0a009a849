"""Gram matrices of feature maps, of the parts of a picture, with means, and their gradient, for `by_hand`."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..masks import Part
from .plain import augmented

ROWS = 4096  # positions that a Gram matrix sums in one product, before it goes on in float32


class Request(NamedTuple):
    """The arguments of a call: see `engine.Engine`."""

    layers: Sequence[str]
    gram_layers: Sequence[str]
    means: bool = False
    parts: Mapping[str, Sequence[Part]] | None = None


def rows_of(feature_maps: Tensor) -> Tensor:
    """Return (1, C, H, W) in channels_last as (H·W, C), the same memory."""
    return feature_maps[0].permute(1, 2, 0).flatten(0, 1)


def gram_of(rows: Tensor) -> Tensor:
    """Return the Gram matrix (1, C, C) of rows (H·W, C), divided by H·W; beyond ROWS positions summed in float32."""
    rows = rows.float() if rows.dtype == torch.float16 else rows  # whose largest number is 65504
    whole = len(rows) - len(rows) % ROWS
    parts, rest = rows[:whole].view(-1, ROWS, rows.shape[1]), rows[whole:]
    total = torch.bmm(parts.transpose(1, 2), parts).sum(0, dtype=torch.float32) + (rest.T @ rest)
    return total[None] / len(rows)


def moments(rows: Tensor, request: Request, layer: str) -> Tensor:
    """Return the Gram matrices (R, C, C) of the layer's parts, with a row and a column for the mean where requested."""
    if request.parts is None and not request.means:
        return gram_of(rows)
    grams = []
    for part in [None] if request.parts is None else request.parts[layer]:
        root = None if part is None else part.weights.sqrt().to(rows.dtype)[:, None]
        chosen = rows if part is None else rows[part.positions] * root
        gram = gram_of(chosen)
        if request.means:
            total = (chosen if part is None else chosen * root).sum(0, dtype=torch.float32)
            gram = augmented(gram, total[None] / len(chosen))
        grams.append(gram)
    return torch.cat(grams)


def positions(rows: Tensor, request: Request, layer: str) -> Tensor | int:
    """Return how many positions each Gram matrix is divided by: a number, or (R, 1, 1)."""
    if request.parts is None:
        return len(rows)
    return torch.tensor([len(part.positions) for part in request.parts[layer]], device=rows.device)[:, None, None]


def add_gradient(g: Tensor, rows: Tensor, D: Tensor, request: Request, layer: str) -> None:
    """Add to g, (H·W, C), what the gradients D of `moments` come to; they are symmetric, and divided."""
    channels = rows.shape[1]
    if request.parts is None:
        g.addmm_(rows, D[0, :channels, :channels])
        if request.means:
            g += D[0, :channels, channels]
        return
    for part, given in zip(request.parts[layer], D, strict=True):
        change = rows[part.positions] @ given[:channels, :channels]
        if request.means:
            change += given[:channels, channels]
        g.index_add_(0, part.positions, change * part.weights.to(rows.dtype)[:, None])
