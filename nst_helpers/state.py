"""State of a run, the record of each step, and the result."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from .objective import Evaluation
from .objective.problem import Compositing
from .optimizers import LBFGS, Adam
from .settings import Settings

JUMP = 2.0  # a loss of more than this many times the best one is treated as divergence


class Numbers:
    """The numbers of a step. They stay on the device until they are read, which waits for the step to be computed."""

    def __init__(self, losses: Tensor, kept: Tensor):
        self._losses, self._kept = losses, kept

    @cached_property
    def values(self) -> tuple[float, ...]:
        """Total, content and style loss, total variation, and whether the run was rolled back."""
        return *self._losses.tolist(), not self._kept

    @property
    def rolled_back(self) -> bool:
        """See `Record`."""
        return bool(self.values[-1])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Numbers) and self.values == other.values

    def __hash__(self) -> int:
        return hash(self.values)


@dataclass(frozen=True)
class Record:
    """Record of one step: the settings at its start, and the losses of the image before its update.

    `total` = α·`content` + β·`style` + tv_weight·`total_variation`. `rolled_back`: the loss was not finite or above
    twice the best loss, so that the step started from the best image instead, whose losses these are.
    """

    step: int  # index in the run, from 1
    size: int  # longest side in pixels
    size_step: int  # index at this size, from 1
    settings: Settings
    _numbers: Numbers = field(repr=False)
    _source: tuple[Tensor, Compositing] | None = field(repr=False, compare=False)

    total = property(lambda record: record._numbers.values[0])
    content = property(lambda record: record._numbers.values[1])
    style = property(lambda record: record._numbers.values[2])
    total_variation = property(lambda record: record._numbers.values[3])
    rolled_back = property(lambda record: record._numbers.rolled_back)

    @property
    def image(self) -> Tensor | None:
        """A copy of the image, (1, 3, H, W) on the CPU; None in `StyleTransfer.history`, which stores numbers only."""
        if self._source is None:
            return None
        image, compositing = self._source
        return compositing.display(image).to("cpu", copy=True)

    @property
    def nbytes(self) -> int:
        """Size of the image in memory."""
        return 0 if self._source is None else self._source[0].nbytes

    def __str__(self) -> str:
        parts = f"total {self.total:.4g}, content {self.content:.4g}, style {self.style:.4g}"
        return f"step {self.step} ({self.size} px): {parts}"


@dataclass(eq=False)
class State:
    """Everything that changes from step to step. With `Settings` and the pictures, it determines the run.

    Tensors are changed in place, so that a step can be replayed as a CUDA graph.
    """

    image: Tensor  # input image: the next to be evaluated
    optimizer: LBFGS | Adam
    level: int = 0  # index into sizes
    step: int = 0  # number of steps made
    size_step: int = 0  # number of steps made at this size
    settings: Settings | None = None  # of the last step
    best: Evaluation = field(init=False)  # with these settings; its losses are infinite before the first step
    damping: Tensor = field(init=False)  # factor of the step: halved by each divergence, doubled by each improvement
    learning_rate: Tensor = field(init=False)
    factors: Tensor = field(init=False)  # of damping
    average: Tensor = field(init=False)  # of the images of this size: Σ share · image
    average_share: float = 0.0  # Σ share
    history: list[Record] = field(default_factory=list)

    def __post_init__(self):
        self.image = self.image.detach().clone(memory_format=torch.contiguous_format)  # steps will change it
        self.damping, self.learning_rate = self.image.new_ones(()), self.image.new_ones(())
        self.factors = self.image.new_tensor([0.5, 1.0, 2.0])
        self.average = torch.zeros_like(self.image)
        self.best = Evaluation(self.image.clone(), self.image.new_full((4,), torch.inf), torch.zeros_like(self.image))

    def keep_best(self, now: Evaluation, switched: bool) -> tuple[Evaluation, Tensor]:
        """Return the evaluation to continue from: now, or the best one if the loss has diverged; and whether it is now.

        switched: the precision has just changed, so that losses must not be compared.
        """
        loss, lowest = now.comparable, self.best.values[0]
        keep = loss <= JUMP * lowest  # False for NaN
        improved = keep if switched else loss < lowest
        chosen = Evaluation(*(torch.where(keep, new, old) for new, old in zip(now, self.best, strict=True)))
        half, same, twice = self.factors
        self.damping.mul_(torch.where(keep, torch.where(improved, twice, same), half)).clamp_max_(1)
        for new, old in zip(now, self.best, strict=True):
            torch.where(improved, new, old, out=old)
        return chosen, keep

    def forget_best(self) -> None:
        """Forget the best losses: the loss function has changed."""
        self.best.values.fill_(torch.inf)
        self.damping.fill_(1)

    @property
    def averaged(self) -> Tensor:
        """The exponential moving average of this size's images; the latest image if it is empty."""
        return self.average / self.average_share if self.average_share else self.image


@dataclass(frozen=True)
class Result:
    """Result of `transfer`."""

    image: Tensor = field(repr=False)  # (1, 3, H, W) in [0, 1] on the CPU: the best, or with `ema_decay` the average
    loss: float  # total loss of the image
    history: tuple[Record, ...] = field(repr=False)  # one record for each step
    network: str  # "vgg16" or "vgg19"
    note: str  # which network was used, and why
    device: str
    engine: str  # name and precision of the gradients: "plain", "winograd, bfloat16", …
    sizes: tuple[int, ...]
    seconds: float
    interrupted: bool  # whether a keyboard interrupt ended the run early
    recipe: dict = field(repr=False)  # settings, sources, versions and losses, see `StyleTransfer.recipe`
