"""Neural style transfer: `StyleTransfer` runs it step by step, `transfer` in one call."""

import inspect
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from . import validate
from .engine import pick_engine
from .engine.graphs import Graph
from .engine.memory import smaller_size
from .files.progress import device_name, progress_bar, say
from .files.surroundings import isolated
from .images import resize, sides
from .objective import Evaluation, Objective
from .objective.problem import Problem
from .optimizers import OPTIMIZERS
from .provenance import check_sources, recipe_of, settings_of_recipe, sources_of
from .schedule import start_image
from .settings import IMAGE, NETWORK_SETTINGS, SETTINGS, SETTINGS_TEXT, STEERABLE, Settings
from .state import Numbers, Record, Result, State
from .styles import Region, Style, as_regions
from .vgg import load_vgg


def _setting(name: str) -> property:
    """Return a property for one of `settings.STEERABLE`: reads the run's settings; setting it calls `steer`."""

    def read(run: "StyleTransfer"):
        value = getattr(run.settings, name)
        return dict(value) if isinstance(value, tuple) else value

    return property(read, lambda run, value: run.steer(**{name: value}))


@isolated
@validate.takes(SETTINGS, SETTINGS_TEXT)
class StyleTransfer:
    """A style transfer, one step at a time: `for record in run: …`, or `run.step()` until `run.done`.

    Args:
        content_image: (1, 3, H, W) in [0, 1], from `load_image`.
        style_image: the same, of any size; or a `Style`; or a sequence of these, which are blended; or one or more
            `Region`. Outside all regions the photograph stays as it is.
        quality: "draft", "good" or "best": the steps in `schedule.QUALITIES`.
        balance: how stylized, from 0 to 1, instead of beta. It sets β so that at white noise of the first size the
            norm of the style gradient is 10^(4·balance) times that of the content gradient, with any style loss, layers
            and weights. The default β = 25 is a balance of about 0.25.
        recipe: from `recipe_from_png`. Its settings apply where no others are given. A warning names the pictures that
            differ from the recipe's.
        device: default: the device of the given `VGG`, else CUDA, then MPS, then the CPU. `run.device` names it.
        fit: where a size does not fit into a GPU's memory, paint at the largest one that does, with a warning.

        {settings}

    `alpha`, `beta`, `tv_weight`, `content_weights`, `style_weights` (assign new dictionaries), `optimizer` (which also
    sets its default learning rate), `learning_rate` and `balance` may be set at any time and from any thread. Each step
    reads them once, at its start. A change of the loss function resets the best image and the optimizer's state.

    Raises:
        ValueError: images of another form, unknown names, sizes too small for the network, negative weights.
        TypeError: unknown settings.
        FloatingPointError: from `step`, if the loss or the gradient of the first image is not finite.
        WeightsError: the network's weights are not available.
        torch.OutOfMemoryError: also from `step`; the message names the largest size that fits.
    """

    alpha, beta, tv_weight, content_weights, style_weights, optimizer, learning_rate = map(_setting, STEERABLE)

    def __init__(
        self,
        content_image: Tensor,
        style_image: Tensor | Style | Region | Sequence[Tensor | Style | Region],
        *,
        quality: str = "good",
        balance: float | None = None,
        recipe: Mapping | None = None,
        device: torch.device | str | None = None,
        fit: bool | None = False,
        **settings,
    ):
        self.content_image, self.regions = validate.picture("content_image", content_image), as_regions(style_image)
        if balance is not None and "beta" in settings:
            raise ValueError("expected beta or balance, got both: balance chooses beta")
        adapts = isinstance(settings.get("sizes"), validate.AdaptableSizes | None)
        settings = settings_of_recipe(recipe) | settings
        validate.check_names(settings, inspect.signature(transfer).parameters)
        # A VGG, an Engine or an image, passed instead of a name
        objects = {
            name: settings.pop(name)
            for name in ("network", "engine", "start")
            if not isinstance(settings.get(name), str | None)
        }
        given = Settings(**settings)
        self.start_image = validate.picture("start", objects["start"]) if "start" in objects else None
        if self.start_image is not None:
            given = replace(given, start=IMAGE)
        elif given.start == IMAGE:
            raise ValueError("start: expected the image, (1, 3, H, W), that the recipe's run started from; pass it too")
        network = objects.get("network", given.network)
        self.network = load_vgg(network, given.pooling, device, padding=given.padding)
        for name in NETWORK_SETTINGS:
            own = getattr(self.network, name)
            if (other := settings.get(name, own)) != own:
                raise ValueError(f"{name}: expected {own!r}, which the network was created with, got {other!r}")
        self.engine = objects.get("engine") or pick_engine(self.network, given.engine, given.precision)
        if getattr(self.engine, "network", None) is not self.network:
            raise ValueError("engine: expected a name, or an Engine of this run's network")
        self.problem = Problem.of(self.content_image, self.regions, given, self.network)
        styles = [style for region in self.regions for style in region.styles]
        least = max(style.smallest_size(self.network.min_side) for style in styles) if adapts else 0
        self._settings = given.chosen(self.network, self.engine, *sides(content_image), quality, least)
        self._steering, self._unit = threading.Lock(), math.nan
        self._fit = fit
        self.problem.check(self._settings.sizes, self.network, given.style_loss, least)
        if recipe is not None:
            check_sources(recipe, self.sources)
        self._graph = Graph(self.device)
        try:
            self._objective = self._objective_at(0, 0)
        except torch.OutOfMemoryError as error:
            self._objective = self._smaller_objective(error, 0)
        image = self._start_image(self._settings.start, given.noise, self._objective)
        self.state = State(image, OPTIMIZERS[given.optimizer]())
        if balance is not None:
            self.balance = balance

    # Attributes that may be read and set between steps

    @property
    def settings(self) -> Settings:
        """The settings that the next step will read. Assign new ones to change several at once."""
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self.steer(**{name: value for name, value in vars(settings).items() if value != getattr(self._settings, name)})

    def steer(self, **changes) -> None:
        """Change some of `settings.STEERABLE`, from any thread. If one raises ValueError, none is changed."""
        with self._steering:
            settings = self._settings.changed(**changes)
            self.problem.check_layers(settings)
            self._settings = settings

    @property
    def balance_unit(self) -> float:
        """β/α at balance 0: the ratio of the norms of content and style gradient at white noise of the first size.

        The first access takes two evaluations.
        """
        if math.isnan(self._unit):
            objective = self._objective if self.state.level == 0 else self._objective_at(0, 0)
            self._unit = objective.balance_unit(self._start_image("noise", 0.0, objective), self.settings)
            self.engine.low_precision = self._is_low(self.state.size_step)
        return self._unit

    @property
    def balance(self) -> float:
        """How stylized, on the scale of the argument `balance`; setting it sets β. May lie outside [0, 1]."""
        if not (self.alpha > 0 and self.beta > 0):
            return math.inf if self.beta > 0 else -math.inf
        return math.log10(self.beta / (self.alpha * self.balance_unit)) / 4

    @balance.setter
    def balance(self, balance: float) -> None:
        balance = validate.number("balance", balance, high=1)
        if not self.alpha > 0:
            raise ValueError("balance: expected an alpha above 0; set alpha first")
        self.beta = 10 ** (4 * balance) * self.alpha * self.balance_unit

    @property
    def device(self) -> torch.device:
        """The device of the network, on which the run computes."""
        return self.network.device

    @property
    def image(self) -> Tensor:
        """A copy of the latest image, (1, 3, H, W) in [0, 1], on the CPU; always finite."""
        return self._displayed(self.state.image)

    @property
    def best(self) -> Tensor:
        """A copy of the image with the lowest loss under the current settings; before the first step, the latest."""
        return self._displayed(self.state.best.image)

    @property
    def average(self) -> Tensor:
        """A copy of the moving average of this size's images; the latest image where `ema_decay` is 0."""
        return self._displayed(self.state.averaged)

    @property
    def best_loss(self) -> float:
        """The total loss of `best`; infinite before the first step."""
        return self.state.best.losses[0]

    @property
    def history(self) -> tuple[Record, ...]:
        """The records of all steps, without their images."""
        return tuple(self.state.history)

    @property
    def sources(self) -> dict:
        """The pictures as sizes and hashes, see `provenance.sources_of`."""
        return sources_of(self.content_image, self.regions, self.start_image)

    @property
    def recipe(self) -> dict:
        """The recipe of the run, as data that JSON can represent: for `save_image`, and for the argument `recipe`.

        `settings` are the current arguments of `transfer`; `steered` is true if some were different at earlier steps.
        `sources` identifies pictures by the SHA-256 of their pixels in 8 bits, in whatever file format they are stored.
        """
        return recipe_of(self.settings, self.history, self.sources, self.engine.name, str(self.device), self.best_loss)

    def evaluate(self, image: Tensor, settings: Settings) -> Evaluation:
        """Return the losses and the gradient of an image of the current size; the state of the run stays the same."""
        return self._objective.evaluate(image, settings)

    def score(self, image: Tensor) -> float:
        """Return the total loss of an image, (1, 3, H, W) in [0, 1] of the current size, under the current settings."""
        image = validate.picture("image", image).to(self.state.image)
        if image.shape != self.state.image.shape:
            raise ValueError(f"expected an image of {tuple(self.state.image.shape)}, got {tuple(image.shape)}")
        return self.evaluate(image, self.settings).losses[0]

    def __str__(self) -> str:
        steps = zip(self.settings.steps, self.settings.sizes, strict=True)
        return (
            f"Painting on {device_name(self.device)}, engine: {self.engine.name}, with {self.network.note}. "
            f"Steps: {', '.join(f'{steps} at {size} px' for steps, size in steps)}."
        )

    # Stepping

    @property
    def done(self) -> bool:
        """Whether all steps are made."""
        steps = self.settings.steps
        return not any(steps[self.state.level + 1 :]) and self.state.size_step >= steps[self.state.level]

    def __iter__(self) -> Iterator[Record]:
        while not self.done:
            yield self.step()

    def extend(self, steps: int) -> None:
        """Add steps at the last size."""
        with self._steering:
            *before, last = self._settings.steps
            self._settings = replace(self._settings, steps=(*before, last + steps))

    def step(self) -> Record:
        """Evaluate the image once, update it once, and return the record; raises RuntimeError if the run is done."""
        try:
            settings, fresh, switched = self._begin_step()
            state, terms = self.state, self._objective.prepare(settings)
            key = state, state.optimizer, terms, settings.tv_weight > 0, switched
            image, losses, kept = self._graph.run(key, lambda: self._update(settings, switched))
        except torch.OutOfMemoryError as error:
            level = self.state.level + (self.state.size_step >= self.settings.steps[self.state.level])
            self._objective = self._smaller_objective(error, level)
            self.state = self._resized_state(level)
            return self.step()
        numbers = Numbers(losses, kept)
        if fresh and numbers.rolled_back:
            state.settings = None
            raise FloatingPointError(f"loss or gradient is not finite at the start, with {settings}")
        return self._end_step(settings, image, numbers)

    def _begin_step(self) -> tuple[Settings, bool, bool]:
        """Return the settings of this step, whether it is the first with its loss, and with the engine's precision."""
        if self.done:
            raise RuntimeError("the run is done; extend(steps) adds steps")
        while self.state.size_step >= self.settings.steps[self.state.level]:
            self._next_size()
        state, settings, before = self.state, self.settings, self.state.settings
        changed = before is None or before.loss_weights != settings.loss_weights
        if not isinstance(state.optimizer, OPTIMIZERS[settings.optimizer]):
            state.optimizer = OPTIMIZERS[settings.optimizer]()
        elif changed:
            state.optimizer.reset()
        if fresh := changed or state.size_step == 0:
            state.forget_best()
        if fresh or before is None or before.learning_rate != settings.learning_rate:
            state.learning_rate.fill_(settings.learning_rate)
        if switched := self._is_low(state.size_step) != self.engine.low_precision:
            self._objective = self._objective_at(state.level, state.size_step)
            state.optimizer.forget_gradient()
        return settings, fresh, switched

    def _update(self, settings: Settings, switched: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Update the image in place. Everything runs on the device, without waiting for it.

        Returns the image that the step started from, its losses, and False if the loss of the latest image has
        diverged: then the step started from the best image instead.
        """
        state = self.state
        now, kept = state.keep_best(self.evaluate(state.image, settings), switched)
        direction = state.optimizer.direction(now.image, now.gradient, kept)
        image = torch.addcmul(now.image, state.learning_rate * state.damping, direction)
        torch.clamp(image, 0, 1, out=state.image)
        if settings.ema_decay:
            state.average.lerp_(state.image, 1 - settings.ema_decay)
        return now.image, now.values, kept

    def _end_step(self, settings: Settings, image: Tensor, numbers: Numbers) -> Record:
        state = self.state
        state.settings = settings  # not before: an interrupted step with a new loss is new again
        if settings.ema_decay:
            state.average_share += (1 - settings.ema_decay) * (1 - state.average_share)
        state.step += 1
        state.size_step += 1
        place = state.step, settings.sizes[state.level], state.size_step
        record = Record(*place, settings, numbers, (image, self._objective.compositing))
        state.history.append(replace(record, _source=None))
        return record

    def _next_size(self) -> None:
        self._objective = self._objective_at(self.state.level + 1, 0)
        self.state = self._resized_state(self.state.level + 1)

    def _resized_state(self, level: int) -> State:
        """Return the state at the beginning of another size."""
        state, settings, (height, width) = self.state, self.settings, sides(self._objective.content_image)
        image = resize(state.averaged if settings.ema_decay else state.best.image, height, width)
        old, kept = state.optimizer, settings.keep_optimizer_state
        optimizer = old.resized(height, width) if kept else type(old)()
        return replace(state, image=image, optimizer=optimizer, level=level, size_step=0, average_share=0.0)

    def _smaller_objective(self, error: torch.OutOfMemoryError, level: int) -> Objective:
        """Return the objective for the largest size that fits into the GPU's memory, from now on the last one."""
        if self._fit is None:  # a trial
            raise error
        tried, least = self.settings.sizes[level], max(self.settings.sizes[:level], default=self.network.min_side)
        size = smaller_size(error, self._try_at, tried, least, self.device, self._fit)
        with self._steering:
            sizes, steps = (*self._settings.sizes[:level], size), self._settings.steps[: level + 1]
            self._settings = replace(self._settings, sizes=sizes, steps=steps)
        return self._objective_at(level, 0)

    def _try_at(self, size: int) -> None:
        low, own = self.engine.low_precision, {"network": self.network, "engine": self.engine, "sizes": (size,)}
        own |= {"steps": 2, "start": "content", "fit": None}
        list(StyleTransfer(self.content_image, self.regions, **self.settings.arguments() | own))
        self.engine.low_precision = low

    def _objective_at(self, level: int, size_step: int) -> Objective:
        self.engine.low_precision = self._is_low(size_step)
        self._graph.clear()
        return Objective(self.problem, self.settings, self.engine, self.settings.sizes[level])

    def _is_low(self, size_step: int) -> bool:
        return size_step < self.engine.low_precision_steps

    def _start_image(self, start: str, noise: float, objective: Objective) -> Tensor:
        styles = [[(style.weight, style.picture) for style in region.styles] for region in self.problem.regions]
        begin = self.start_image if start == IMAGE and self.start_image is not None else start
        return start_image(begin, objective.content_image, styles, objective.masks, noise, self.settings.seed)

    def _displayed(self, image: Tensor) -> Tensor:
        return self._objective.compositing.display(image).to("cpu", copy=True)


@isolated
@validate.takes(inspect.signature(StyleTransfer).parameters, SETTINGS_TEXT)
def transfer(
    content_image: Tensor,
    style_image: Tensor | Style | Region | Sequence[Tensor | Style | Region],
    *,
    report_every: int | None = None,
    progress: bool | None = None,
    **settings,
) -> Result:
    """Paint the content image in the style of the style image, and return a `Result`; its `image` is the painting.

    Args:
        content_image: (1, 3, H, W) in [0, 1], from `load_image`.
        style_image: the same, of any size; or a `Style`; or a sequence of these, which are blended; or one or more
            `Region`. Outside all regions the photograph stays as it is.
        report_every: print the losses after every `report_every` steps.
        progress: whether to show a progress bar; None shows it in a terminal or a notebook. False also suppresses the
            line about device, network and sizes.
        quality, balance, recipe, device, fit: see `StyleTransfer`.

        {settings}

    A keyboard interrupt ends the run early and returns the best image so far. Raises the errors of `StyleTransfer`.

    Source: Gatys, Ecker and Bethge 2016; coarse to fine as in Gatys et al. 2017, section 6.
    """
    began = time.perf_counter()
    run = StyleTransfer(content_image, style_image, **settings)
    if progress is not False:
        say(str(run))
    interrupted = False
    with progress_bar(progress, total=sum(run.settings.steps), unit="step") as bar:
        try:
            for record in run:
                if bar.update():  # some times a second: reading the loss waits for the device
                    bar.set_postfix_str(f"{record.size} px, loss {record.total:.3g}", refresh=False)
                if report_every and record.step % report_every == 0:
                    say(str(record))
        except KeyboardInterrupt:
            interrupted = True
    image, loss = run.best, run.best_loss
    if run.settings.ema_decay:
        image, loss = run.average, run.evaluate(run.state.averaged, run.settings).losses[0]
    return Result(
        image=image,
        loss=loss,
        history=run.history,
        network=run.network.name,
        note=run.network.note,
        device=str(run.device),
        engine=run.engine.name,
        sizes=run.settings.sizes,
        seconds=time.perf_counter() - began,
        interrupted=interrupted,
        recipe=run.recipe,
    )
