"""Neural style transfer as a run of steps: `StyleTransfer` makes them one at a time, `transfer` makes them all."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .colours import recolour
from .engine import pick_engine
from .images import check_image, fitted, resize
from .losses import content_loss, gram_loss, total_loss, total_variation_loss
from .optimisers import LBFGS, OPTIMISERS, Adam
from .progress import progress_bar
from .schedules import QUALITIES, coarse_to_fine, steps_by_size
from .vgg import VGG, load_vgg

CONTENT_LAYER = "relu4_2"
STYLE_WEIGHTS = {"relu1_1": 20.0, "relu2_1": 1.0, "relu3_1": 0.25, "relu4_1": 1.0, "relu5_1": 5.0}
ROUGH = 60  # first evaluations at a size that need not be exact: they lead just as far
JUMP = 2.0  # a loss above so many times the best one is a blow-up


@dataclass(frozen=True)
class Settings:
    """What a loss depends on besides the image; losses under different settings do not compare."""

    alpha: float
    beta: float
    tv_weight: float
    style_weights: tuple[tuple[str, float], ...]
    size: int


@dataclass(frozen=True)
class Record:
    """One step: the settings read at its start, and the losses of the image that it started from.

    `total` = α·`content` + β·`style` + tv_weight·`total_variation`. `rolled_back` says that the loss was not finite or
    had more than doubled, so that the step went back to the best image, whose losses stand here.
    """

    iteration: int  # evaluations made before this one
    settings: Settings
    total: float
    content: float
    style: float
    total_variation: float
    rolled_back: bool
    level_step: int  # steps made at this size before
    optimiser: str
    learning_rate: float
    _image: Tensor | None = field(repr=False, compare=False)

    @property
    def size(self) -> int:
        """The longest side in pixels."""
        return self.settings.size

    @property
    def image(self) -> Tensor | None:
        """A copy of the image, (1, 3, H, W) on the CPU; None in `StyleTransfer.history`, which keeps numbers alone."""
        return None if self._image is None else self._image.to("cpu", copy=True)


@dataclass(frozen=True)
class Evaluation:
    """An image, its losses (total, content, style, total variation) and the gradient of the total."""

    image: Tensor
    losses: tuple[float, float, float, float]
    gradient: Tensor

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, self.losses)) and bool(self.gradient.isfinite().all())


@dataclass
class State:
    """All that changes while a run goes on."""

    image: Tensor  # the input image: the next to be evaluated
    optimiser: LBFGS | Adam
    level: int = 0  # index into sizes
    level_step: int = 0
    iteration: int = 0
    settings: Settings | None = None  # of the last step
    best: Evaluation | None = None  # under these settings
    setbacks: int = 0  # each halves the step; an improvement takes one back
    history: list[Record] = field(default_factory=list)


class _Number:
    """An attribute that holds a finite number, at least 0."""

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, run, owner=None):
        return self if run is None else run.__dict__[self.name]

    def __set__(self, run, value):
        run.__dict__[self.name] = _number(self.name, value)


def _number(name: str, value) -> float:
    value = float(value)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is a finite number, at least 0, not {value}")
    return value


class _Targets(NamedTuple):
    """What the content and the style image ask for at one size, as the engine finds it, roughly or exactly."""

    size: int
    rough: bool
    content_image: Tensor
    content_features: Tensor
    style_grams: dict[str, Tensor]


class StyleTransfer:
    """A style transfer that is stepped through: `for record in run: …`, or `run.step()` until `run.done`.

    Args:
        content_image, style_image: (1, 3, H, W) in [0, 1], from `load_image`; their sizes may differ.
        network: "auto", "vgg16", "vgg19", or a `VGG` from `load_vgg`.
        sizes: longest sides in pixels, ascending, painted one after the other; default `coarse_to_fine` of the
            content image. At each of them the style image's longest side is the same. A picture that is smaller is
            enlarged, with a warning.
        quality: "draft", "good" or "best": the steps and the start that `schedules.QUALITIES` holds for it.
        steps: evaluations of loss and gradient, in place of the quality's: a number for the last size, and 0.4 times
            as many at each size before it; or one number a size.
        start: in place of the quality's: "content", "recoloured" (the content in the style's colours, see
            `recolour`), "noise" (uniform, from `seed`), or an image (1, 3, H, W), stretched to the content's shape.
        optimiser: "lbfgs" or "adam".
        learning_rate: what the optimiser's step is multiplied by; default 1 for L-BFGS, 0.02 for Adam.
        alpha, beta, tv_weight: weights of the content, style and total variation losses.
        content_layer: a layer's name.
        style_weights: {layer: weight}.
        seed: of the noise. A run is repeatable bit by bit on a CPU with the same number of threads.
        device: default that of the given `VGG`, else CUDA, then MPS, then the CPU; `run.device` tells.
        engine: how losses and gradients are computed, "auto" for the fastest, "plain" for autograd in float32: see
            `pick_engine`; `run.engine.name` tells.

    `alpha`, `beta`, `tv_weight`, `style_weights` (a new dictionary), `optimiser` (which brings its default learning
    rate along) and `learning_rate` may be set at any time, from any thread: the next step reads them once. Where that
    changes the loss, the best image and the optimiser's memory start anew.

    Raises:
        ValueError: images that are not as above, unknown names, sizes too small for the network, negative weights.
        FloatingPointError: from `step`, where the loss is not finite and there is no image to go back to.
        WeightsError: the network's weights cannot be had.
    """

    alpha, beta, tv_weight = _Number(), _Number(), _Number()

    def __init__(
        self,
        content_image: Tensor,
        style_image: Tensor,
        *,
        network: str | VGG = "auto",
        sizes: Sequence[int] | None = None,
        quality: str = "good",
        steps: int | Sequence[int] | None = None,
        start: str | Tensor | None = None,
        optimiser: str = "lbfgs",
        learning_rate: float | None = None,
        alpha: float = 1.0,
        beta: float = 10.0,
        tv_weight: float = 0.0,
        content_layer: str = CONTENT_LAYER,
        style_weights: Mapping[str, float] = STYLE_WEIGHTS,
        seed: int = 0,
        device: torch.device | str | None = None,
        engine: str = "auto",
    ):
        self.optimiser = optimiser
        if learning_rate is not None:
            self.learning_rate = learning_rate
        self.content_image = _checked(content_image, "content_image")
        self.style_image = _checked(style_image, "style_image")
        self.sizes = tuple(sizes) if sizes is not None else coarse_to_fine(*content_image.shape[2:])
        if quality not in QUALITIES:
            raise ValueError(f"quality is one of {', '.join(QUALITIES)}, not {quality!r}")
        self.steps = steps_by_size(steps, self.sizes, QUALITIES[quality])
        self._shapes = {  # of both images at each size; what is too small, or enlarged, is said before the first step
            size: (
                fitted(*content_image.shape[2:], size, "content_image"),
                fitted(*style_image.shape[2:], size, "style_image"),
            )
            for size in self.sizes
        }
        self.alpha, self.beta, self.tv_weight = alpha, beta, tv_weight
        if not isinstance(network, VGG):
            network = load_vgg(network, device=device)
        self.network = network.to(device or network.device)
        self.device = self.network.device
        self.engine = pick_engine(self.network, engine)
        (self.content_layer,) = self.network.check_layers(content_layer)
        self._style_layers = tuple(self.network.check_layers(style_weights))
        self.style_weights = style_weights
        self.seed = seed
        self._targets = self._targets_at(self.sizes[0], self._is_rough(0))
        self.state = State(
            self._start_image(QUALITIES[quality].start if start is None else start), OPTIMISERS[optimiser]()
        )

    # What may be read and set between steps

    @property
    def style_weights(self) -> Mapping[str, float]:
        """A copy of {layer: weight}; set it to a dictionary with the same layers, or some of them."""
        return dict(self._style_weights)

    @style_weights.setter
    def style_weights(self, weights: Mapping[str, float]) -> None:
        if not weights or not set(weights) <= set(self._style_layers):
            raise ValueError(f"style_weights holds some of {', '.join(self._style_layers)}, not {', '.join(weights)}")
        self._style_weights = tuple((layer, _number(layer, weight)) for layer, weight in weights.items())

    @property
    def optimiser(self) -> str:
        """The optimiser's name; setting it sets `learning_rate` to its default, too."""
        return self._method[0]

    @optimiser.setter
    def optimiser(self, name: str) -> None:
        if name not in OPTIMISERS:
            raise ValueError(f"optimiser is one of {', '.join(OPTIMISERS)}, not {name!r}")
        self._method = name, OPTIMISERS[name].learning_rate

    @property
    def learning_rate(self) -> float:
        """What the optimiser's step is multiplied by."""
        return self._method[1]

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self._method = self._method[0], _number("learning_rate", rate)

    @property
    def image(self) -> Tensor:
        """A copy of the latest image, (1, 3, H, W) in [0, 1], on the CPU; always finite."""
        return self.state.image.to("cpu", copy=True)

    @property
    def best(self) -> Tensor:
        """A copy of the image with the lowest loss under the present settings; the latest while none is evaluated."""
        best = self.state.best
        return self.image if best is None else best.image.to("cpu", copy=True)

    @property
    def best_loss(self) -> float:
        """The total loss of `best`; infinite while none is evaluated."""
        return math.inf if self.state.best is None else self.state.best.losses[0]

    @property
    def history(self) -> tuple[Record, ...]:
        """The records of all steps, without their images."""
        return tuple(self.state.history)

    # Going on

    @property
    def done(self) -> bool:
        """True when no step is left at the last size."""
        return not any(self.steps[self.state.level + 1 :]) and self.state.level_step >= self.steps[self.state.level]

    def __iter__(self) -> Iterator[Record]:
        while not self.done:
            yield self.step()

    def step(self) -> Record:
        """Evaluate the image once, update it once, and return the record; raises RuntimeError when done."""
        if self.done:
            raise RuntimeError("no steps are left; extend(steps) adds some")
        while self.state.level_step >= self.steps[self.state.level]:
            self._next_level()
        state = self.state
        settings = Settings(self.alpha, self.beta, self.tv_weight, self._style_weights, self._size)
        optimiser, learning_rate = self._method
        if settings != state.settings:
            state.settings, state.best, state.setbacks = settings, None, 0
            state.optimiser = OPTIMISERS[optimiser]()
        elif not isinstance(state.optimiser, OPTIMISERS[optimiser]):
            state.optimiser = OPTIMISERS[optimiser]()
        switched = self._is_rough(state.level_step) != self._targets.rough
        if switched:
            self._targets = self._targets_at(self._size, not self._targets.rough)
            state.optimiser.forget_gradient()

        now = self.evaluate(state.image, settings)
        failed = not now.finite or (state.best is not None and now.losses[0] > JUMP * state.best.losses[0])
        if failed:
            if state.best is None:
                raise FloatingPointError(f"the loss is not finite at the start: {now.losses[0]} with {settings}")
            now = state.best
            state.optimiser = OPTIMISERS[optimiser]()
            state.setbacks += 1
        elif state.best is None or switched or now.losses[0] < state.best.losses[0]:
            state.best, state.setbacks = now, max(0, state.setbacks - 1)

        record = Record(
            state.iteration, settings, *now.losses, failed, state.level_step, optimiser, learning_rate, now.image
        )
        scale = learning_rate * 0.5**state.setbacks
        image = now.image + scale * state.optimiser.direction(now.image, now.gradient)
        state.image = torch.where(image.isfinite(), image, now.image).clamp(0, 1)
        state.history.append(replace(record, _image=None))
        state.iteration += 1
        state.level_step += 1
        return record

    def extend(self, steps: int) -> None:
        """Add steps at the last size."""
        self.steps = (*self.steps[:-1], self.steps[-1] + steps)

    def rewind(self, record: Record) -> None:
        """Go back to the image of a record that `step` returned, and on from there; later history is dropped."""
        if record._image is None:
            raise ValueError("this record keeps no image; rewind to one that step() returned")
        targets = self._targets
        if (record.size, self._is_rough(record.level_step)) != targets[:2]:
            targets = self._targets_at(record.size, self._is_rough(record.level_step))
        state = State(
            image=record._image,
            optimiser=OPTIMISERS[self.optimiser](),
            level=self.sizes.index(record.size),
            level_step=record.level_step,
            iteration=record.iteration,
            history=self.state.history[: record.iteration],
        )
        self._targets, self.state = targets, state

    @property
    def _size(self) -> int:
        return self.sizes[self.state.level]

    def _next_level(self) -> None:
        state = self.state
        targets = self._targets_at(self.sizes[state.level + 1], self._is_rough(0))
        finest = state.image if state.best is None else state.best.image
        image = resize(finest, *targets.content_image.shape[2:])
        self._targets, self.state = targets, replace(state, image=image, level=state.level + 1, level_step=0)

    def _is_rough(self, level_step: int) -> bool:
        return self.engine.has_rough and level_step < ROUGH

    def _targets_at(self, size: int, rough: bool) -> _Targets:
        content_shape, style_shape = self._shapes[size]
        content = resize(self.content_image, *content_shape).to(self.device)
        style = resize(self.style_image, *style_shape).to(self.device)
        with torch.no_grad():
            features, _ = self.engine(content, [self.content_layer], [], rough)
            _, grams = self.engine(style, [], self._style_layers, rough)
        return _Targets(size, rough, content, features[self.content_layer], grams)

    def evaluate(self, image: Tensor, settings: Settings) -> Evaluation:
        """Return the losses and the gradient of an image of the present size, and change nothing."""
        weights = dict(settings.style_weights)
        input_image = image.detach().requires_grad_()
        features, grams = self.engine(input_image, [self.content_layer], list(weights), self._targets.rough)
        content = content_loss(features[self.content_layer], self._targets.content_features)
        style = gram_loss(weights, grams, self._targets.style_grams)
        variation = total_variation_loss(input_image)
        total = total_loss(content, style, settings.alpha, settings.beta) + settings.tv_weight * variation
        (gradient,) = torch.autograd.grad(total, input_image)
        losses = torch.stack([total, content, style, variation]).tolist()
        return Evaluation(image, tuple(losses), gradient.contiguous())

    def _start_image(self, start: str | Tensor) -> Tensor:
        height, width = self._targets.content_image.shape[2:]
        if isinstance(start, Tensor):
            return resize(_checked(start, "start"), height, width).to(self.device)
        if start == "content":
            return self._targets.content_image
        if start == "recoloured":
            return recolour(self._targets.content_image, self.style_image)
        if start == "noise":
            generator = torch.Generator().manual_seed(self.seed)
            return torch.rand(1, 3, height, width, generator=generator).to(self.device)
        raise ValueError(f'start is "content", "recoloured", "noise" or an image, not {start!r}')


