"""Neural style transfer (Gatys et al. 2016). The modules for each chapter of the course:

notebook                       module
01 preprocessing               images
02 feature extraction          vgg
03 Gram matrices, 04 losses    losses
05 training loop               objective, optimizers, schedule, settings, state, transfer
06 playground                  widgets
07 Rosetta                     presets
08 color and scale             colors
09 regions, 10 style mixing    styles, masks

All chapters use `plots` and `provenance`. Supporting code: `engine` (faster computation of the same losses and
gradients), `widgets` (the playground), `files` (pictures and weights), `validate`, `demo`.
"""

import os

__version__ = "0.1.0"  # the only place: pyproject.toml and recipes read it; a test compares CITATION.cff

# Must be set before torch is loaded. By default OpenMP's threads wait in a busy loop, so that two programs on the same
# processor (two notebooks, or a notebook and its browser) slow each other down by a factor of about four.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


from .colors import recolor
from .files.reading import find_picture
from .files.weights import WeightsError
from .files.writing import offer_download, save_animation, to_pil
from .images import deprocess, load_image, load_transparent, preprocess, recipe_from_png, save_image
from .losses.gatys import STYLE_WEIGHTS, content_loss, gram_matrix, relative_weights, style_loss, total_loss
from .losses.total_variation import total_variation_loss
from .masks import feathered, find_regions, load_mask
from .plots import show_grid, show_images, show_losses, show_source
from .presets import convert_weights, presets
from .settings import Settings
from .styles import Region, Style, load_style, save_style
from .transfer import StyleTransfer, transfer
from .vgg import VGG, get_features, load_vgg, receptive_fields

__all__ = [
    "STYLE_WEIGHTS", "VGG", "Region", "Settings", "Style", "StyleTransfer", "WeightsError",
    "content_loss", "convert_weights", "deprocess", "feathered", "find_picture", "find_regions", "get_features",
    "gram_matrix", "load_image", "load_mask", "load_style", "load_transparent", "load_vgg", "offer_download",
    "preprocess", "presets", "receptive_fields", "recipe_from_png", "recolor", "relative_weights", "save_animation",
    "save_image", "save_style", "show_grid", "show_images", "show_losses", "show_source", "style_loss", "to_pil",
    "total_loss", "total_variation_loss", "transfer",
]  # fmt: skip
