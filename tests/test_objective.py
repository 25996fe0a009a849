"""Every control of the losses against a computation of its own: autograd on `get_features`, and the formula again."""

import re
from collections import Counter

import pytest
import torch
from oracles import NAIVE, differentiable, everywhere, features, gram, naive_gram
from torch.utils._python_dispatch import TorchDispatchMode

import nst_helpers as nst
from nst_helpers.engine import Request
from nst_helpers.losses.style import STYLE_LOSSES
from nst_helpers.masks import find_regions
from nst_helpers.styles import Region, Style

WEIGHTS = {"relu1_1": 2.0, "relu2_1": 1.0, "conv3_1": 0.5}
CONTENT = {"relu2_2": 1.0, "relu3_1": 0.5}
ENGINES = ["plain", "direct", "winograd"]

pytestmark = pytest.mark.usefixtures("winograd_for_small_pictures")


@pytest.fixture
def pictures(picture):
    """Content (64×48) and two styles, with some noise."""
    torch.manual_seed(3)
    return [
        (picture(*shape, seed) + 0.1 * torch.randn(1, 3, *shape)).clamp(0, 1)
        for seed, shape in enumerate([(48, 64), (64, 64), (56, 64)])
    ]


@pytest.fixture
def image():
    return torch.rand(1, 3, 48, 64, generator=torch.Generator().manual_seed(9))


@pytest.fixture
def exact(vgg):
    """VGG-19 in float64, in which the losses are computed once more."""
    network = nst.VGG("vgg19").double()
    network.load_state_dict(vgg.state_dict())
    return network


def make_run(pictures, network, style=None, **settings):
    settings = {"relative_losses": False, "start": "content", "steps": 5, **settings}
    settings = {"style_weights": WEIGHTS, "content_weights": CONTENT, "beta": 10, **settings}
    return nst.StyleTransfer(
        pictures[0], pictures[1] if style is None else style, network=network, sizes=(64,), **settings
    )


class TestStyleLosses:
    @pytest.mark.parametrize("engine", ENGINES)
    @pytest.mark.parametrize("style_loss", STYLE_LOSSES)
    def test_value(self, style_loss, engine, pictures, image, vgg, exact):
        weights = {"relu3_1": 1.0, "relu4_1": 0.5} if style_loss == "nearest" else WEIGHTS
        run = make_run(pictures, vgg, style_loss=style_loss, style_weights=weights, engine=engine)
        found = run.evaluate(image, run.settings).losses[2]
        F, S = (features(x, exact, weights) for x in (image, nst.load_image(pictures[1], 64)))
        expected = sum(
            w * NAIVE[style_loss](F[layer], everywhere(F[layer]), S[layer], everywhere(S[layer]))
            for layer, w in weights.items()
        )
        assert found == pytest.approx(expected.item(), rel=1e-3 if engine == "plain" else 3e-2)

    @pytest.mark.parametrize("style_loss", STYLE_LOSSES)
    def test_relative(self, style_loss, pictures, image, vgg, exact):
        """Each layer's loss is divided by that of features that are all 0; with several styles, by each style's."""
        weights = {"relu3_1": 1.0, "relu4_1": 0.5} if style_loss == "nearest" else WEIGHTS
        settings = {"style_loss": style_loss, "style_weights": weights, "relative_losses": True}
        run = make_run(pictures, vgg, [Style(pictures[1], 2), pictures[2]], blend="losses", **settings)
        found = run.evaluate(image, run.settings).losses[2]
        F, *S = (features(x, exact, weights) for x in (image, *(nst.load_image(p, 64) for p in pictures[1:])))
        losses = [
            share
            * w
            * NAIVE[style_loss](F[layer], everywhere(F[layer]), s[layer], everywhere(s[layer]))
            / NAIVE[style_loss](0 * F[layer], everywhere(F[layer]), s[layer], everywhere(s[layer]))
            for share, s in zip((2 / 3, 1 / 3), S, strict=True)
            for layer, w in weights.items()
        ]
        assert found == pytest.approx(sum(losses).item(), rel=3e-2)

    @pytest.mark.parametrize("style_loss", STYLE_LOSSES)
    def test_gradient_is_that_of_the_value(self, style_loss, pictures, image, vgg):
        run = make_run(pictures, vgg, style_loss=style_loss, engine="plain", alpha=0)
        at = run.evaluate(image, run.settings)
        torch.manual_seed(0)
        direction = at.gradient.sign() + 0.1 * torch.randn_like(image)
        step = 1e-3  # smaller ones are lost in the rounding of the loss, of Wasserstein eigenvalues above all
        up, down = (run.evaluate(image + sign * step * direction, run.settings).losses[0] for sign in (1, -1))
        assert (up - down) / (2 * step) == pytest.approx((at.gradient * direction).sum().item(), rel=2e-2)

    @pytest.mark.parametrize("style_loss", STYLE_LOSSES)
    def test_is_nothing_for_the_style_itself(self, style_loss, pictures, vgg):
        style = nst.load_image(pictures[1], 64)
        run = nst.StyleTransfer(style, style, network=vgg, sizes=(64,), style_loss=style_loss, engine="plain", steps=5)
        losses = run.evaluate(style, run.settings).losses
        other = run.evaluate(torch.rand_like(style), run.settings).losses
        assert losses[2] < 1e-3 * other[2]

    @pytest.mark.parametrize("style_loss", STYLE_LOSSES)
    def test_falls(self, style_loss, pictures, vgg):
        run = make_run(pictures, vgg, style_loss=style_loss, steps=12, alpha=0)
        first = run.step().total
        list(run)
        assert run.best_loss < 0.7 * first

    def test_unknown(self, pictures, vgg):
        with pytest.raises(ValueError, match=r"style_loss: expected one of gram, .*did you mean 'wasserstein'"):
            make_run(pictures, vgg, style_loss="waserstein")


