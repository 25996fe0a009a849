"""State of a run, and the record of each step."""

from dataclasses import dataclass, field

from torch import Tensor

from .objective import Compositing, Evaluation
from .optimizers import LBFGS, Adam
from .settings import Settings


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
    total: float
    content: float
    style: float
    total_variation: float
    rolled_back: bool
    _source: tuple[Tensor, Compositing] | None = field(repr=False, compare=False)

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
    """Everything that changes from step to step. With `Settings` and the pictures, it determines the run."""

    image: Tensor  # input image: the next to be evaluated
    optimizer: LBFGS | Adam
    level: int = 0  # index into sizes
    step: int = 0  # number of steps made
    size_step: int = 0  # number of steps made at this size
    settings: Settings | None = None  # of the last step
    best: Evaluation | None = None  # with these settings
    setbacks: int = 0  # number of rollbacks minus improvements: the step is halved this many times
    average: Tensor | float = 0.0  # of the images of this size: Σ share · image
    average_share: float = 0.0  # Σ share
    history: list[Record] = field(default_factory=list)

    def add_to_average(self, decay: float) -> None:
        """Add the image to the exponential moving average of this size's images."""
        self.average = decay * self.average + (1 - decay) * self.image
        self.average_share = decay * self.average_share + (1 - decay)

    @property
    def averaged(self) -> Tensor:
        """The exponential moving average of this size's images; the latest image if it is empty."""
        return self.image if isinstance(self.average, float) else self.average / self.average_share
