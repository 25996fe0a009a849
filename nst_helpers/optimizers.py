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


@dataclass
class LBFGS:
    """Limited-memory BFGS (Nocedal and Wright 2006, section 7.2): one evaluation per step, no line search.

    The differences s and y are taken between images after clamping to [0, 1]: they belong to the steps actually made.
    The first step is along the negative gradient, with a root mean square of `first_step` (in pixel values).

    With S and Y the matrices of the pairs, R the upper triangle of Sᵀ Y and D its diagonal, the direction −H g is taken
    from the compact representation of H (Byrd, Nocedal and Schnabel 1994, equation 3.1), without a loop over pairs:

        H g = γ g + S R⁻ᵀ ((D + γ Yᵀ Y) R⁻¹ Sᵀ g − γ Yᵀ g) − γ Y R⁻¹ Sᵀ g,    γ = s·y / y·y of the latest pair

    The pairs are stored in a ring of `history` + 1 rows; the next pair is written into the row at `head`.
    """

    learning_rate = 1.0  # by default
    history: int = 20
    first_step: float = 0.02
    pairs: Tensor = field(default=LATER, repr=False)  # (2, rows, 3·H·W): differences s of images, y of gradients
    products: Tensor = field(default=LATER, repr=False)  # (2, rows, rows): s_i·y_j and y_i·y_j
    valid: Tensor = field(default=LATER, repr=False)  # (rows,): whether a row contains a pair
    head: Tensor = field(default=LATER, repr=False)  # (1,)
    last: Tensor = field(default=LATER, repr=False)  # (2, 3·H·W): image and gradient of the step before
    has_last: Tensor = field(default=LATER, repr=False)  # (1,)

    @property
    def number_of_pairs(self) -> int:
        """Number of pairs stored."""
        return 0 if self.valid is None else int(self.valid.sum())

    def forget_gradient(self) -> None:
        """Forget the last gradient: the precision changes, so that a difference to the next would have no meaning."""
        if self.has_last is not None:
            self.has_last.fill_(False)

    def resized(self, height: int, width: int) -> "LBFGS":
        """Return a new, empty optimizer for images of another size."""
        return LBFGS(self.history, self.first_step)

    def direction(self, image: Tensor, gradient: Tensor, restart: Tensor | None = None) -> Tensor:
        """Return the step from `image`, where the gradient is `gradient`, before it is scaled by the learning rate.

        restart: (1,), whether to forget all pairs first.
        """
        x, g = image.flatten(), gradient.flatten()
        if self.pairs is None:
            self._create(x)
        if restart is not None:
            self.valid &= ~restart
            self.has_last &= ~restart
        now = torch.stack([x, g])
        pair = now - self.last
        self.last.copy_(now)
        self.pairs.index_copy_(1, self.head, pair[:, None])
        with_y, with_g = (torch.stack([pair[1], g]) @ self.pairs.flatten(0, 1).T).to(self.products.dtype).view(2, 2, -1)
        self._add_pair(pair[0].norm(), with_y)
        return self._direction(g, *with_g).view_as(image)

    def _create(self, x: Tensor) -> None:
        rows, n = self.history + 1, len(x)
        small = torch.float32 if x.device.type == "mps" else torch.float64
        self.pairs, self.last = x.new_zeros(2, rows, n), x.new_zeros(2, n)
        self.products = torch.zeros(2, rows, rows, dtype=small, device=x.device)
        self.valid, self.has_last = (torch.zeros(n, dtype=torch.bool, device=x.device) for n in (rows, 1))
        self.head = torch.zeros(1, dtype=torch.int64, device=x.device)

    def _add_pair(self, length: Tensor, with_y: Tensor) -> None:
        """Accept the pair in the row at `head` if its curvature is positive: `head` moves on to the next row.

        length: ‖s‖.
        with_y: (2, rows), the products of y with all s and all y.
        """
        self.products.index_copy_(2, self.head, with_y[..., None])
        self.products[1].index_copy_(0, self.head, with_y[1:])
        curvature, square = with_y[:, self.head]
        accepted = self.has_last & (curvature > 1e-10 * length * square.sqrt())
        self.valid.index_copy_(0, self.head, accepted)
        self.head.copy_((self.head + accepted) % len(self.valid))
        self.valid.index_copy_(0, self.head, self.valid[self.head] & ~accepted)  # drops the oldest pair
        self.has_last.fill_(True)

    def _direction(self, g: Tensor, Sg: Tensor, Yg: Tensor) -> Tensor:
        """Return −H g, given Sᵀ g and Yᵀ g."""
        rows = len(self.valid)
        order = (self.head + torch.arange(1, rows, device=g.device)) % rows  # of the pairs, the oldest first
        valid = self.valid[order]
        both = valid[:, None] & valid
        SY, YY = torch.where(both, self.products[:, order][:, :, order], 0)
        D = SY.diagonal()
        R = SY.triu() + torch.diag_embed(torch.where(valid, 0.0, 1.0).to(D))
        Sg, Yg = torch.where(valid, torch.stack([Sg, Yg])[:, order], 0)
        first = self.first_step / g.square().mean().sqrt().clamp_min(1e-30)
        gamma = torch.where(valid[-1], D[-1] / YY[-1, -1], first.to(D))
        u = torch.linalg.solve_triangular(R, Sg[:, None], upper=True)
        right = D[:, None] * u + gamma * (YY @ u - Yg[:, None])
        by_s = torch.linalg.solve_triangular(R.mT, right, upper=False)
        shares = self.products.new_zeros(2, rows).index_copy_(1, order, torch.stack([by_s, -gamma * u])[..., 0])
        return torch.addmv(gamma.to(g) * g, self.pairs.flatten(0, 1).T, shares.flatten().to(g)).neg_()


@dataclass
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
        return replace(self, mean=mean * share, square=square * share**2)

    def direction(self, image: Tensor, gradient: Tensor, restart: Tensor | None = None) -> Tensor:
        """See `LBFGS.direction`."""
        if self.mean is None:
            self.mean, self.square = torch.zeros_like(gradient), torch.zeros_like(gradient)
            self.steps = gradient.new_zeros(())
        if restart is not None:
            for value in (self.mean, self.square, self.steps):
                value.mul_(~restart[0])
        self.steps += 1
        self.mean.mul_(self.beta1).add_(gradient, alpha=1 - self.beta1)
        self.square.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        mean = self.mean / (1 - self.beta1**self.steps)
        square = self.square / (1 - self.beta2**self.steps)
        return -mean / (square.sqrt() + self.epsilon)


OPTIMIZERS: dict[str, type[LBFGS] | type[Adam]] = {"lbfgs": LBFGS, "adam": Adam}
