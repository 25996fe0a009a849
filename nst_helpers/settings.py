"""`Settings`: a frozen dataclass of plain data that describes a run completely, except for its pictures."""

import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral
from typing import Any

from . import validate
from .colors import COLORS
from .engine import PRECISIONS, Engine
from .losses.content import CONTENT_LOSSES
from .losses.gatys import CONTENT_WEIGHTS, STYLE_WEIGHTS
from .losses.style import BLENDS, STYLE_LOSSES
from .optimizers import OPTIMIZERS
from .presets.variation import NAMES as TV_NAMES
from .schedule import QUALITIES, STARTS, coarse_to_fine, stages
from .vgg import VGG

IMAGE = "image"  # value of `start` for a run that was given a starting image
CHOSEN: Any = None  # default of settings that are chosen later: the learning rate by the optimizer, others by `chosen`
Weights = Mapping[str, float] | Iterable[tuple[str, float]]  # {layer: weight}; stored as pairs
# Settings that can be changed during a run. To add one: a field of `Settings`, and a property of `StyleTransfer`.
STEERABLE = ("alpha", "beta", "tv_weight", "content_weights", "style_weights", "optimizer", "learning_rate")
NETWORK_SETTINGS = ("pooling", "padding")  # settings that belong to the network
CHOICES = {
    "precision": PRECISIONS, "optimizer": OPTIMIZERS, "content_loss": CONTENT_LOSSES, "style_loss": STYLE_LOSSES,
    "blend": BLENDS, "color": COLORS,
}  # fmt: skip
LIMITS = dict.fromkeys(("alpha", "beta", "tv_weight", "learning_rate"), math.inf) | {"noise": 1, "ema_decay": 1}


