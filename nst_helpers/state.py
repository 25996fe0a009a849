"""What a run remembers: its state from step to step, and the record of each step."""

from dataclasses import dataclass, field

from torch import Tensor

from .objective import Compositing, Evaluation
from .optimizers import LBFGS, Adam
from .settings import Settings


@dataclass(frozen=True)
class Record:
    """One step: the settings read at its start, and the losses of the image that it started from.

    `total` = α·`content` + β·`style` + tv_weight·`total_variation`. `rolled_back` says that the loss was not finite or
    had more than doubled, so that the step went back to the best image, whose losses stand here.
    """

    step: int  # which one of the run, counted from 1
    size: int  # the longest side in pixels
    size_step: int  # which one at this size, counted from 1
    settings: Settings
    total: float
    content: float
    style: float
    total_variation: float
    rolled_back: bool
    _image: Tensor | None = field(repr=False, compare=False)
    _compositing: Compositing | None = field(repr=False, compare=False)

    @property
    def image(self) -> Tensor | None:
        """A copy of the image, (1, 3, H, W) on the CPU; None in `StyleTransfer.history`, which keeps numbers alone."""
        return None if self._image is None else self._compositing.display(self._image).to("cpu", copy=True)

    def __str__(self) -> str:
        parts = f"total {self.total:.4g}, content {self.content:.4g}, style {self.style:.4g}"
        return f"step {self.step} ({self.size} px): {parts}"


@dataclass
class State:
    """All that changes from step to step; with `Settings` and the pictures, all that a run is."""

    image: Tensor  # the input image: the next to be evaluated
    optimizer: LBFGS | Adam
    level: int = 0  # index into sizes
    step: int = 0  # steps made,
    size_step: int = 0  # and steps made at this size
    settings: Settings | None = None  # of the last step
    best: Evaluation | None = None  # under these settings
    setbacks: int = 0  # each halves the step; an improvement takes one back
    average: Tensor | float = 0.0  # of this size's images: Σ share · image, and
    average_share: float = 0.0  # Σ share
    history: list[Record] = field(default_factory=list)

    def add_to_average(self, decay: float) -> None:
        """Take the image into the exponential moving average of this size's images."""
        self.average = decay * self.average + (1 - decay) * self.image
        self.average_share = decay * self.average_share + (1 - decay)

    @property
    def averaged(self) -> Tensor:
        """The exponential moving average of this size's images; the latest where none was taken into it."""
        return self.average / self.average_share if self.average_share else self.image
