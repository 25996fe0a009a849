"""Total variation as published programs measure it; ours is `losses.total_variation_loss`."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import pad

from .images import IMAGENET_STD, channels
from .losses import total_variation_loss


def _differences(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return differences to the right and to the lower neighbour, where both are there."""
    return image.diff(dim=3)[:, :, :-1], image.diff(dim=2)[:, :, :, :-1]


def _l2_inside(image: Tensor) -> Tensor:
    across, down = _differences(image)
    return across.square().sum() + down.square().sum()


def _keras(image: Tensor) -> Tensor:
    across, down = _differences(image)
    return ((across.square() + down.square() + 1e-30) ** 1.25).sum()  # a power has no gradient of its own at 0


def _standardised(image: Tensor) -> Tensor:
    return total_variation_loss(image / channels(IMAGENET_STD, image))


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
    "standardised": _standardised,  # "l1" of the image as the network is fed it
    "with_diagonals": _with_diagonals,  # squares to the right, below and across, 1/3, 1/3 and 1/12, doubled
}
DEGREES = {"l1": 1, "l2": 2, "l1_sum": 1, "l2_inside": 2, "keras": 2.5, "standardised": 1, "with_diagonals": 2}
# of pixel values: what a total variation is multiplied by is the k-th power of what they are multiplied by
