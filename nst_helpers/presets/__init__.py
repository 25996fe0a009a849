"""Published parameters as data: `presets`, and the α and β of one in the terms of another."""

from collections.abc import Mapping
from types import MappingProxyType

import torch

from .. import validate
from ..vgg import VGG
from .preset import Preset
from .published import PUBLISHED


class _Presets(dict):
    def __missing__(self, name):
        raise KeyError(f"unknown preset {name!r}{validate.nearest(name, self)}; expected one of {', '.join(self)}")


presets: Mapping[str, Preset] = MappingProxyType(_Presets(PUBLISHED))


def convert_weights(
    preset: str | Preset,
    to: str | Preset,
    alpha: float | None = None,
    beta: float | None = None,
    height: int = 512,
    width: int = 512,
) -> tuple[float, float]:
    """Return the α and β of one preset in the terms of another.

    Args:
        preset, to: names in `presets`, or presets of your own; "nst" is the toolkit.
        alpha, beta: to be converted; default the preset's own.
        height, width: of the picture in pixels, on which presets that take sums depend.

    Exact where the two differ by the same factor in every layer. Where they do not (other layers, other weights,
    other powers of C), the factors' sums over the layers are what is kept equal. Where a preset was made for other
    weights than torchvision's, the formulas are converted, and not what those networks make of a picture.

    Raises ValueError for unknown names, and for presets with another style loss.
    """
    preset, to = (given if isinstance(given, Preset) else presets[given] for given in (preset, to))
    if preset.style_loss != to.style_loss:
        raise ValueError(f"β of {preset.style_loss} and of {to.style_loss} style losses cannot be converted")
    with torch.device("meta"):
        network = VGG("vgg19")
    (content, style), (to_content, to_style) = (
        [sum(part.values()) for part in one.coefficients(network, height, width)] for one in (preset, to)
    )
    alpha = preset.alpha if alpha is None else alpha
    beta = preset.beta if beta is None else beta
    return alpha * content / to_content, beta * style / to_style
