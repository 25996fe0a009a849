"""Neural style transfer (Gatys et al. 2016), in the order in which the course builds it."""

import os

# Read when torch is loaded. Otherwise OpenMP's threads wait in a loop, and two programs on the same processor (two
# notebooks, a notebook and its browser) make each other several times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from .animation import save_animation
from .colors import recolor
from .engine import pick_engine
from .images import deprocess, find_picture, load_image, preprocess, save_image, settings_from_png, to_pil
from .losses import content_loss, gram_matrix, style_loss, total_loss, total_variation_loss
from .masks import feathered, find_regions, load_mask
from .optimize import CONTENT_LAYER, STYLE_WEIGHTS, StyleTransfer, transfer
from .plots import show_grid, show_images, show_losses, show_source
from .recipes import convert, presets
from .saved_styles import load_style, save_style
from .styles import Region, Style
from .transparency import load_transparent
from .vgg import VGG, get_features, load_vgg, receptive_fields
from .weights import WeightsError

__all__ = [
    "CONTENT_LAYER",
    "STYLE_WEIGHTS",
    "VGG",
    "Region",
    "Style",
    "StyleTransfer",
    "WeightsError",
    "content_loss",
    "convert",
    "deprocess",
    "feathered",
    "find_picture",
    "find_regions",
    "get_features",
    "gram_matrix",
    "load_image",
    "load_mask",
    "load_style",
    "load_transparent",
    "load_vgg",
    "pick_engine",
    "preprocess",
    "presets",
    "receptive_fields",
    "recolor",
    "save_animation",
    "save_image",
    "save_style",
    "settings_from_png",
    "show_grid",
    "show_images",
    "show_losses",
    "show_source",
    "style_loss",
    "to_pil",
    "total_loss",
    "total_variation_loss",
    "transfer",
]
