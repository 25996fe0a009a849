"""Optimizers: L-BFGS and Adam, with their state as plain data.

All numbers stay on the device, where decisions are `torch.where`: a step never waits for them. State is changed in
place, so that a step can be replayed as a CUDA graph.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

LATER: Any = None  # state that is created at the first step, when the size of the image is known


@dataclass(eq=False)
class LBFGS:
    """Limited-memory BFGS (Nocedal and Wright 2006, section 7.2): one evaluation per step, no line search.

    The differences s and y are taken between images after clamping to [0, 1]: they belong to the steps actually made.
    The first step is along the negative gradient, with a root mean square of `first_step` (in pixel values).

    S and Y are the matrices of the pairs, R is the upper triangle of Sᵀ Y, and D its diagonal. The direction is −H g,
    where the compact representation of H (Byrd, Nocedal and Schnabel 1994, equation 3.1) needs no loop over pairs:

        H g = γ g + S R⁻ᵀ ((D + γ Yᵀ Y) R⁻¹ Sᵀ g − γ Yᵀ g) − γ Y R⁻¹ Sᵀ g,    γ = s·y / y·y of the latest pair

    R⁻¹ gets a column with each pair. A pair without positive curvature gets zeros there, and has no effect.
    """

    learning_rate = 1.0  # by default
    history: int = 20
    first_step: float = 0.02
    pairs: Tensor = field(default=LATER, repr=False)  # (2, history, 3·H·W): differences s of images, y of gradients
    order: Tensor = field(default=LATER, repr=False)  # (history,): rows of `pairs`, the oldest first
    small: Tensor = field(default=LATER, repr=False)  # (3, history, history): R⁻¹, Sᵀ Y and Yᵀ Y, the oldest first
    gamma: Tensor = field(default=LATER, repr=False)  # a scalar; 0 without any pair
    zero: Tensor = field(default=LATER, repr=False)  # a scalar
    older: Tensor = field(default=LATER, repr=False)  # like `small`: False where the latest pair stands in R⁻¹
    latest: Tensor = field(default=LATER, repr=False)  # (history,): 1 for the latest pair, else 0
    last: Tensor = field(default=LATER, repr=False)  # (2, 3·H·W): image and gradient of the step before
    linked: Tensor = field(default=LATER, repr=False)  # a scalar: whether the next step makes a pair with `last`

    @property
    def number_of_pairs(self) -> int:
        """Number of pairs that have an effect."""
        return 0 if self.small is None else int(self.small[0].diagonal().count_nonzero())

    def forget_gradient(self) -> None:
        """Forget the last gradient: the precision changes, so that a difference to the next would have no meaning."""
        if self.linked is not None:
            self.linked.fill_(False)

    def reset(self) -> None:
        """Forget everything, in place."""
        if self.small is not None:
            self.small.zero_()
            self.gamma.zero_()
            self.linked.fill_(False)

    def resized(self, height: int, width: int) -> "LBFGS":
        """Return a new, empty optimizer for images of another size."""
        return LBFGS(self.history, self.first_step)

    def direction(self, image: Tensor, gradient: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return the step from `image`, where the gradient is `gradient`, before it is scaled by the learning rate.

        keep: a scalar; False forgets all pairs first.
        """
        now = torch.stack([image, gradient]).flatten(1)
        g = now[1]
        if self.pairs is None:
            self._create(g)
        pair = now - self.last
        self.last.copy_(now)
        self.pairs.index_copy_(1, self.order[:1], pair[:, None])
        order = self.order.roll(-1)
        found = torch.stack([pair[1], g]) @ self.pairs.flatten(0, 1).T
        with_y, with_g = found.view(2, 2, -1)[..., order].to(self.small.dtype)
        self._add_pair(with_y, torch.ones_like(self.gamma, dtype=torch.bool) if keep is None else keep)
        self.order.copy_(order)  # after the long product: an interrupt there leaves order and products consistent
        first = (g @ g).rsqrt() * (self.first_step * len(g) ** 0.5)
        gamma = torch.where(self.gamma > 0, self.gamma, first)
        return self._direction(g, gamma, *with_g).nan_to_num_(0, 0, 0).view_as(image)

    def _create(self, g: Tensor) -> None:
        rows, small = self.history, torch.float32 if g.device.type == "mps" else torch.float64
        self.pairs, self.last = g.new_zeros(2, rows, len(g)), g.new_zeros(2, len(g))
        self.order = torch.arange(rows, device=g.device)
        self.small = torch.zeros(3, rows, rows, dtype=small, device=g.device)
        self.gamma, self.zero = torch.zeros(2, dtype=small, device=g.device).unbind()
        self.older = torch.ones_like(self.small, dtype=torch.bool)
        self.older[0, -1] = self.older[0, :, -1] = False
        self.latest = (self.order == rows - 1).to(small)
        self.linked = torch.zeros((), dtype=torch.bool, device=g.device)

    def _add_pair(self, with_y: Tensor, keep: Tensor) -> None:
        """Add the products of the latest y with all s and all y, (2, history), to the small matrices."""
        curvature, square = with_y[:, -1]
        accepted = (curvature > 0) & keep & self.linked
        self.linked.fill_(True)
        inverse = accepted / curvature.clamp_min(torch.finfo(curvature.dtype).tiny)
        torch.where(self.older & keep, self.small.roll((-1, -1), (1, 2)), self.zero, out=self.small)
        R_inverse = self.small[0]
        torch.mul(torch.addmv(self.latest, R_inverse, with_y[0], alpha=-1), inverse, out=R_inverse[:, -1])
        self.small[1:, :, -1] = with_y
        self.small[2, -1] = with_y[1]
        torch.where(accepted, curvature / square, self.gamma * keep, out=self.gamma)

    def _direction(self, g: Tensor, gamma: Tensor, Sg: Tensor, Yg: Tensor) -> Tensor:
        """Return −H g, given Sᵀ g and Yᵀ g."""
        R_inverse, SY, YY = self.small
        u = R_inverse @ Sg
        right = torch.addcmul(gamma * torch.addmv(Yg, YY, u, alpha=-1), SY.diagonal(), u, value=-1)
        shares = torch.stack([R_inverse.T @ right, gamma * u]).to(g)
        shares = torch.empty_like(shares).index_copy_(1, self.order, shares).flatten()
        return torch.addmv(g * gamma, self.pairs.flatten(0, 1).T, shares, beta=-1)


