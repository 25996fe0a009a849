"""Total variation: ours, and as published programs measure it."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..vgg import VGG


def total_variation_loss(image: Tensor, power: int = 1) -> Tensor:
    """Return mean |difference to the right neighbor|ᵖ + mean |difference to the lower neighbor|ᵖ, a scalar.

    Args:
        image: (B, C, H, W), at least two pixels a side.
        power: p; 1 keeps edges sharp and flattens what lies between, 2 blurs both.

    Each mean is over its own differences, B·C·H·(W−1) and B·C·(H−1)·W, so that it does not depend on the size.
    With 1, the anisotropic form of Rudin, Osher and Fatemi 1992; other implementations take sums.
    """
    if image.ndim != 4 or min(image.shape[-2:]) < 2:
        raise ValueError(f"an image here is (B, C, H, W) with H and W at least 2, not {tuple(image.shape)}")
    if power not in (1, 2):
        raise ValueError(f"power is 1 or 2, not {power!r}")
    measure = torch.abs if power == 1 else torch.square
    return measure(image.diff(dim=3)).mean() + measure(image.diff(dim=2)).mean()


def _differences(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return differences to the right and to the lower neighbor, where both are there."""
    return image.diff(dim=3)[:, :, :-1], image.diff(dim=2)[:, :, :, :-1]


def _l2_inside(image: Tensor) -> Tensor:
    across, down = _differences(image)
    return across.square().sum() + down.square().sum()


def _keras(image: Tensor) -> Tensor:
    across, down = _differences(image)
    return ((across.square() + down.square() + 1e-30) ** 1.25).sum()  # a power has no gradient of its own at 0


def _with_diagonals(image: Tensor) -> Tensor:
    wide = pad(image, (0, 1, 0, 1), mode="replicate")
    here, right, below, across = wide[..., :-1, :-1], wide[..., :-1, 1:], wide[..., 1:, :-1], wide[..., 1:, 1:]
    straight = (right - here).square().mean() / 3 + (below - here).square().mean() / 3
    return 2 * (straight + (across - here).square().mean() / 12 + (below - right).square().mean() / 12)


TOTAL_VARIATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "l1": total_variation_loss,
    "l2": lambda image: total_variation_loss(image, 2),
    "l1_sum": lambda image: image.diff(dim=3).abs().sum() + image.diff(dim=2).abs().sum(),
    "l2_inside": _l2_inside,  # a sum, without the last row and column
    "keras": _keras,  # Σ (across² + down²)^1.25
    "with_diagonals": _with_diagonals,  # squares to the right, below and across, 1/3, 1/3 and 1/12, doubled
}
OF_INPUT = "_of_input"  # at the end of a name: of the image as the network is fed it
NAMES = [*TOTAL_VARIATIONS, *(f"{name}{OF_INPUT}" for name in TOTAL_VARIATIONS)]


def variation(name: str, image: Tensor, network: VGG) -> Tensor:
    """Return the total variation that one of `NAMES` means, a scalar."""
    if name.endswith(OF_INPUT):
        return TOTAL_VARIATIONS[name.removesuffix(OF_INPUT)](network.normalize(image))
    return TOTAL_VARIATIONS[name](image)
