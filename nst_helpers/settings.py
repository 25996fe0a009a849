"""Settings: all that describes a run but its pictures, as one frozen object of plain data."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral

from . import validate
from .colors import COLORS
from .engine import PRECISIONS, Engine
from .losses.content import CONTENT_LOSSES
from .losses.gatys import CONTENT_WEIGHTS, STYLE_WEIGHTS
from .losses.style import BLENDS, STYLE_LOSSES
from .optimizers import OPTIMIZERS
from .presets.variation import NAMES as TV_NAMES
from .schedule import STARTS, Quality, coarse_to_fine, steps_by_size
from .vgg import VGG

IMAGE = "image"  # the name of a start that is an image of your own
Weights = Mapping[str, float] | Iterable[tuple[str, float]]  # {layer: weight}; kept as pairs
STEERABLE = ("alpha", "beta", "tv_weight", "content_weights", "style_weights", "optimizer", "learning_rate")
NETWORK = ("pooling", "padding", "inputs")  # of the settings, those that belong to the network
CHOICES = {
    "precision": PRECISIONS, "optimizer": OPTIMIZERS, "content_loss": CONTENT_LOSSES, "style_loss": STYLE_LOSSES,
    "blend": BLENDS, "color": COLORS,
}  # fmt: skip
LIMITS = dict.fromkeys(("alpha", "beta", "tv_weight", "learning_rate"), math.inf) | {"noise": 1, "ema_decay": 1}


@dataclass(frozen=True)
class Settings:
    """All that describes a run but its pictures; frozen: `replace(settings, beta=30)` makes another.

    network: "auto", "vgg16" or "vgg19"; or a `VGG` from `load_vgg`.
    pooling, padding, inputs: of the network, see `VGG`.
    engine: how losses and gradients are computed: "auto" for the fastest, "plain" for autograd, see
        `engine.pick_engine`; or an `Engine`. `run.engine.name` tells.
    precision: of the gradients: "auto", "float32", "bfloat16" or "float16", see `engine.pick_engine`.
    sizes: longest sides in pixels, ascending, painted one after the other; default `coarse_to_fine` of the content
        image. At each of them the style image's longest side is the same, times its `Style`'s scale. A picture that is
        smaller is enlarged, with a warning.
    steps: evaluations of loss and gradient, in place of the quality's: a number for the last size, and 0.4 times as
        many at each size before it; or one number for each size.
    start: in place of the quality's: "content"; "recolored", the content in the style's colors; "noise", uniform;
        "gray"; "style_colors", noise with the mean and covariance of the style's colors; or an image (1, 3, H, W),
        stretched to the content's shape.
    noise: how much of the start is white noise, from 0 to 1.
    seed: of the noise. A run is repeatable bit by bit on a CPU with the same number of threads.
    optimizer: {optimizer}.
    learning_rate: what the optimizer's step is multiplied by; default 1 for L-BFGS, 0.02 for Adam.
    ema_decay: above 0, `average` is the exponential moving average of this size's images with this decay; it is what
        `transfer` returns, and what the next size starts from. Meant for Adam, with 0.9 to 0.99: as a rule a little
        smoother, at a higher loss.
    keep_optimizer_state: whether Adam's memory is kept from size to size. That of L-BFGS always starts empty.
    alpha, beta, tv_weight: weights of the content, style and total variation losses.
    content_weights, style_weights: {layer: weight}; layers are named before ("conv4_2") or after ("relu4_2") their
        ReLU.
    content_loss: {content_loss}; see `losses.content`.
    style_loss: {style_loss}; see `losses.style`.
    blend: what is averaged over blended styles: "statistics" (one target between them), or "losses" (each style pulls).
    tv: "l1" or "l2": `total_variation_loss` with power 1 or 2; presets have other forms.
    color: whose colors the painting has, and by which method: {color}; see `colors`.

    Raises ValueError for unknown names and for numbers out of range, and TypeError for unknown settings.
    """

    network: str = "auto"
    pooling: str = "max"
    padding: str = "zeros"
    inputs: str = "standardized"
    engine: str = "auto"
    precision: str = "auto"
    sizes: int | tuple[int, ...] | None = None
    steps: int | tuple[int, ...] | None = None
    start: str | None = None
    noise: float = 0.0
    seed: int = 0
    optimizer: str = "lbfgs"
    learning_rate: float | None = None
    ema_decay: float = 0.0
    keep_optimizer_state: bool = False
    alpha: float = 1.0
    beta: float = 10.0
    tv_weight: float = 0.0
    content_weights: Weights = tuple(CONTENT_WEIGHTS.items())
    style_weights: Weights = tuple(STYLE_WEIGHTS.items())
    content_loss: str = "features"
    style_loss: str = "gram"
    blend: str = "statistics"
    tv: str = "l1"
    color: str = "style"

    def __post_init__(self):
        def put(name: str, value) -> None:
            object.__setattr__(self, name, value)

        for name, known in CHOICES.items():
            validate.one_of(name, getattr(self, name), known)
        if self.tv not in TV_NAMES:  # of which those for presets alone are not told
            validate.one_of("tv", self.tv, ("l1", "l2"))
        if self.start is not None:
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
        """All that may change between steps and changes the loss: losses under other weights do not compare."""
        return self.alpha, self.beta, self.tv_weight, self.content_weights, self.style_weights

    def arguments(self) -> dict:
        """Return the arguments of `transfer` that repeat this run, as JSON can hold them."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("content_weights", "style_weights"):
            plain[name] = dict(plain[name])
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    def chosen(self, network: VGG, engine: Engine, height: int, width: int, quality: Quality) -> "Settings":
        """Return these settings with what was chosen where they left the choice ("auto" or None).

        Raises ValueError for sizes and steps that do not fit together.
        """
        sizes = coarse_to_fine(height, width, network.min_side) if self.sizes is None else self.sizes
        return replace(
            self,
            network=network.name,
            **{name: getattr(network, name) for name in NETWORK},
            engine=engine.kind,
            precision=engine.precision,
            sizes=sizes,
            steps=steps_by_size(self.steps, sizes, quality),
            start=self.start or quality.start,
        )

    def changed(self, **changes) -> "Settings":
        """Return these settings with some of `STEERABLE` changed; another optimizer brings its own learning rate."""
        if unknown := set(changes) - set(STEERABLE):
            raise ValueError(f"{', '.join(sorted(unknown))} cannot be changed in a run; {', '.join(STEERABLE)} can")
        if "optimizer" in changes:
            changes = {"learning_rate": None} | changes
        return replace(self, **changes)


SETTINGS = {  # as parameters of a function, with their defaults
    field.name: inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
    for field in fields(Settings)
}

for name, known in CHOICES.items():  # so that whoever adds a style loss, say, need not list it here
    Settings.__doc__ = Settings.__doc__.replace(f"{{{name}}}", ", ".join(f'"{choice}"' for choice in known))
SETTINGS_TEXT = inspect.cleandoc(Settings.__doc__).partition("\n\n")[2].partition("\n\nRaises")[0]


def takes(parameters: Mapping[str, inspect.Parameter]) -> Callable:
    """Return a decorator for a function or a class that takes `**settings`: what may be given for them.

    Its signature lists `parameters`, and its docstring explains the settings where it says {settings}.
    """

    def decorated(thing):
        thing.__doc__ = thing.__doc__.replace("{settings}", SETTINGS_TEXT.replace("\n", "\n        "))
        function = thing.__init__ if inspect.isclass(thing) else thing
        signature = inspect.signature(function)
        own = {name: one for name, one in signature.parameters.items() if one.kind != one.VAR_KEYWORD}
        function.__signature__ = signature.replace(parameters=(dict(own) | {**parameters, **own}).values())
        return thing

    return decorated