def _checked(image: Tensor, name: str) -> Tensor:
    if not isinstance(image, Tensor) or image.ndim != 4 or image.shape[:2] != (1, 3):
        what = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"{name} is a tensor (1, 3, H, W) from load_image, not {what}")
    check_image(image, name)
    return image.detach().float().clamp(0, 1)


@dataclass(frozen=True)
class Result:
    """What `transfer` returns."""

    image: Tensor = field(repr=False)  # (1, 3, H, W) in [0, 1] on the CPU: the best, whose loss was measured
    loss: float  # its total loss
    history: tuple[Record, ...] = field(repr=False)  # one record an evaluation
    network: str  # "vgg16" or "vgg19"
    note: str  # which network, and why
    device: str
    engine: str  # which one, and the format of its gradients: "plain", "winograd, bfloat16", …
    sizes: tuple[int, ...]
    seconds: float
    interrupted: bool  # by the keyboard


def transfer(
    content_image: Tensor,
    style_image: Tensor,
    *,
    report_every: int | None = None,
    progress: bool | None = None,
    **settings,
) -> Result:
    """Return the content image painted in the style of the style image.

    Args:
        content_image, style_image: (1, 3, H, W) in [0, 1], from `load_image`.
        report_every: print the losses every so many evaluations; the classic recipe has 400.
        progress: show a progress bar; None shows it in a terminal or a notebook; False also leaves out the line that
            says on what, with which network and at which sizes it paints.
        **settings: as `StyleTransfer` has them: `sizes`, `steps`, `start`, `alpha`, `beta`, …

    A keyboard interrupt ends the run early, with the best image so far. Raises what `StyleTransfer` raises.

    Source: Gatys, Ecker and Bethge 2016; coarse to fine as in Gatys et al. 2017, section 6.
    """
    began = time.perf_counter()
    run = StyleTransfer(content_image, style_image, **settings)
    if progress is not False:
        print(_plan(run), flush=True)
    interrupted = False
    with progress_bar(progress, total=sum(run.steps), unit="step") as bar:
        try:
            for record in run:
                bar.update()
                bar.set_postfix_str(f"{record.size} px, loss {record.total:.3g}", refresh=False)
                if report_every and (record.iteration + 1) % report_every == 0:
                    bar.write(_report(record))
        except KeyboardInterrupt:
            interrupted = True
    return Result(
        image=run.best,
        loss=run.best_loss,
        history=run.history,
        network=run.network.name,
        note=run.network.note,
        device=str(run.device),
        engine=run.engine.name,
        sizes=run.sizes,
        seconds=time.perf_counter() - began,
        interrupted=interrupted,
    )


def _plan(run: StyleTransfer) -> str:
    steps = ", ".join(f"{steps} at {size} px" for size, steps in zip(run.sizes, run.steps, strict=True))
    where = _device_name(run.device)
    return f"Painting on {where}, engine: {run.engine.name}, with {run.network.note}. Steps: {steps}."


def _report(record: Record) -> str:
    parts = f"total {record.total:.4g}, content {record.content:.4g}, style {record.style:.4g}"
    return f"step {record.iteration + 1} ({record.size} px): {parts}"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"the CPU ({torch.get_num_threads()} threads)" if device.type == "cpu" else "Apple's GPU (MPS)"
