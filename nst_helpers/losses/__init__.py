"""Loss functions: content and style of Gatys et al. (`gatys`), total variation, and alternatives to both."""

from .gatys import CONTENT_LAYER, CONTENT_WEIGHTS, STYLE_WEIGHTS, content_loss, gram_matrix, style_loss, total_loss
from .total_variation import total_variation_loss

__all__ = [
    "CONTENT_LAYER", "CONTENT_WEIGHTS", "STYLE_WEIGHTS", "content_loss", "gram_matrix", "style_loss", "total_loss",
    "total_variation_loss",
]  # fmt: skip
