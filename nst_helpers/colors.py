"""Color transfer, luminance, and the color modes of a painting.

Values of the setting `color`:
    "style": the painting has the style's colors.
    "symmetric", "pca", "cholesky", "histogram": the content's colors. The style image is recolored first, by `recolor`.
    "luminance_yiq", "luminance_oklab": the content's colors. Both images are converted to gray before the run; the
        content's colors are added to the result.
    "content_yiq", "content_oklab": the content's colors. The run is in color; the colors of its result are replaced.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from . import validate
from .files.surroundings import isolated

RIDGE = 1e-5  # added to the variance in every direction of the color space: a gray picture has none in two of them
ROTATIONS = 20  # rotations of the color space in which histograms are matched
YIQ = torch.tensor(  # rows Y, I, Q (NTSC 1953; the values of Python's colorsys)
    [[0.30, 0.59, 0.11], [0.5990, -0.2773, -0.3217], [0.2130, -0.5251, 0.3121]], dtype=torch.float64
)
OKLAB_LMS = torch.tensor([  # Ottosson 2020: linear sRGB to cone responses
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
], dtype=torch.float64)  # fmt: skip
OKLAB = torch.tensor([  # cube roots of the cone responses to L, a, b
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
], dtype=torch.float64)  # fmt: skip


@isolated
def recolor(image: Tensor, like: Tensor, method: str = "symmetric") -> Tensor:
    """Return the image with the colors of another, clipped to [0, 1].

    Args:
        image: (1, 3, H, W) in [0, 1].
        like: (1, 3, H', W') in [0, 1].
        method: "symmetric", "pca" and "cholesky" are affine maps of the color space that match the mean and the
            covariance. "symmetric" moves the colors least (the Monge–Kantorovitch solution of Pitié and Kokaram 2007,
            equation 13). "pca" whitens with the matrix square root, √T √S⁻¹. "cholesky" whitens with the triangular
            factor, so that its result depends on the order of the channels. "histogram" matches the whole
            distribution, by histogram matching along `ROTATIONS` rotated sets of axes in turn (Pitié et al. 2007).

    Clipping changes mean and covariance a little if colors leave [0, 1].
    """
    validate.one_of("method", method, RECOLORINGS)
    colors, wanted = (picture.detach().cpu()[0].flatten(1).double() for picture in (image, like))
    return RECOLORINGS[method](colors, wanted).view(image.shape).to(image).clamp(0, 1)


def _symmetric(colors: Tensor, like: Tensor) -> Tensor:
    mean, S, root = _moments(colors)
    like_mean, _, like_root = _moments(like)
    inverse = _power(S, -0.5)
    return inverse @ _power(root @ like_root @ like_root @ root, 0.5) @ inverse @ (colors - mean) + like_mean


def _pca(colors: Tensor, like: Tensor) -> Tensor:
    mean, S, _ = _moments(colors)
    like_mean, _, like_root = _moments(like)
    return like_root @ _power(S, -0.5) @ (colors - mean) + like_mean


def _cholesky(colors: Tensor, like: Tensor) -> Tensor:
    mean, S, _ = _moments(colors)
    like_mean, T, _ = _moments(like)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(S), colors - mean, upper=False)
    return torch.linalg.cholesky(T) @ white + like_mean


def _histogram(colors: Tensor, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    for turn in range(ROTATIONS):
        axes = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
        axes = torch.eye(3, dtype=torch.float64) if turn == ROTATIONS - 1 else axes  # the channels are matched exactly
        turned, order = (axes @ colors).sort(1)
        wanted = (axes @ like).sort(1).values[None]
        values = interpolate(wanted, size=turned.shape[1], mode="linear", align_corners=True)[0]
        colors = axes.T @ torch.empty_like(turned).scatter_(1, order, values)
    return colors


RECOLORINGS = {"symmetric": _symmetric, "pca": _pca, "cholesky": _cholesky, "histogram": _histogram}


def _moments(colors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean color (3, 1), the covariance (3, 3) and its square root."""
    covariance = torch.cov(colors, correction=0) + RIDGE * torch.eye(3, dtype=torch.float32)
    return colors.mean(1, keepdim=True), covariance, _power(covariance, 0.5)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp_min(0) ** exponent @ vectors.T