@dataclass(frozen=True)
class Settings:
    """The settings of a run, frozen: `replace(settings, beta=30)` returns changed ones.

    network: "vgg19", "vgg19_torchvision" or "vgg16", see `load_vgg`; or a `VGG` from there.
    pooling, padding: options of the network, see `VGG`.
    engine: how losses and gradients are computed: "auto" for the fastest available, "plain" for autograd, see
        `engine.pick_engine`; or an `Engine`. `run.engine.name` names the one in use.
    precision: of the gradients: "auto", "float32", "bfloat16" or "float16", see `engine.pick_engine`.
    sizes: longest sides of the painting in pixels, in ascending order; default `coarse_to_fine` of the content image,
        adapted to narrow style images. The style image is resized to the same longest side, times the scale of its
        `Style`. A picture that is smaller is enlarged, with a warning.
    steps: number of evaluations of loss and gradient; overrides that of `quality`. One number for the last size, with
        0.4 times as many at each smaller size; or one number for each size.
    start: "content"; "recolored", the content in the style's colors; "noise", uniform; "gray"; "style_colors", noise
        with the mean and covariance of the style's colors; or an image (1, 3, H, W), resized to the content's shape.
    noise: share of white noise in the starting image, from 0 to 1.
    seed: of the noise. On a CPU with the same number of threads, a run is reproducible bit for bit.
    optimizer: {optimizer}.
    learning_rate: factor of the optimizer's step; default 1 for L-BFGS, 0.02 for Adam.
    ema_decay: decay of the exponential moving average of the images at each size; 0 is off. Otherwise, `transfer`
        returns it and the next size starts from it. For Adam, 0.9 to 0.99: a little smoother, at a higher loss.
    keep_optimizer_state: whether Adam keeps its moments from size to size. L-BFGS always starts empty.
    alpha, beta, tv_weight: weights of the content, style and total variation losses.
    content_weights, style_weights: {layer: weight}; "conv4_2" is before the ReLU, "relu4_2" after it.
    relative_losses: whether each layer's loss is divided by that of a picture without features (all 0), see
        `relative_weights`. A weight then means the same in every layer and for every style. Presets set it to False.
    content_loss: {content_loss}; see `losses.content`.
    style_loss: {style_loss}; see `losses.style`.
    blend: for several styles: "statistics", one target with their mean statistics; "losses", the mean of their losses.
    tv: "l1" or "l2": `total_variation_loss` with power 1 or 2.
    color: color mode, which says whose colors the painting has: {color}; see `colors`.

    Raises ValueError for unknown names and for numbers out of range, and TypeError for unknown settings.
    """

    network: str = "vgg19"
    pooling: str = "max"
    padding: str = "zeros"
    engine: str = "auto"
    precision: str = "auto"
    sizes: tuple[int, ...] = CHOSEN
    steps: tuple[int, ...] = CHOSEN
    start: str = "recolored"
    noise: float = 0.0
    seed: int = 0
    optimizer: str = "lbfgs"
    learning_rate: float = CHOSEN
    ema_decay: float = 0.0
    keep_optimizer_state: bool = False
    alpha: float = 1.0
    beta: float = 25.0
    tv_weight: float = 0.0
    content_weights: Weights = tuple(CONTENT_WEIGHTS.items())
    style_weights: Weights = tuple(STYLE_WEIGHTS.items())
    relative_losses: bool = True
    content_loss: str = "features"
    style_loss: str = "wasserstein"
    blend: str = "statistics"
    tv: str = "l1"
    color: str = "style"

    def __post_init__(self):
        def put(name: str, value) -> None:
            object.__setattr__(self, name, value)

        for name, known in CHOICES.items():
            validate.one_of(name, getattr(self, name), known)
        if self.tv not in TV_NAMES:  # the message leaves out the names that only presets use
            validate.one_of("tv", self.tv, ("l1", "l2"))
        validate.one_of("start", self.start, (*STARTS, IMAGE))
        if self.sizes is not None:
            put("sizes", validate.whole_numbers("sizes", self.sizes))
        if self.steps is not None and not isinstance(self.steps, Integral):
            put("steps", validate.whole_numbers("steps", self.steps))
        put("seed", *validate.whole_numbers("seed", self.seed))
        if self.learning_rate is None:
            put("learning_rate", OPTIMIZERS[self.optimizer].learning_rate)
        for name, most in LIMITS.items():
            put(name, validate.number(name, getattr(self, name), high=most))
        for name in ("content_weights", "style_weights"):
            put(name, validate.layer_weights(name, getattr(self, name)))

    @property
    def loss_weights(self) -> tuple:
        """The weights that the loss depends on. Losses with different weights cannot be compared."""
        return self.alpha, self.beta, self.tv_weight, self.content_weights, self.style_weights

    def arguments(self) -> dict:
        """Return the arguments of `transfer` that repeat this run, as data that JSON can represent."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("content_weights", "style_weights"):
            plain[name] = dict(plain[name])
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    def chosen(self, network: VGG, engine: Engine, height: int, width: int, quality: str, least: int) -> "Settings":
        """Return these settings with the actual choice in place of "auto" and None.

        least: see `stages`. Raises ValueError if the numbers of sizes and steps differ, or for an unknown quality.
        """
        validate.one_of("quality", quality, QUALITIES)
        sizes = coarse_to_fine(height, width, network.min_side) if self.sizes is None else self.sizes
        steps = stages(self.steps, sizes, QUALITIES[quality], least)
        return replace(
            self,
            network=network.name,
            **{name: getattr(network, name) for name in NETWORK_SETTINGS},
            engine=engine.kind,
            precision=engine.precision,
            sizes=tuple(steps),
            steps=tuple(steps.values()),
        )

    def changed(self, **changes) -> "Settings":
        """Return these settings with some of `STEERABLE` changed; a new optimizer sets its default learning rate."""
        if unknown := set(changes) - set(STEERABLE):
            names = ", ".join(sorted(unknown))
            raise ValueError(f"expected settings that can change during a run ({', '.join(STEERABLE)}), got {names}")
        if "optimizer" in changes:
            changes = {"learning_rate": None} | changes
        return replace(self, **changes)


SETTINGS = {  # parameters of a function, with defaults
    field.name: inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
    for field in fields(Settings)
}

for name, known in CHOICES.items():  # fill in {optimizer}, {style_loss}, …: new entries are documented automatically
    Settings.__doc__ = str(Settings.__doc__).replace(f"{{{name}}}", ", ".join(f'"{choice}"' for choice in known))
SETTINGS_TEXT = inspect.cleandoc(str(Settings.__doc__)).partition("\n\n")[2].partition("\n\nRaises")[0]