class TestContentLosses:
    @pytest.mark.parametrize("engine", ENGINES)
    def test_features_of_several_layers(self, engine, pictures, image, vgg, exact):
        run = make_run(pictures, vgg, engine=engine)
        F, P = (features(x, exact, CONTENT) for x in (image, pictures[0]))
        expected = sum(w * (F[layer] - P[layer]).square().mean() for layer, w in CONTENT.items())
        found = run.evaluate(image, run.settings).losses[1]
        assert found == pytest.approx(expected.item(), rel=1e-4 if engine == "plain" else 3e-2)

    def test_relative(self, pictures, image, vgg, exact):
        run = make_run(pictures, vgg, engine="plain", relative_losses=True)
        F, P = (features(x, exact, CONTENT) for x in (image, pictures[0]))
        expected = sum(
            w * (F[layer] - P[layer]).square().mean() / P[layer].square().mean() for layer, w in CONTENT.items()
        )
        assert run.evaluate(image, run.settings).losses[1] == pytest.approx(expected.item(), rel=1e-4)

    def test_self_similarity(self, pictures, image, vgg, exact):
        run = make_run(pictures, vgg, content_loss="self_similarity", content_weights={"relu4_1": 1}, engine="plain")

        def distances(x):
            F = features(x, exact, ["relu4_1"])["relu4_1"]
            D = torch.stack([1 - torch.cosine_similarity(F, f[:, None], 0) for f in F.T])
            return D / D.mean(0)

        expected = (distances(image) - distances(pictures[0])).abs().mean()
        assert run.evaluate(image, run.settings).losses[1] == pytest.approx(expected.item(), rel=1e-3)
        assert run.evaluate(pictures[0], run.settings).losses[1] < 1e-5

    def test_weights_may_be_set_on_the_way(self, pictures, vgg):
        run = make_run(pictures, vgg)
        first = run.step()
        run.content_weights = {"relu3_1": 2.0}
        assert run.step().settings.content_weights == (("relu3_1", 2.0),)
        assert dict(first.settings.content_weights) == CONTENT
        with pytest.raises(ValueError, match=r"content_weights: expected layers .* .relu2_2, relu3_1., got relu5_1"):
            run.content_weights = {"relu5_1": 1.0}


