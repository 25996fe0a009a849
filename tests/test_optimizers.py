"""L-BFGS and Adam against a quadratic, torch, and their formulas."""

import math

import pytest
import torch

from nst_helpers.optimizers import LBFGS, Adam


class TestOptimizers:
    @pytest.mark.parametrize(("optimizer", "steps"), [(LBFGS(), 60), (Adam(), 2000)])
    def test_reach_the_minimum_of_a_quadratic(self, optimizer, steps):
        generator = torch.Generator().manual_seed(0)
        scales = torch.logspace(0, 2, 48, dtype=torch.float64).view(1, 3, 4, 4)
        target = torch.rand(1, 3, 4, 4, generator=generator, dtype=torch.float64)
        x = torch.full_like(target, 0.5)
        for _ in range(steps):
            x = x + optimizer.learning_rate * optimizer.direction(x, scales * (x - target))
        assert (x - target).abs().max() < 1e-4

    def test_adam_is_torchs(self):
        x = torch.rand(1, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        theirs = x.clone().requires_grad_()
        torch_adam, adam = torch.optim.Adam([theirs], lr=0.03), Adam()
        for _ in range(20):
            x = x + 0.03 * adam.direction(x, 4 * x**3 - x)
            theirs.grad = (4 * theirs**3 - theirs).detach()
            torch_adam.step()
        torch.testing.assert_close(x, theirs.detach())

    def test_lbfgs_is_torchs(self):
        """Without a line search, and with the same first step, both make the same steps."""
        generator = torch.Generator().manual_seed(0)
        matrix = torch.randn(48, 48, dtype=torch.float64, generator=generator)
        matrix = matrix @ matrix.T / 48 + torch.eye(48)
        x = torch.rand(1, 3, 4, 4, dtype=torch.float64, generator=generator)
        theirs = x.clone().requires_grad_()
        torch_lbfgs = torch.optim.LBFGS([theirs], max_iter=1, history_size=5, tolerance_grad=0, tolerance_change=0)

        def gradient(x):
            return (matrix @ x.flatten()).view_as(x)

        def closure():
            theirs.grad = gradient(theirs.detach())
            return torch.tensor(0.0)

        first = min(1.0, 1 / gradient(x).abs().sum().item()) * gradient(x).square().mean().sqrt().item()
        ours = LBFGS(history=5, first_step=first)
        for _ in range(12):
            torch_lbfgs.step(closure)
            x = x + ours.direction(x, gradient(x))
            torch.testing.assert_close(x, theirs.detach())

    def test_lbfgs_first_step(self):
        gradient = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        step = LBFGS().direction(torch.zeros(1, 3, 8, 8), gradient)
        assert math.isclose(step.square().mean().sqrt(), 0.02, rel_tol=1e-5)
        torch.testing.assert_close(step / step.norm(), -gradient / gradient.norm())

    def test_lbfgs_keeps_its_history_short_and_its_curvature_positive(self):
        lbfgs, x = LBFGS(history=3), torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
        for k in range(8):
            x = x + 0.1 * lbfgs.direction(x, torch.sin(7 * x + k))
        assert 0 < lbfgs.number_of_pairs <= 3
        S, Y = lbfgs.pairs[:, lbfgs.order[-lbfgs.number_of_pairs :]]
        assert ((S * Y).sum(1) > 0).all()

    @pytest.mark.parametrize("optimizer", [LBFGS(), Adam()])
    def test_no_gradient_no_step(self, optimizer):
        for _ in range(3):
            assert optimizer.direction(torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)).abs().max() == 0


class TestResized:
    def test_is_enlarged_in_proportion(self):
        """A gradient that stays the same keeps its steps: four times the pixels have each a quarter of it."""
        adam, gradient = Adam(), torch.tensor([2.0, -1.0, 0.5]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
        for _ in range(3):
            before = adam.direction(torch.zeros(1, 3, 8, 8), gradient)
        wide = gradient[..., :1, :1].expand(1, 3, 16, 16) / 4
        after = adam.resized(16, 16).direction(torch.zeros(1, 3, 16, 16), wide)
        torch.testing.assert_close(after, before[..., :1, :1].expand(1, 3, 16, 16))
        assert Adam().resized(4, 4).mean is None
