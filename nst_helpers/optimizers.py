"""Optimizers: L-BFGS and Adam, with their state as plain data."""

from dataclasses import dataclass, field, replace

from torch import Tensor
from torch.nn.functional import interpolate


@dataclass
class LBFGS:
    """Limited-memory BFGS (Nocedal and Wright 2006, algorithm 7.4): one evaluation per step, no line search.

    The differences s and y are taken between images after clamping to [0, 1]: they belong to the steps actually made.
    The first step is along the negative gradient, with a root mean square of `first_step` (in pixel values).
    """

    learning_rate = 1.0  # by default
    history: int = 20
    first_step: float = 0.02
    pairs: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list, repr=False)  # s, y, 1 / s·y; oldest first
    last: tuple[Tensor, Tensor] | None = field(default=None, repr=False)  # image and gradient of the step before

    def forget_gradient(self) -> None:
        """Forget the last gradient: the precision changes, so that a difference to the next would have no meaning."""
        self.last = None

    def resized(self, height: int, width: int) -> "LBFGS":
        """Return a new, empty optimizer for images of another size."""
        return LBFGS(self.history, self.first_step)

    def direction(self, image: Tensor, gradient: Tensor) -> Tensor:
        """Return the step from `image`, where the gradient is `gradient`, before it is scaled by the learning rate."""
        x, g = image.flatten(), gradient.flatten()
        if self.last is not None:
            s, y = x - self.last[0], g - self.last[1]
            curvature = s.dot(y)
            if curvature > 1e-10 * s.norm() * y.norm():
                self.pairs = [*self.pairs, (s, y, 1 / curvature)][-self.history :]
        self.last = (x, g)
        if not self.pairs:
            return -gradient * (self.first_step / g.square().mean().sqrt().clamp_min(1e-30))
        q, shares = g.clone(), []
        for s, y, rho in reversed(self.pairs):
            shares.append(rho * s.dot(q))
            q.addcmul_(shares[-1], y, value=-1)
        s, y, _ = self.pairs[-1]
        q *= s.dot(y) / y.dot(y)
        for (s, y, rho), share in zip(self.pairs, reversed(shares), strict=True):
            q.addcmul_(share - rho * y.dot(q), s)
        return q.neg_().view_as(image)


@dataclass
class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1)."""

    learning_rate = 0.02  # by default, in pixel values
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    steps: int = 0
    mean: Tensor | float = field(default=0.0, repr=False)
    square: Tensor | float = field(default=0.0, repr=False)

    def forget_gradient(self) -> None:
        """Do nothing: Adam makes no pairs, see `LBFGS.forget_gradient`."""

    def resized(self, height: int, width: int) -> "Adam":
        """Return the optimizer for images of another size, with its moments interpolated to that size.

        A loss is a mean over pixels, so gradients are inversely proportional to their number; the moments follow that.
        """
        if isinstance(self.mean, float) or isinstance(self.square, float):
            return replace(self)
        share = self.mean.shape[2] * self.mean.shape[3] / (height * width)
        mean, square = (
            interpolate(value, (height, width), mode="bilinear", antialias=True) for value in (self.mean, self.square)
        )
        return replace(self, mean=mean * share, square=square * share**2)

    def direction(self, image: Tensor, gradient: Tensor) -> Tensor:
        """See `LBFGS.direction`."""
        self.steps += 1
        self.mean = self.beta1 * self.mean + (1 - self.beta1) * gradient
        self.square = self.beta2 * self.square + (1 - self.beta2) * gradient.square()
        mean = self.mean / (1 - self.beta1**self.steps)
        square = self.square / (1 - self.beta2**self.steps)
        return -mean / (square.sqrt() + self.epsilon)


OPTIMIZERS: dict[str, type[LBFGS] | type[Adam]] = {"lbfgs": LBFGS, "adam": Adam}
