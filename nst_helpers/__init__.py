"""Neural style transfer (Gatys et al. 2016), in the order in which the course builds it."""

from .colours import recolour
from .engine import pick_engine
from .images import deprocess, load_image, preprocess, save_image
from .losses import content_loss, gram_matrix, style_loss, total_loss, total_variation_loss
from .optimise import CONTENT_LAYER, STYLE_WEIGHTS, StyleTransfer, transfer
from .plots import show_grid, show_losses
from .vgg import VGG, get_features, load_vgg
from .weights import WeightsError

__all__ = [
    "CONTENT_LAYER",
    "STYLE_WEIGHTS",
    "VGG",
    "StyleTransfer",
    "WeightsError",
    "content_loss",
    "deprocess",
    "get_features",
    "gram_matrix",
    "load_image",
    "load_vgg",
    "pick_engine",
    "preprocess",
    "recolour",
    "save_image",
    "show_grid",
    "show_losses",
    "style_loss",
    "total_loss",
    "total_variation_loss",
    "transfer",
]
