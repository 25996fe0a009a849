"""Total variation by name: "l1" and "l2" for the setting `tv`, and the forms of published programs for presets."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import pad

from ..losses.gatys import with_gradient
from ..losses.total_variation import total_variation_gradient, total_variation_loss
from ..vgg import VGG


def _differences(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the differences to the right and the lower neighbor, without the last row and column."""
    return image.diff(dim=3)[:, :, :-1], image.diff(dim=2)[:, :, :, :-1]


def _l2_inside(image: Tensor) -> Tensor:
    across, down = _differences(image)
    return across.square().sum() + down.square().sum()


def _keras(image: Tensor) -> Tensor:
    across, down = _differences(image)
    return ((across.square() + down.square()) ** 1.25).sum()


def _with_diagonals(image: Tensor) -> Tensor:
    wide = pad(image, (0, 1, 0, 1), mode="replicate")
    here, right, below, across = wide[..., :-1, :-1], wide[..., :-1, 1:], wide[..., 1:, :-1], wide[..., 1:, 1:]
    straight = (right - here).square().mean() / 3 + (below - here).square().mean() / 3
    return 2 * (straight + (across - here).square().mean() / 12 + (below - right).square().mean() / 12)


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "l1": total_variation_loss,
    "l2": lambda image: total_variation_loss(image, 2),
    "l1_sum": lambda image: image.diff(dim=3).abs().sum() + image.diff(dim=2).abs().sum(),
    "l2_inside": _l2_inside,  # a sum, without the last row and column
    "keras": _keras,  # Σ (across² + down²)^1.25
    "with_diagonals": _with_diagonals,  # mean squares: right and below with 2/3 each, both diagonals with 1/6 each
}
OF_INPUT = "_of_input"  # suffix of a name: total variation of the network's normalized input
NAMES = [*FORMS, *(f"{name}{OF_INPUT}" for name in FORMS)]


POWERS = {"l1": 1, "l2": 2}  # forms whose gradient is `total_variation_gradient`; autograd takes that of the others


def variation(name: str, image: Tensor, network: VGG) -> Tensor:
    """Return the total variation of an image in the form that one of `NAMES` denotes, a scalar."""
    if name.endswith(OF_INPUT):
        return FORMS[name.removesuffix(OF_INPUT)](network.normalize(image))
    return FORMS[name](image)


def variation_gradient(name: str, image: Tensor, network: VGG) -> Tensor:
    """Return the gradient of `variation` with respect to the image, of the same shape."""
    if name in POWERS:
        return total_variation_gradient(image, POWERS[name])
    return with_gradient(lambda image: variation(name, image, network), image)[1]
