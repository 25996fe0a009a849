"""Published recipes as data, and the α and β of one in the terms of another."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import torch

from . import checks
from .preset import Preset
from .vgg import VGG

RELU_1 = dict.fromkeys(("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"), 1.0)
FIFTHS = dict.fromkeys(RELU_1, 0.2)
CONTENT = {"relu4_2": 1.0}
_CAFFE = "made for Caffe's weights, fed from 0 to 255 less the mean: there the same α and β mean something else"
_KERAS = "made for Keras' weights, fed from 0 to 255 less the mean: there the same α and β mean something else"
_MATCONVNET = _CAFFE.replace("Caffe's", "MatConvNet's")
_UNSAID = "the recipe does not say what Gram matrices are divided by: here by C·H·W"
_FIRST_FIVE = dict.fromkeys(("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1"), 1.0)
_CLASSIC = Preset(
    "a course recipe",
    {"conv4_2": 1.0},
    {"conv1_1": 1.0, "conv2_1": 0.75, "conv3_1": 0.2, "conv4_1": 0.2, "conv5_1": 0.2},
    alpha=1,
    beta=1e9,
    optimizer="adam",
    learning_rate=0.003,
    stages=(("longest 512", 2000),),
    notes=(_UNSAID, "reports every 400 steps: report_every=400"),
)
_GATYS = Preset(
    "leongatys/PytorchNeuralStyleTransfer",
    CONTENT,
    RELU_1,
    alpha=1,
    beta=1000,
    gram="HW",
    channel_power=-2,
    weights="vgg_conv.pth",
    stages=(("shortest 512", 520), ("shortest 800", 220)),
    notes=(_CAFFE,),
)
_JC = Preset(
    "jcjohnson/neural-style",
    CONTENT,
    RELU_1,
    alpha=5,
    beta=100,
    tv="l2_inside_of_input",
    tv_weight=0.5e-3,
    weights="caffe",
    pixel_range=256,
    stages=(("longest 512", 1000),),
    start="gray",
    noise=0.004,
    notes=(_CAFFE, "its L-BFGS sees the gradient of total variation, but not the value: here it sees both"),
)
_PYTORCH = Preset(
    "the PyTorch tutorial",
    {"conv2_2": 1.0},
    _FIRST_FIVE,
    alpha=1,
    beta=1e6,
    stages=(("shortest 512", 320),),
    notes=(
        "its conv_1 … conv_5 are the first five convolutions, not the first of each block",
        "it clamps inside the closure, under L-BFGS' feet, and counts 320 evaluations as 300",
    ),
)


class _Presets(dict):
    def __missing__(self, name):
        checks.one_of("a preset's name", name, self)  # which raises, with the list


_TABLE = {
    "nst": Preset(
        "this toolkit",
        CONTENT,
        {"relu1_1": 5.0, "relu2_1": 0.25, "relu3_1": 0.0625, "relu4_1": 0.25, "relu5_1": 1.25},  # w / 4
        alpha=1,
        beta=10,
        gram="HW",
        start="recolored",
        stages=(("longest 128", 50), ("longest 256", 50), ("longest 512", 75)),
    ),
    "jc": _JC,
    "nspt": replace(
        _JC,
        source="ProGamerGov/neural-style-pt",
        tv="l1_sum_of_input",
        tv_weight=1e-3,
        pixel_range=255,
        notes=(_CAFFE, "total variation in its other form, at the same weight as in jc"),
    ),
    "gatys_pytorch": _GATYS,
    "gatys_lua": replace(
        _GATYS,
        source="leongatys/NeuralImageSynthesis",
        weights="caffe",
        stages=(("area 512", 500), ("area 1024", 200)),
    ),
    "anish": Preset(
        "anishathalye/neural-style",
        CONTENT,
        FIFTHS,
        alpha=5,
        beta=500,
        blend="losses",
        tv="l2_of_input",
        tv_weight=100,
        weights="matconvnet",
        optimizer="adam",
        learning_rate=10,
        pixel_range=255,
        stages=(("as is", 1000),),
        start="gray",
        noise=0.004,
        notes=(_MATCONVNET, "its poolings round up where ours round down"),
    ),
    "gordic": Preset(
        "gordicaleksa/pytorch-neural-style-transfer",
        CONTENT,
        FIFTHS,
        alpha=1e5,
        beta=3e4,
        style_reduction="sum",
        tv="l1_sum_of_input",
        tv_weight=1,
        inputs="255",
        stages=(("height 400", 1250),),
        notes=(
            "feeds torchvision's weights with values up to 255, which they were not made for",
            "says conv4_2, and reads it after its ReLU, which works in place",
            "with a line search there; without one here",
        ),
    ),
    "pytorch_tutorial": _PYTORCH,
    "d2l": Preset(
        "d2l.ai, neural-style",
        {"relu4_4": 1.0},
        {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0, "relu4_1": 1.0, "conv5_1": 1.0},
        alpha=1,
        beta=1e4,
        tv="l1_of_input",
        tv_weight=5,
        optimizer="adam",
        learning_rate=0.3,
        pixel_range=4.4,
        stages=(("longest 450", 500),),
        notes=(
            "says convolutions, and reads all but the last after their ReLUs, which work in place",
            "distorts the picture to 300×450 px; lowers the learning rate by a fifth every 50 steps; clips nothing",
        ),
    ),
    "tensorflow": Preset(
        "the TensorFlow tutorial",
        {"relu5_2": 1.0},
        FIFTHS,
        alpha=1e4,
        beta=1e-2,
        gram="HW",
        tv="l1_sum",
        tv_weight=30,
        weights="keras",
        optimizer="adam",
        learning_rate=0.02,
        stages=(("longest 512", 1000),),
        notes=(_KERAS, "Adam with β₁ = 0.99 and ε = 0.1 there"),
    ),
    "keras": Preset(
        "the Keras example",
        {"relu5_2": 1.0},
        dict.fromkeys(RELU_1, 0.2 / 4),
        alpha=2.5e-8,
        beta=1e-6,
        content_reduction="sum",
        gram="image",
        style_reduction="sum",
        tv="keras_of_input",
        tv_weight=1e-6,
        weights="keras",
        optimizer="sgd",
        learning_rate=100,
        pixel_range=255,
        stages=(("height 400", 4000),),
        notes=(
            _KERAS,
            "divides by the picture's size and by 3 channels where the paper has the layer's; the content is a sum,"
            " so that α grows with the picture",
            "distorts the style to the content's shape; gradient descent there, Adam here",
        ),
    ),
    "pystiche": Preset(
        "pystiche, its example",
        CONTENT,
        FIFTHS,
        alpha=1,
        beta=1e3,
        gram="HW",
        stages=(("shortest 500", 500),),
    ),
    "crowson": Preset(
        "crowsonkb/style-transfer-pytorch",
        CONTENT,
        {
            "relu1_1": 256 / 341,
            "relu2_1": 64 / 341,
            "relu3_1": 16 / 341,
            "relu4_1": 4 / 341,
            "relu5_1": 1 / 341,
        },
        alpha=0.015,
        beta=1,
        style_loss="wasserstein",
        tv="with_diagonals",
        tv_weight=2,
        optimizer="adam",
        learning_rate=0.02,
        stages=tuple((f"longest {size}", 500 + 500 * (size == 128)) for size in (128, 181, 256, 362, 512)),
        notes=(
            "its first convolution pads by replication, ours with zeros",
            "Adam with β₂ = 0.99 there; averaged with 0.99, its memory carried: averaging=0.99, carry=True",
        ),
    ),
    "classic_adam": _CLASSIC,
    "classic_lbfgs": replace(
        _CLASSIC,
        optimizer="lbfgs",
        learning_rate=1.0,
        stages=(("longest 512", 500),),
        notes=(_UNSAID, 'from the content, or from white noise: start="noise"', "report_every=50"),
    ),
    "five_convs_lbfgs": replace(
        _PYTORCH,
        source="a course recipe",
        notes=(_UNSAID, "α and β as in the PyTorch tutorial", "report_every=50"),
    ),
    "guided_project": replace(
        _CLASSIC,
        notes=(_UNSAID, "α, β and the layers' weights are the learner's to choose: those of classic_adam here"),
    ),
}
presets: Mapping[str, Preset] = MappingProxyType(_Presets(_TABLE))


def convert(
    preset: str | Preset,
    to: str | Preset,
    alpha: float | None = None,
    beta: float | None = None,
    height: int = 512,
    width: int = 512,
) -> tuple[float, float]:
    """Return the α and β of one recipe in the terms of another.

    Args:
        preset, to: names in `presets`, or recipes of your own; "nst" is the toolkit.
        alpha, beta: to be converted; default the recipe's own.
        height, width: of the picture in pixels, on which recipes that take sums depend.

    Exact where the two differ by the same factor in every layer. Where they do not (other layers, other weights,
    other powers of C), the factors' sums over the layers are what is kept equal. Where a recipe was made for other
    weights than torchvision's, the formulas are converted, and not what those networks make of a picture.

    Raises ValueError for unknown names, and for recipes with another style loss.
    """
    preset, to = (given if isinstance(given, Preset) else presets[given] for given in (preset, to))
    if preset.style_loss != to.style_loss:
        raise ValueError(f"β of {preset.style_loss} and of {to.style_loss} style losses cannot be converted")
    with torch.device("meta"):
        network = VGG("vgg19")
    (content, style), (to_content, to_style) = (
        [sum(part.values()) for part in recipe.coefficients(network, height, width)] for recipe in (preset, to)
    )
    alpha = preset.alpha if alpha is None else alpha
    beta = preset.beta if beta is None else beta
    return alpha * content / to_content, beta * style / to_style
