"""Presets: the parameters of published programs as data, and conversion of α and β between them."""

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
    """Return the α and β for one preset that correspond to those of another.

    Args:
        preset, to: names in `presets`, or `Preset` objects.
        alpha, beta: values to convert; default: the preset's own.
        height, width: of the picture in pixels. Losses that are sums depend on them.

    The conversion is exact if the two losses differ by the same factor in every layer. Otherwise (other layers, other
    layer weights, other powers of C) it keeps the sum of the factors over the layers. The range of the feature maps is
    converted too, `Preset.feature_scale`; that two networks were trained differently is not.

    Raises KeyError for unknown names, and ValueError for presets with different style losses.
    """
    preset, to = (given if isinstance(given, Preset) else presets[given] for given in (preset, to))
    if preset.style_loss != to.style_loss:
        raise ValueError(f"expected two presets with one style loss, got {preset.style_loss!r} and {to.style_loss!r}")
    with torch.device("meta"):
        network = VGG("vgg19")
    (content, style), (to_content, to_style) = (
        [sum(part.values()) for part in one.coefficients(network, height, width)] for one in (preset, to)
    )
    alpha = preset.alpha if alpha is None else alpha
    beta = preset.beta if beta is None else beta
    return alpha * content / to_content, beta * style / to_style