class TestTotalVariation:
    @pytest.mark.parametrize("power", [1, 2])
    def test_power(self, power, pictures, image, vgg):
        run = make_run(pictures, vgg, tv=f"l{power}", tv_weight=3.0)
        across, down = image[..., 1:] - image[..., :-1], image[..., 1:, :] - image[..., :-1, :]
        expected = (across.abs() ** power).mean() + (down.abs() ** power).mean()
        total, content, style, variation = run.evaluate(image, run.settings).losses
        assert variation == pytest.approx(expected.item(), rel=1e-5)
        assert total == pytest.approx(content + 10 * style + 3 * variation, rel=1e-5)

    def test_bad_power(self, pictures, vgg):
        with pytest.raises(ValueError, match="tv: expected one of l1, l2, got 'l3'"):
            make_run(pictures, vgg, tv="l3")
        with pytest.raises(ValueError, match="power: expected 1 or 2, got 3"):
            nst.total_variation_loss(pictures[0], 3)


class TestSeveralStyles:
    def losses(self, pictures, image, network, blend, style_loss="gram", **settings):
        styles = [Style(pictures[1], 3.0), Style(pictures[2], 1.0)]
        run = make_run(pictures, network, styles, blend=blend, style_loss=style_loss, engine="plain", **settings)
        return run.evaluate(image, run.settings)

    def test_blended_on_gram_matrices(self, pictures, image, vgg, exact):
        F, S, T = (features(x, exact, WEIGHTS) for x in (image, *(nst.load_image(p, 64) for p in pictures[1:])))
        expected = 0
        for layer, w in WEIGHTS.items():
            f, s, t = (gram(x[layer], everywhere(x[layer])) for x in (F, S, T))
            expected += w * (f - (0.75 * s + 0.25 * t)).square().mean() / 4
        assert self.losses(pictures, image, vgg, "statistics").losses[2] == pytest.approx(expected.item(), rel=1e-4)

    def test_blended_on_losses(self, pictures, image, vgg):
        each = [
            run.evaluate(image, run.settings).losses[2]
            for run in (make_run(pictures, vgg, style, style_loss="gram", engine="plain") for style in pictures[1:])
        ]
        found = self.losses(pictures, image, vgg, "losses").losses[2]
        assert found == pytest.approx(0.75 * each[0] + 0.25 * each[1], rel=1e-5)

    @pytest.mark.parametrize("style_loss", ["gram", "mean_std", "sliced_wasserstein", "wasserstein"])
    def test_of_squares_both_have_the_same_gradient(self, style_loss, pictures, vgg):
        blends = "statistics", "losses"
        image = pictures[1][:, :, :48]
        a, b = (self.losses(pictures, image, vgg, blend, style_loss, alpha=0) for blend in blends)
        assert b.losses[2] > a.losses[2]
        cosine = torch.cosine_similarity(a.gradient.flatten(), b.gradient.flatten(), 0).item()
        assert (cosine > 1 - 5e-5) == (style_loss != "wasserstein")

    @pytest.mark.parametrize("style_loss", STYLE_LOSSES)
    def test_two_that_are_the_same_are_one(self, style_loss, pictures, image, vgg):
        blend = "losses" if style_loss == "nearest" else "statistics"
        one = make_run(pictures, vgg, style_loss=style_loss, engine="plain")
        two = make_run(pictures, vgg, [pictures[1]] * 2, style_loss=style_loss, engine="plain", blend=blend)
        expected = one.evaluate(image, one.settings).losses
        assert two.evaluate(image, two.settings).losses == pytest.approx(expected, rel=1e-4)

    def test_scale(self, pictures, image, vgg, exact):
        run = make_run(pictures, vgg, Style(pictures[1], scale=0.5), style_loss="gram", engine="plain")
        F, S = (features(x, exact, WEIGHTS) for x in (image, nst.load_image(pictures[1], 32)))
        expected = sum(
            w * naive_gram(F[layer], everywhere(F[layer]), S[layer], everywhere(S[layer]))
            for layer, w in WEIGHTS.items()
        )
        assert run.evaluate(image, run.settings).losses[2] == pytest.approx(expected.item(), rel=1e-4)

    def test_nonsense(self, pictures, vgg):
        with pytest.raises(ValueError, match="at least one style with a weight above 0"):
            make_run(pictures, vgg, [Style(pictures[1], 0.0), Style(pictures[2], 0.0)])
        with pytest.raises(ValueError, match="at least one style with a weight above 0"):
            make_run(pictures, vgg, [])
        with pytest.raises(ValueError, match="a style's weight: expected a finite number"):
            Style(pictures[1], -1)
        with pytest.raises(ValueError, match=r"a style's scale: expected a finite number, at least 0\.01"):
            Style(pictures[1], scale=0)
        with pytest.raises(ValueError, match="cannot blend the statistics of several styles"):
            make_run(pictures, vgg, pictures[1:], style_loss="nearest")
        with pytest.raises(ValueError, match="blend: expected one of statistics, losses"):
            make_run(pictures, vgg, pictures[1:], blend="grams")