def to_yiq(image: Tensor) -> Tensor:
    """Return RGB (B, 3, H, W) in [0, 1] as YIQ: luminance Y in [0, 1], chrominance I and Q."""
    return _mixed(YIQ, image)


def from_yiq(image: Tensor) -> Tensor:
    """Return YIQ (B, 3, H, W) as RGB, the exact inverse of `to_yiq`; values may lie outside [0, 1]."""
    return _mixed(YIQ.inverse(), image)


def to_oklab(image: Tensor) -> Tensor:
    """Return sRGB (B, 3, H, W) in [0, 1] as Oklab: lightness L in [0, 1], chroma a and b (Ottosson 2020)."""
    linear = torch.where(image <= 0.04045, image / 12.92, ((image.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4)
    return _mixed(OKLAB, _mixed(OKLAB_LMS, linear).sign() * _mixed(OKLAB_LMS, linear).abs() ** (1 / 3))


def from_oklab(image: Tensor) -> Tensor:
    """Return Oklab (B, 3, H, W) as sRGB, the inverse of `to_oklab`; values may lie outside [0, 1]."""
    linear = _mixed(OKLAB_LMS.inverse(), _mixed(OKLAB.inverse(), image) ** 3)
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055)


def _mixed(matrix: Tensor, image: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", matrix.to(image), image)


SPACES = {"yiq": (to_yiq, from_yiq), "oklab": (to_oklab, from_oklab)}


def luminance(image: Tensor, space: str = "yiq") -> Tensor:
    """Return the image in gray, (1, 3, H, W) in [0, 1], with its luminance Y ("yiq") or lightness L ("oklab") kept."""
    forward, inverse = SPACES[validate.one_of("space", space, SPACES)]
    converted = forward(image)
    converted[:, 1:] = 0
    return inverse(converted).clamp(0, 1)


def with_colors_of(image: Tensor, like: Tensor, space: str = "yiq") -> Tensor:
    """Return the image's luminance with the colors of another of the same shape, clipped to [0, 1]."""
    forward, inverse = SPACES[validate.one_of("space", space, SPACES)]
    if image.shape != like.shape:
        raise ValueError(f"expected equal shapes, got {tuple(image.shape)}, {tuple(like.shape)}")
    return inverse(torch.cat([forward(image)[:, :1], forward(like)[:, 1:]], 1)).clamp(0, 1)


def match_luminance(image: Tensor, like: Tensor) -> Tensor:
    """Return a gray image with the mean and the standard deviation of another gray image (Gatys et al. 2017)."""
    deviation = image.std(correction=0).clamp_min(RIDGE)
    return ((image - image.mean()) * (like.std(correction=0) / deviation) + like.mean()).clamp(0, 1)


class ColorMode(NamedTuple):
    """Color conversions of the content and the style image before a run, and of its result; None is no conversion."""

    content: Callable[[Tensor], Tensor] | None  # (content image)
    style: Callable[[Tensor, Tensor], Tensor] | None  # (style image, content image)
    after: Callable[[Tensor, Tensor], Tensor] | None  # (result, content image)


def _luminance_only(space: str) -> ColorMode:
    gray, restored = partial(luminance, space=space), partial(with_colors_of, space=space)
    return ColorMode(gray, lambda style, content: match_luminance(gray(style), gray(content)), restored)


COLORS = {
    "style": ColorMode(None, None, None),
    **{method: ColorMode(None, partial(recolor, method=method), None) for method in RECOLORINGS},
    **{f"luminance_{space}": _luminance_only(space) for space in SPACES},
    **{f"content_{space}": ColorMode(None, None, partial(with_colors_of, space=space)) for space in SPACES},
}
