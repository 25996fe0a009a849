"""Content loss, Gram matrix, style loss and total loss of Gatys et al. 2016. The loss of a batch is a mean over it."""

from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from operator import add

import torch
from torch import Tensor

CONTENT_LAYER = "relu4_2"
CONTENT_WEIGHTS = {CONTENT_LAYER: 1.0}
STYLE_WEIGHTS = {"relu1_1": 0.3, "relu2_1": 0.3, "relu3_1": 0.2, "relu4_1": 0.2, "relu5_1": 0.0}


def gram_matrix(feature_maps: Tensor) -> Tensor:
    """Return the Gram matrix of feature maps, G_ij = Σ_k F_ik F_jk / (H·W): inner products of all pairs of channels.

    Args:
        feature_maps: (B, C, H, W).

    Returns:
        (B, C, C), symmetric and positive semi-definite, in the units of a feature squared: one matrix for each image.

    It is divided by the number of positions H·W only, so that its scale does not depend on the size of the picture.
    Other implementations also divide by C, or by B·C. Source: Gatys et al. 2016, equation 3, which does not divide.

    >>> import torch
    >>> gram_matrix(torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]]))  # ((1·1 + 2·2) / 2, (1·3 + 2·4) / 2, …)
    tensor([[[ 2.5000,  5.5000],
             [ 5.5000, 12.5000]]])
    """
    if feature_maps.ndim != 4:
        raise ValueError(f"expected feature maps (B, C, H, W), got {tuple(feature_maps.shape)}")
    F = feature_maps.flatten(2)
    return F @ F.transpose(1, 2) / F.shape[2]


def content_loss(target_conv4_2: Tensor, content_conv4_2: Tensor) -> Tensor:
    """Return the mean squared difference of two images' feature maps, a scalar.

    Args:
        target_conv4_2: (B, C, H, W), of the image being optimized, in any layer; the paper uses conv4_2.
        content_conv4_2: the same shape, of the content image; or a batch of 1, which is broadcast.

    It is divided by B·C·H·W. Gatys et al. 2016, equation 1, is half the sum of squares: multiply by C·H·W/2 to get it.
    """
    if target_conv4_2.shape[1:] != content_conv4_2.shape[1:]:
        raise ValueError(f"expected equal shapes, got {tuple(target_conv4_2.shape)}, {tuple(content_conv4_2.shape)}")
    return (target_conv4_2 - content_conv4_2).square().mean()


def style_loss(
    style_weights: Mapping[str, float], target_features: Mapping[str, Tensor], style_grams: Mapping[str, Tensor]
) -> Tensor:
    """Return Σ_l w_l · mean((G_l − A_l)²) / 4 over the layers l of `style_weights`, a scalar.

    Args:
        style_weights: {layer: w_l}.
        target_features: {layer: feature maps (B, C, H, W)} of the image being optimized, of any size.
        style_grams: {layer: `gram_matrix` (B or 1, C, C)} of the style image.

    The mean is over B·C·C. Since G and A are divided by H·W here, it equals Gatys et al. 2016, equations 4 and 5, in
    which they are not: E_l = Σ (G − A)² / (4 N_l² M_l²). Raises KeyError if a layer has no features or Gram matrix.
    """
    losses = [
        weight * gram_distance(gram_matrix(target_features[layer]), style_grams[layer], layer)
        for layer, weight in style_weights.items()
    ]
    return torch.stack(losses).sum()


def relative_weights(style_weights: Mapping[str, float], style_grams: Mapping[str, Tensor]) -> dict[str, float]:
    """Return {layer: w_l / (mean(A_l²) / 4)}: weights that make `style_loss` relative to the style.

    A layer's loss is then 0 if G equals A, and w_l if G is 0. Without this, layers with large features outweigh all
    others. Gatys et al. 2016 (section 2) rescale the network instead, until the mean activation of a filter is 1.
    """
    sizes = {layer: gram_distance(torch.zeros_like(gram), gram, layer) for layer, gram in style_grams.items()}
    return {layer: weight / sizes[layer].item() for layer, weight in style_weights.items()}


def gram_distance(target_gram: Tensor, style_gram: Tensor, layer: str = "a layer") -> Tensor:
    """Return mean((G − A)²) / 4 of one layer's Gram matrices (B, C, C), a scalar: see `style_loss`."""
    if target_gram.shape[1:] != style_gram.shape[1:]:
        raise ValueError(f"{layer}: expected equal shapes, got {tuple(target_gram.shape)}, {tuple(style_gram.shape)}")
    return (target_gram - style_gram).square().mean() / 4


def total_loss(c_loss: Tensor, s_loss: Tensor, alpha: float, beta: float) -> Tensor:
    """Return α·content loss + β·style loss (Gatys et al. 2016, equation 7).

    Args:
        c_loss, s_loss: scalars from `content_loss` and `style_loss`.
        alpha, beta: weights, at least 0. The result depends on their ratio, and on what the losses are divided by.
    """
    return alpha * c_loss + beta * s_loss


def weighted_sum(terms: Iterable[tuple[float, Tensor]]) -> Tensor:
    """Return Σ weight · value; a weight of 1 is not multiplied."""
    return reduce(add, (value if weight == 1 else weight * value for weight, value in terms))


def with_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the value of a scalar function at x, and its gradient by autograd, of the shape of x."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = function(x)
        (gradient,) = torch.autograd.grad(value, x)
    return value.detach(), gradient
