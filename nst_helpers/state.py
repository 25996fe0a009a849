"""State of a run, and the record of each step."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from .objective import Compositing, Evaluation
from .optimizers import LBFGS, Adam
from .settings import Settings

JUMP = 2.0  # a loss of more than this many times the best one is treated as divergence


class Numbers:
    """The numbers of a step. They stay on the device until they are read, which waits for the step to be computed."""

    def __init__(self, tensor: Tensor):
        self._tensor = tensor

    @cached_property
    def values(self) -> tuple[float, ...]:
        """Total, content and style loss, total variation, and 1 if the run was rolled back."""
        return tuple(self._tensor.tolist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Numbers) and self.values == other.values


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
    rolled_back = property(lambda record: bool(record._numbers.values[4]))

    @property
    def image(self) -> Tensor | None:
        """A copy of the image, (1, 3, H, W) on the CPU; None in `StyleTransfer.history`, which stores numbers only."""
        if self._source is None:
            return None
        image, compositing = self._source
        return compositing.display(image).to("cpu", copy=True)

    def __str__(self) -> str:
        parts = f"total {self.total:.4g}, content {self.content:.4g}, style {self.style:.4g}"
        return f"step {self.step} ({self.size} px): {parts}"


@dataclass
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
    best: Evaluation | None = None  # with these settings
    setbacks: Tensor = field(init=False)  # number of rollbacks minus improvements: the step is halved this many times
    learning_rate: Tensor = field(init=False)
    average: Tensor = field(init=False)  # of the images of this size: Σ share · image
    average_share: float = 0.0  # Σ share
    history: list[Record] = field(default_factory=list)

    def __post_init__(self):
        self.setbacks, self.learning_rate = self.image.new_zeros(1), self.image.new_zeros(1)
        self.average = torch.zeros_like(self.image)

    def keep_best(self, now: Evaluation, switched: bool) -> tuple[Evaluation, Tensor]:
        """Return the evaluation to continue from, and whether the loss has diverged, (1,): then it is the best one.

        switched: the precision has just changed, so that losses must not be compared.
        """
        if self.best is None:
            self.best = Evaluation(*(value.clone() for value in now))
            return Evaluation(*(value.clone() for value in now)), torch.zeros_like(self.setbacks, dtype=torch.bool)
        best, loss = self.best, now.values[:1]
        diverged = ~(now.finite & (loss <= JUMP * best.values[0]))
        improved = ~diverged if switched else ~diverged & (loss < best.values[0])
        chosen = Evaluation(*(torch.where(diverged, old, new) for old, new in zip(best, now, strict=True)))
        for old, new in zip(best, now, strict=True):
            torch.where(improved, new, old, out=old)
        self.setbacks.add_(diverged).sub_(improved.to(self.setbacks)).clamp_min_(0)
        return chosen, diverged

    @property
    def averaged(self) -> Tensor:
        """The exponential moving average of this size's images; the latest image if it is empty."""
        return self.average / self.average_share if self.average_share else self.image