@dataclass(eq=False)
class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1)."""

    learning_rate = 0.02  # by default, in pixel values
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    steps: Tensor = LATER  # a scalar
    mean: Tensor = field(default=LATER, repr=False)
    square: Tensor = field(default=LATER, repr=False)

    def forget_gradient(self) -> None:
        """Do nothing: Adam makes no pairs, see `LBFGS.forget_gradient`."""

    def reset(self) -> None:
        """Forget everything, in place."""
        if self.mean is not None:
            for value in (self.mean, self.square, self.steps):
                value.zero_()

    def resized(self, height: int, width: int) -> "Adam":
        """Return the optimizer for images of another size, with its moments interpolated to that size.

        A loss is a mean over pixels, so gradients are inversely proportional to their number; the moments follow that.
        """
        if self.mean is None:
            return replace(self)
        share = self.mean.shape[2] * self.mean.shape[3] / (height * width)
        mean, square = (
            interpolate(value, (height, width), mode="bilinear", antialias=True) for value in (self.mean, self.square)
        )
        return replace(self, steps=self.steps.clone(), mean=mean * share, square=square * share**2)

    def direction(self, image: Tensor, gradient: Tensor, keep: Tensor | None = None) -> Tensor:
        """See `LBFGS.direction`."""
        if self.mean is None:
            self.mean, self.square = torch.zeros_like(gradient), torch.zeros_like(gradient)
            self.steps = gradient.new_zeros(())
        if keep is not None:
            for value in (self.mean, self.square, self.steps):
                value.mul_(keep)
        self.steps += 1
        self.mean.mul_(self.beta1).add_(gradient, alpha=1 - self.beta1)
        self.square.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        mean = self.mean / (1 - self.beta1**self.steps)
        square = self.square / (1 - self.beta2**self.steps)
        return -mean / (square.sqrt() + self.epsilon)


OPTIMIZERS: dict[str, type[LBFGS] | type[Adam]] = {"lbfgs": LBFGS, "adam": Adam}
