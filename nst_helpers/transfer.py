"""Neural style transfer as a run of steps: `StyleTransfer` makes them one at a time, `transfer` makes them all."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from . import checks
from .by_hand import ByHand
from .colors import COLORS
from .engine import Plain, pick_engine
from .images import resize
from .objective import Evaluation, Finish, Kinds, Problem, Settings
from .optimizers import LBFGS, OPTIMIZERS, Adam
from .progress import progress_bar
from .provenance import recipe_of
from .schedules import QUALITIES, coarse_to_fine, steps_by_size
from .starts import start_image
from .style_losses import BLENDS, CONTENT_LOSSES, STYLE_LOSSES
from .styles import Region, Style, as_regions
from .total_variation import NAMES as TV_NAMES
from .vgg import VGG, load_vgg

CONTENT_LAYER = "relu4_2"
CONTENT_WEIGHTS = {CONTENT_LAYER: 1.0}
STYLE_WEIGHTS = {"relu1_1": 20.0, "relu2_1": 1.0, "relu3_1": 0.25, "relu4_1": 1.0, "relu5_1": 5.0}
ROUGH = 60  # first evaluations at a size that need not be exact: they lead just as far
JUMP = 2.0  # a loss above so many times the best one is a blow-up


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
    optimizer: str
    learning_rate: float
    _image: Tensor | None = field(repr=False, compare=False)
    _finish: Finish | None = field(repr=False, compare=False)

    @property
    def size(self) -> int:
        """The longest side in pixels."""
        return self.settings.size

    @property
    def image(self) -> Tensor | None:
        """A copy of the image, (1, 3, H, W) on the CPU; None in `StyleTransfer.history`, which keeps numbers alone."""
        return None if self._image is None else self._finish(self._image).to("cpu", copy=True)


@dataclass
class State:
    """All that changes while a run goes on."""

    image: Tensor  # the input image: the next to be evaluated
    optimizer: LBFGS | Adam
    level: int = 0  # index into sizes
    level_step: int = 0
    iteration: int = 0
    settings: Settings | None = None  # of the last step
    best: Evaluation | None = None  # under these settings
    setbacks: int = 0  # each halves the step; an improvement takes one back
    average: Tensor | float = 0.0  # of this size's images: Σ share · image, and
    average_share: float = 0.0  # Σ share
    history: list[Record] = field(default_factory=list)


class _Number:
    """An attribute that holds a finite number, at least 0."""

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, run, owner=None):
        return self if run is None else run.__dict__[self.name]

    def __set__(self, run, value):
        run.__dict__[self.name] = checks.number(self.name, value)


class _Weights:
    """An attribute that holds {layer: weight}, each a finite number, at least 0, of layers that the run began with."""

    def __init__(self, layers: str):
        self.layers = layers  # the attribute of `Problem` that names them

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, run, owner=None):
        return self if run is None else dict(run.__dict__[self.name])

    def __set__(self, run, weights):
        known = getattr(run.problem, self.layers)
        if not weights or not set(weights) <= set(known):
            raise ValueError(f"{self.name} holds some of {', '.join(known)}, not {', '.join(weights)}")
        run.__dict__[self.name] = tuple((layer, checks.number(layer, weight)) for layer, weight in weights.items())


class StyleTransfer:
    """A style transfer that is stepped through: `for record in run: …`, or `run.step()` until `run.done`.

    Args:
        content_image: (1, 3, H, W) in [0, 1], from `load_image`.
        style_image: the same, of any size; or a `Style`; or several of these, which are blended; or one or more
            `Region`. Where no region is, the photograph stays.
        network: "auto", "vgg16", "vgg19", or a `VGG` from `load_vgg`, which says how it pools and pads.
        sizes: longest sides in pixels, ascending, painted one after the other; default `coarse_to_fine` of the
            content image. At each of them the style image's longest side is the same, times its `Style`'s scale. A
            picture that is smaller is enlarged, with a warning.
        quality: "draft", "good" or "best": the steps and the start that `schedules.QUALITIES` holds for it.
        steps: evaluations of loss and gradient, in place of the quality's: a number for the last size, and 0.4 times
            as many at each size before it; or one number a size.
        start: in place of the quality's: "content"; "recolored", the content in the style's colors; "noise", uniform;
            "gray"; "style_colors", noise with the mean and covariance of the style's colors; or an image
            (1, 3, H, W), stretched to the content's shape.
        noise: how much of the start is white noise, from 0 to 1.
        optimizer: "lbfgs" or "adam".
        learning_rate: what the optimizer's step is multiplied by; default 1 for L-BFGS, 0.02 for Adam.
        averaging: above 0, `average` is the mean of this size's images, each counting so much less than the next; it
            is what `transfer` returns, and what the next size goes on from. Meant for Adam, with 0.9 to 0.99: as a rule
            a little smoother, at a higher loss.
        carry: whether Adam's memory is carried on from size to size. That of L-BFGS begins anew.
        alpha, beta, tv_weight: weights of the content, style and total variation losses.
        balance: how stylized, from 0 to 1, in place of beta, which is chosen so that at white noise, of the first size,
            the style's gradient is 10^(4·balance) times as long as the content's. Then the number means about the same
            with any style loss, layers and weights; 0.5 is close to the default β = 10.
        content_weights, style_weights: {layer: weight}; layers are named before ("conv4_2") or after ("relu4_2") their
            ReLU.
        content_loss, style_loss: names in `style_losses.CONTENT_LOSSES` and `STYLE_LOSSES`.
        blend: what is averaged over blended styles, with their weights: "statistics" (Gram matrices: one target between
            the styles), or "losses" (each style pulls). Where the loss is a square both have the same gradient, since
            Σ w (G − A)² = (G − Σ w A)² + a constant: of all style losses but "wasserstein" and "nearest".
        tv: how total variation is measured, a name in `total_variation.NAMES`: "l1" or "l2" for
            `total_variation_loss` with that power; other programs' forms; "…_of_input" of what the network is fed.
        color: what becomes of the colors. "style": they are the style's. "symmetric", "pca", "cholesky",
            "histogram": the content's, since the style image is recolored first, see `recolor`. "luminance_yiq",
            "luminance_oklab": the content's, since both are painted in gray, and its colors put back. "content_yiq",
            "content_oklab": the same, put back on a painting made in color.
        seed: of the noise. A run is repeatable bit by bit on a CPU with the same number of threads.
        device: default that of the given `VGG`, else CUDA, then MPS, then the CPU; `run.device` tells.
        engine: how losses and gradients are computed, "auto" for the fastest, "plain" for autograd in float32: see
            `pick_engine`; `run.engine.name` tells.

    `alpha`, `beta`, `tv_weight`, `content_weights`, `style_weights` (new dictionaries), `optimizer` (which brings its
    default learning rate along) and `learning_rate` may be set at any time, from any thread: the next step reads them
    once. Where that changes the loss, the best image and the optimizer's memory start anew.

    Raises:
        ValueError: images that are not as above, unknown names, sizes too small for the network, negative weights.
        FloatingPointError: from `step`, where the loss is not finite and there is no image to go back to.
        WeightsError: the network's weights cannot be had.
    """

    alpha, beta, tv_weight = _Number(), _Number(), _Number()
    content_weights, style_weights = _Weights("content_layers"), _Weights("style_layers")

    def __init__(
        self,
        content_image: Tensor,
        style_image: Tensor | Style | Region | Sequence[Tensor | Style | Region],
        *,
        network: str | VGG = "auto",
        sizes: Sequence[int] | None = None,
        quality: str = "good",
        steps: int | Sequence[int] | None = None,
        start: str | Tensor | None = None,
        noise: float = 0.0,
        optimizer: str = "lbfgs",
        learning_rate: float | None = None,
        averaging: float = 0.0,
        carry: bool = False,
        alpha: float = 1.0,
        beta: float = 10.0,
        tv_weight: float = 0.0,
        balance: float | None = None,
        content_weights: Mapping[str, float] = CONTENT_WEIGHTS,
        style_weights: Mapping[str, float] = STYLE_WEIGHTS,
        content_loss: str = "features",
        style_loss: str = "gram",
        blend: str = "statistics",
        tv: str = "l1",
        color: str = "style",
        seed: int = 0,
        device: torch.device | str | None = None,
        engine: str = "auto",
    ):
        self.optimizer = optimizer
        if learning_rate is not None:
            self.learning_rate = learning_rate
        self.content_image = checks.picture("content_image", content_image)
        self.regions = as_regions(style_image)
        kinds = Kinds(
            checks.one_of("content_loss", content_loss, CONTENT_LOSSES),
            checks.one_of("style_loss", style_loss, STYLE_LOSSES),
            checks.one_of("blend", blend, BLENDS),
            checks.one_of("tv", tv, TV_NAMES),
            checks.one_of("color", color, COLORS),
        )
        self.sizes = tuple(sizes) if sizes is not None else coarse_to_fine(*content_image.shape[2:])
        checks.one_of("quality", quality, QUALITIES)
        self.steps = steps_by_size(steps, self.sizes, QUALITIES[quality])
        self.alpha, self.beta, self.tv_weight = alpha, beta, tv_weight
        self.averaging, self.carry = checks.number("averaging", averaging, high=1), carry
        if not isinstance(network, VGG):
            network = load_vgg(network, device=device)
        self.network = network.to(device or network.device)
        self.device = self.network.device
        self.problem = Problem(
            pick_engine(self.network, engine),
            kinds,
            self.content_image,
            self.regions,
            self.network.check_layers(content_weights),
            self.network.check_layers(style_weights),
        )
        self.problem.check(self.sizes)
        self.content_weights, self.style_weights = content_weights, style_weights
        self.seed = seed
        self._objective = self.problem.at(self.sizes[0], self._is_rough(0))
        self.start, self.noise = QUALITIES[quality].start if start is None else start, noise
        self.state = State(start_image(self.start, self._objective, noise, seed), OPTIMIZERS[optimizer]())
        if balance is not None:
            self.beta = self._balanced(checks.number("balance", balance, high=1))

    # What may be read and set between steps

    @property
    def optimizer(self) -> str:
        """The optimizer's name; setting it sets `learning_rate` to its default, too."""
        return self._method[0]

    @optimizer.setter
    def optimizer(self, name: str) -> None:
        checks.one_of("optimizer", name, OPTIMIZERS)
        self._method = name, OPTIMIZERS[name].learning_rate

    @property
    def learning_rate(self) -> float:
        """What the optimizer's step is multiplied by."""
        return self._method[1]

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        self._method = self._method[0], checks.number("learning_rate", rate)

    @property
    def settings(self) -> Settings:
        """What the next step will read."""
        weights = self.__dict__["content_weights"], self.__dict__["style_weights"]
        return Settings(self.alpha, self.beta, self.tv_weight, *weights, self._size)

    @property
    def engine(self) -> Plain | ByHand:
        """Who computes losses and gradients."""
        return self.problem.engine

    @property
    def image(self) -> Tensor:
        """A copy of the latest image, (1, 3, H, W) in [0, 1], on the CPU; always finite."""
        return self._finished(self.state.image)

    @property
    def best(self) -> Tensor:
        """A copy of the image with the lowest loss under the present settings; the latest while none is evaluated."""
        best = self.state.best
        return self.image if best is None else self._finished(best.image)

    @property
    def average(self) -> Tensor:
        """A copy of the mean of this size's images, later ones counting more; the latest where `averaging` is 0."""
        return self._finished(self._averaged())

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
        settings = self.settings
        optimizer, learning_rate = self._method
        if settings != state.settings:
            larger = state.settings is not None and settings == replace(state.settings, size=self._size)
            kept = state.optimizer.resized(*state.image.shape[2:]) if self.carry and larger else None
            state.settings, state.best, state.setbacks = settings, None, 0
            state.optimizer = kept if isinstance(kept, OPTIMIZERS[optimizer]) else OPTIMIZERS[optimizer]()
        elif not isinstance(state.optimizer, OPTIMIZERS[optimizer]):
            state.optimizer = OPTIMIZERS[optimizer]()
        switched = self._is_rough(state.level_step) != self._objective.rough
        if switched:
            self._objective = self.problem.at(self._size, not self._objective.rough)
            state.optimizer.forget_gradient()

        now = self.evaluate(state.image, settings)
        failed = not now.finite or (state.best is not None and now.losses[0] > JUMP * state.best.losses[0])
        if failed:
            if state.best is None:
                raise FloatingPointError(f"the loss is not finite at the start: {now.losses[0]} with {settings}")
            now = state.best
            state.optimizer = OPTIMIZERS[optimizer]()
            state.setbacks += 1
        elif state.best is None or switched or now.losses[0] < state.best.losses[0]:
            state.best, state.setbacks = now, max(0, state.setbacks - 1)

        record = Record(
            state.iteration,
            settings,
            *now.losses,
            failed,
            state.level_step,
            optimizer,
            learning_rate,
            now.image,
            self._objective.finish,
        )
        scale = learning_rate * 0.5**state.setbacks
        image = now.image + scale * state.optimizer.direction(now.image, now.gradient)
        state.image = torch.where(image.isfinite(), image, now.image).clamp(0, 1)
        if self.averaging:
            state.average = self.averaging * state.average + (1 - self.averaging) * state.image
            state.average_share = self.averaging * state.average_share + (1 - self.averaging)
        state.history.append(replace(record, _image=None, _finish=None))
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
        objective = self._objective
        if (record.size, self._is_rough(record.level_step)) != (objective.size, objective.rough):
            objective = self.problem.at(record.size, self._is_rough(record.level_step))
        state = State(
            image=record._image,
            optimizer=OPTIMIZERS[self.optimizer](),
            level=self.sizes.index(record.size),
            level_step=record.level_step,
            iteration=record.iteration,
            history=self.state.history[: record.iteration],
        )
        self._objective, self.state = objective, state

    @property
    def _size(self) -> int:
        return self.sizes[self.state.level]

    def _next_level(self) -> None:
        state = self.state
        objective = self.problem.at(self.sizes[state.level + 1], self._is_rough(0))
        finest = state.image if state.best is None else state.best.image
        if self.averaging:
            finest = self._averaged()
        image = resize(finest, *objective.content_image.shape[2:])
        self._objective = objective
        self.state = replace(state, image=image, level=state.level + 1, level_step=0, average=0.0, average_share=0.0)

    def _averaged(self) -> Tensor:
        state = self.state
        return state.average / state.average_share if state.average_share else state.image

    def _finished(self, image: Tensor) -> Tensor:
        return self._objective.finish(image).to("cpu", copy=True)

    def _balanced(self, balance: float) -> float:
        """Return the β that gives the style so much of the gradient."""
        image = start_image("noise", self._objective, 0, self.seed)
        content, style = (
            self.evaluate(image, replace(self.settings, alpha=alpha, beta=beta, tv_weight=0.0)).gradient.norm().item()
            for alpha, beta in ((self.alpha, 0.0), (0.0, 1.0))
        )
        if not (content > 0 and style > 0):
            raise ValueError("balance needs a content and a style with a gradient each: alpha and weights above 0")
        return 10 ** (4 * balance) * content / style

    def _is_rough(self, level_step: int) -> bool:
        return self.engine.has_rough and level_step < ROUGH

    @property
    def average_loss(self) -> float:
        """The total loss of `average`, which takes an evaluation."""
        return self.evaluate(self._averaged(), self.settings).losses[0]

    def evaluate(self, image: Tensor, settings: Settings) -> Evaluation:
        """Return the losses and the gradient of an image of the present size, and change nothing."""
        return self._objective.evaluate(image, settings)


@dataclass(frozen=True)
class Result:
    """What `transfer` returns."""

    image: Tensor = field(repr=False)  # (1, 3, H, W) in [0, 1] on the CPU: the best, or with `averaging` the average
    loss: float  # its total loss
    history: tuple[Record, ...] = field(repr=False)  # one record an evaluation
    network: str  # "vgg16" or "vgg19"
    note: str  # which network, and why
    device: str
    engine: str  # which one, and the format of its gradients: "plain", "winograd, bfloat16", …
    sizes: tuple[int, ...]
    seconds: float
    interrupted: bool  # by the keyboard
    recipe: dict = field(repr=False)  # settings, sources, versions and losses, see `provenance.recipe_of`


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
        content_image, style_image: as `StyleTransfer` takes them.
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
    image, loss = run.best, run.best_loss
    if run.averaging:
        image, loss = run.average, run.average_loss
    return Result(
        image=image,
        loss=loss,
        history=run.history,
        network=run.network.name,
        note=run.network.note,
        device=str(run.device),
        engine=run.engine.name,
        sizes=run.sizes,
        seconds=time.perf_counter() - began,
        interrupted=interrupted,
        recipe=recipe_of(run),
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