def soft_masks():
    left = torch.linspace(1.5, -0.5, 64).clamp(0, 1).expand(1, 1, 48, 64)
    return left, 1 - left


def down(mask, layer):
    """The mask's mean over the pixels of each position."""
    side = 2 ** (int(layer[4]) - 1)
    return mask.double().unfold(2, side, side).unfold(3, side, side).mean((4, 5)).flatten()


class TestRegions:
    @pytest.mark.parametrize("engine", ENGINES)
    @pytest.mark.parametrize("style_loss", ["gram", "mean_std", "wasserstein"])
    def test_each_has_its_style_and_its_area(self, style_loss, engine, pictures, image, vgg, exact):
        masks = soft_masks()
        regions = [Region(masks[0], pictures[1]), Region(masks[1], pictures[2], weight=2.0)]
        run = make_run(pictures, vgg, regions, style_loss=style_loss, engine=engine)
        F, *S = (features(x, exact, WEIGHTS) for x in (image, *(nst.load_image(p, 64) for p in pictures[1:])))
        expected = sum(
            weight * mask.mean() * w * NAIVE[style_loss](F[layer], down(mask, layer), s[layer], everywhere(s[layer]))
            for weight, mask, s in zip((1, 2), masks, S, strict=True)
            for layer, w in WEIGHTS.items()
        )
        found = run.evaluate(image, run.settings).losses[2]
        assert found == pytest.approx(expected.item(), rel=1e-3 if engine == "plain" else 3e-2)

    @pytest.mark.parametrize("style_loss", STYLE_LOSSES)
    def test_one_that_is_everywhere_is_no_region(self, style_loss, pictures, image, vgg):
        one = make_run(pictures, vgg, style_loss=style_loss, engine="plain")
        region = Region(torch.ones(1, 1, 48, 64), pictures[1])
        same = make_run(pictures, vgg, region, style_loss=style_loss, engine="plain")
        expected = one.evaluate(image, one.settings)
        found = same.evaluate(image, same.settings)
        assert found.losses == pytest.approx(expected.losses, rel=1e-4)
        assert torch.cosine_similarity(found.gradient.flatten(), expected.gradient.flatten(), 0) > 0.9999

    @pytest.mark.parametrize("style_loss", STYLE_LOSSES)
    def test_where_none_is_the_photograph_stays(self, style_loss, pictures, vgg):
        mask = (torch.arange(64) < 30).float().expand(1, 1, 48, 64)
        run = make_run(pictures, vgg, Region(mask, pictures[1]), style_loss=style_loss, steps=4, start="noise")
        records = list(run)
        for image in (run.image, run.best, records[-1].image):
            assert torch.equal(image[..., 30:], pictures[0][..., 30:])
            assert (image[..., :30] - pictures[0][..., :30]).abs().mean() > 0.05
        assert records[-1].style < records[0].style

    def test_a_soft_edge_is_a_mixture(self, pictures, vgg):
        mask = soft_masks()[0]
        run = make_run(pictures, vgg, Region(mask, pictures[1]), steps=2, start="noise")
        z = run.state.image
        torch.testing.assert_close(run.image, mask * z + (1 - mask) * pictures[0])

    def test_a_small_mask_counts_in_every_layer(self, pictures, vgg):
        mask = torch.zeros(1, 1, 48, 64)
        mask[..., -1, -1] = 1
        weights = dict.fromkeys(("relu1_1", "relu5_1"), 1.0)
        run = make_run(pictures, vgg, Region(mask, pictures[1]), style_weights=weights)
        assert run.step().style > 0

    def test_found_regions_may_be_used(self, pictures, vgg):
        masks = find_regions(pictures[0], 2)
        regions = [Region(mask, style) for mask, style in zip(masks, pictures[1:], strict=True)]
        run = make_run(pictures, vgg, regions, start="recolored", steps=3)
        records = list(run)
        assert records[-1].total < records[0].total

    def test_start_in_the_colors_of_each(self, pictures, vgg):
        mask = (torch.arange(64) < 32).float().expand(1, 1, 48, 64)
        regions = [Region(mask, pictures[1]), Region(1 - mask, pictures[2])]
        run = make_run(pictures, vgg, regions, start="recolored")
        for style, part in zip(pictures[1:], (slice(0, 32), slice(32, 64)), strict=True):
            torch.testing.assert_close(run.image[..., part], nst.recolor(pictures[0], style)[..., part])

    def test_nonsense(self, pictures, vgg):
        mask = torch.ones(1, 1, 48, 64)
        with pytest.raises(
            ValueError, match=r"the content image's \(48, 64\) px, got a region's mask of \(20, 20\) px"
        ):
            make_run(pictures, vgg, Region(torch.ones(1, 1, 20, 20), pictures[1]))
        with pytest.raises(ValueError, match=r"a region's mask: .* 0 everywhere"):
            Region(torch.zeros(1, 1, 48, 64), pictures[1])
        with pytest.raises(ValueError, match=r"a region's mask: expected a tensor \(1, 1, H, W\)"):
            Region(torch.ones(48, 64), pictures[1])
        with pytest.raises(ValueError, match=r"expected values in \[0, 1\], got values from 0 to 255"):
            Region(torch.tensor([0.0, 255.0]).expand(1, 1, 48, 2), pictures[1])
        with pytest.raises(ValueError, match="only styles or only regions"):
            make_run(pictures, vgg, [Region(mask, pictures[1]), pictures[2]])


class Counted(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("engine", ["plain", "direct"])
def test_what_is_not_used_costs_nothing(engine, pictures, image, vgg):
    """An evaluation makes the operations of notebook 05's formulas, without layers of weight 0, and no others."""
    settings = {"network": vgg, "sizes": (64,), "steps": 5, "style_loss": "gram"}
    run = nst.StyleTransfer(pictures[0], pictures[1], engine=engine, **settings)
    style_weights = {layer: weight for layer, weight in nst.STYLE_WEIGHTS.items() if weight}
    assert "relu5_1" not in style_weights
    with torch.no_grad():
        P = run.engine.forward(pictures[0], Request(["relu4_2"], []))[0]["relu4_2"]
        A = run.engine.forward(nst.load_image(pictures[1], 64), Request([], list(style_weights)))[1]
    units = {layer: A[layer].square().mean().item() / 4 for layer in style_weights}

    def formulas():
        x = image.detach().requires_grad_()
        maps, grams = differentiable(run.engine, x, ["relu4_2"], list(style_weights))
        content = nst.content_loss(maps["relu4_2"], P) / P.square().mean().item()
        style = sum(w * ((grams[k] - A[k]).square().mean() / 4 / units[k]) for k, w in style_weights.items())
        variation = nst.total_variation_loss(x)
        total = nst.total_loss(content, style, 1.0, run.beta) + 0.0 * variation
        (gradient,) = torch.autograd.grad(total, x)
        return torch.stack([total, content, style, variation]).tolist(), gradient.contiguous()

    with Counted() as expected:
        losses, gradient = formulas()
    with Counted() as found:
        evaluation = run.evaluate(image, run.settings)
        assert evaluation.losses == pytest.approx(losses, rel=2e-5)
    torch.testing.assert_close(evaluation.gradient, gradient, rtol=1e-4, atol=1e-6 * gradient.abs().max().item())
    found, expected = (
        Counter(name for name in counted.names if re.search(r"conv|mm|pool|scatter|threshold|relu", name))
        for counted in (found, expected)
    )
    assert found == expected
    assert found["aten::mm"] + found["aten::bmm"] + found["aten::baddbmm"] > 0
