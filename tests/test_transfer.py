import copy
import dataclasses
import inspect
import math
import pickle
import pydoc
import re
import signal
import threading

import pytest
import torch

import nst_helpers as nst
from nst_helpers import vgg
from nst_helpers.engine import pick_engine
from nst_helpers.images import resize
from nst_helpers.objective import Evaluation
from nst_helpers.optimizers import LBFGS, Adam
from nst_helpers.schedule import QUALITIES, coarse_to_fine
from nst_helpers.settings import STEERABLE, Settings
from nst_helpers.transfer import JUMP


@pytest.fixture
def make_run(vgg16, picture):
    """Makes a StyleTransfer of two small pictures, 64×48 and 60×64 px."""

    def make(**settings):
        settings = {"network": vgg16, "sizes": (48,), "steps": 4, "start": "content", **settings}
        return nst.StyleTransfer(picture(48, 64), picture(64, 60, seed=1), **settings)

    return make


def plain_losses(image, content, style, network, alpha, beta, tv_weight):
    """The losses from their formulas, layer by layer, with none of the toolkit's losses."""
    layers = ["relu4_2", *nst.STYLE_WEIGHTS]
    F, P, S = (nst.get_features(x, network, layers) for x in (image, content, style))
    content_loss = ((F["relu4_2"] - P["relu4_2"]) ** 2).mean()
    style_loss = 0
    for layer, weight in nst.STYLE_WEIGHTS.items():
        f, s = F[layer][0].flatten(1), S[layer][0].flatten(1)
        n = len(f)
        style_loss += weight * ((f @ f.T / f.shape[1] - s @ s.T / s.shape[1]) ** 2).sum() / (4 * n**2)
    variation = (image[..., 1:] - image[..., :-1]).abs().mean() + (image[..., 1:, :] - image[..., :-1, :]).abs().mean()
    return alpha * content_loss + beta * style_loss + tv_weight * variation, content_loss, style_loss, variation


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
        assert len(lbfgs.pairs) <= 3
        assert all(s.dot(y) > 0 for s, y, _ in lbfgs.pairs)

    @pytest.mark.parametrize("optimizer", [LBFGS(), Adam()])
    def test_no_gradient_no_step(self, optimizer):
        for _ in range(3):
            assert optimizer.direction(torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)).abs().max() == 0


class TestStep:
    def test_losses_and_gradient_are_the_formulas(self, make_run, vgg16):
        run = make_run(alpha=2.0, beta=3.0, tv_weight=0.7, start="noise", engine="plain")
        record = run.step()
        images = run.content_image, run.regions[0].styles[0].image
        content, style = (nst.load_image(image, 48) for image in images)
        image = record.image.requires_grad_()
        expected = plain_losses(image, content, style, vgg16, 2.0, 3.0, 0.7)
        found = (record.total, record.content, record.style, record.total_variation)
        torch.testing.assert_close(torch.tensor(found), torch.stack(expected).detach(), rtol=1e-5, atol=0)
        gradient = torch.autograd.grad(expected[0], image)[0]
        torch.testing.assert_close(
            run.state.best.gradient, gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item()
        )

    def test_the_record_is_of_the_image_before_the_update(self, make_run):
        run = make_run()
        before = run.image
        record = run.step()
        assert torch.equal(record.image, before)
        assert record.content == 0
        assert not torch.equal(run.image, before)
        assert (record.step, record.size_step, record.size) == (1, 1, 48)
        assert (record.settings.alpha, record.settings.beta) == (1.0, 10.0)
        assert dict(record.settings.style_weights) == nst.STYLE_WEIGHTS

    def test_records_are_immutable_copies(self, make_run):
        run = make_run()
        record = run.step()
        first = record.image
        record.image.zero_()
        run.image.zero_()
        run.best.zero_()
        run.step()
        assert torch.equal(record.image, first)
        with pytest.raises(AttributeError):
            record.total = 0.0
        copied = pickle.loads(pickle.dumps(record))
        assert copied == record
        assert torch.equal(copied.image, first)

    def test_history_keeps_numbers_alone(self, make_run):
        run = make_run()
        records = list(run)
        assert list(run.history) == records
        assert all(record.image is None for record in run.history)

    def test_iterating_is_stepping(self, make_run):
        stepped = make_run()
        steps = []
        while not stepped.done:
            steps.append(stepped.step())
        assert list(make_run()) == steps
        assert len(steps) == 4
        with pytest.raises(RuntimeError, match="the run is done"):
            stepped.step()

    def test_a_stopped_run_goes_on(self, make_run):
        whole = make_run(steps=6)
        list(whole)
        stopped = make_run(steps=6)
        for record in stopped:
            if record.step == 3:
                break
        assert not stopped.done
        list(stopped)
        assert stopped.history == whole.history
        assert torch.equal(stopped.image, whole.image)

    def test_an_extended_run_goes_on(self, make_run):
        whole, extended = make_run(steps=6), make_run(steps=4)
        list(whole), list(extended)
        extended.extend(2)
        list(extended)
        assert [record.total for record in extended.history] == [record.total for record in whole.history]
        assert extended.settings == whole.settings


class TestSettings:
    def test_are_read_at_the_next_step(self, make_run):
        run = make_run(steps=10)
        run.step()
        run.alpha, run.beta, run.tv_weight = 0.5, 20, 0.1
        run.style_weights = {"relu2_1": 3}
        record = run.step()
        settings = record.settings
        assert (settings.alpha, settings.beta, settings.tv_weight) == (0.5, 20.0, 0.1)
        assert settings.style_weights == (("relu2_1", 3.0),)
        total = 0.5 * record.content + 20 * record.style + 0.1 * record.total_variation
        assert math.isclose(record.total, total, rel_tol=1e-5)

    @pytest.mark.parametrize(
        "change", [{"alpha": 3.0}, {"beta": 5.0}, {"tv_weight": 0.3}, {"style_weights": {"relu1_1": 1}}]
    )
    def test_best_and_memory_start_anew(self, make_run, change):
        run = make_run(steps=10)
        for _ in range(4):
            run.step()
        assert run.state.optimizer.pairs
        for name, value in change.items():
            setattr(run, name, value)
        record = run.step()
        assert not run.state.optimizer.pairs
        assert run.best_loss == record.total
        assert torch.equal(run.best, record.image)

    def test_setting_the_same_value_changes_nothing(self, make_run):
        run, same = make_run(), make_run()
        for _ in range(4):
            same.beta, same.style_weights = 10, nst.STYLE_WEIGHTS
            assert run.step() == same.step()

    def test_the_optimizer(self, make_run):
        run = make_run(steps=20, optimizer="lbfgs", learning_rate=0.5)
        first = run.step()
        assert (first.settings.optimizer, first.settings.learning_rate) == ("lbfgs", 0.5)
        run.optimizer = "adam"
        assert run.learning_rate == Adam.learning_rate
        best = run.best_loss
        for steps in range(1, 4):
            record = run.step()
            assert (record.settings.optimizer, record.settings.learning_rate) == ("adam", Adam.learning_rate)
            assert run.state.optimizer.steps == steps
        assert run.best_loss < best  # the loss is the same as before
        with pytest.raises(ValueError, match="optimizer: expected one of lbfgs, adam, got 'sgd'"):
            run.optimizer = "sgd"
        assert run.optimizer == "adam"

    def test_from_another_thread(self, make_run):
        run = make_run(steps=30)

        def move():
            for beta in range(1, 40):
                run.beta = beta

        thread = threading.Thread(target=move)
        thread.start()
        records = list(run)
        thread.join()
        for record in records:
            expected = record.content + record.settings.beta * record.style
            assert math.isclose(record.total, expected, rel_tol=1e-5)

    @pytest.mark.parametrize("name", ["alpha", "beta", "tv_weight", "learning_rate"])
    @pytest.mark.parametrize("value", [-1, math.nan, math.inf, "much"])
    def test_bad_values_are_refused_at_once(self, make_run, name, value):
        run = make_run()
        before = getattr(run, name)
        with pytest.raises(ValueError, match=r"finite number|could not convert"):
            setattr(run, name, value)
        assert getattr(run, name) == before

    def test_style_weights(self, make_run):
        run = make_run()
        run.style_weights["relu1_1"] = 99  # a copy
        assert run.style_weights == nst.STYLE_WEIGHTS
        for bad in ({}, {"relu9_9": 1}, {"relu4_2": 1}, {"relu1_1": -1}):
            with pytest.raises(
                ValueError, match=r"one layer at least|that the run was created with|relu1_1: expected a finite"
            ):
                run.style_weights = bad


class TestWhatARunIs:
    def test_settings_describe_it_completely(self, make_run, vgg16):
        run = make_run(steps=7, sizes=(24, 48), beta=3, style_loss="mean_std", seed=4, engine="direct", start="noise")
        settings = run.settings
        assert (settings.network, settings.pooling, settings.padding, settings.inputs) == (
            ("vgg16", "max", "zeros", "standardized")
        )
        assert (settings.engine, settings.precision) == ("direct", run.engine.precision)
        assert (settings.sizes, settings.steps, settings.start, settings.seed) == ((24, 48), (3, 7), "noise", 4)
        again = nst.StyleTransfer(run.content_image, run.regions[0].styles[0].image, **settings.arguments())
        assert again.settings == settings
        list(run), list(again)
        assert torch.equal(run.image, again.image)

    def test_settings_are_frozen(self, make_run):
        run = make_run()
        with pytest.raises(dataclasses.FrozenInstanceError):
            run.settings.beta = 3
        before = run.settings
        run.beta = 3
        assert (before.beta, run.settings.beta) == (10, 3)
        run.settings = dataclasses.replace(run.settings, alpha=2.0, tv_weight=1.0)
        assert (run.alpha, run.beta, run.tv_weight) == (2, 3, 1)
        assert hash(run.settings) != hash(before)

    @pytest.mark.parametrize("bad", [{"beta": -1}, {"optimizer": "sgd"}, {"sizes": (32,)}, {"seed": 3}])
    def test_all_are_taken_or_none(self, make_run, bad):
        run = make_run()
        before = run.settings
        with pytest.raises(ValueError, match=r"finite number|one of|expected some of alpha"):
            run.steer(alpha=5.0, **bad)
        with pytest.raises(ValueError, match=r"finite number|one of|expected some of alpha"):
            run.settings = dataclasses.replace(run.settings, alpha=5.0, **bad)
        assert run.settings == before

    def test_each_steerable_setting_is_an_attribute(self, make_run):
        run = make_run()
        for name in STEERABLE:
            setattr(run, name, getattr(run, name))
        assert run.settings == make_run().settings

    @pytest.mark.parametrize(
        ("wrong", "right"),
        [
            ("optimiser", "optimizer"),
            ("colour", "color"),
            ("size", "sizes"),
            ("averaging", "ema_decay"),
            ("carry", "keep_optimizer_state"),
            ("lr", "learning_rate"),
            ("style_weight", "beta"),
            ("epochs", "steps"),
            ("preset", "presets"),
        ],
    )
    def test_a_wrong_name_is_answered_with_the_right_one(self, make_run, wrong, right):
        with pytest.raises(TypeError, match=f"unknown setting '{wrong}' .did you mean .*{right}"):
            make_run(**{wrong: 1})

    @pytest.mark.parametrize(
        ("bad", "said"),
        [
            ({"steps": 7.5}, "steps: expected a whole number, or several, got 7.5"),
            ({"sizes": "big"}, "sizes: expected a whole number, or several, got 'big'"),
            ({"sizes": (32, 64.5)}, "sizes: expected a whole number"),
            ({"seed": "a"}, "seed: expected a whole number"),
            ({"beta": "x"}, "beta: expected a finite number, at least 0, got 'x'"),
            ({"alpha": None}, "alpha: expected a finite number"),
            ({"content_weights": "relu4_2"}, "content_weights: expected {layer: weight}"),
            ({"style_weights": ["relu1_1"]}, "style_weights: expected {layer: weight}"),
            ({"style_weights": {}}, "style_weights: expected {layer: weight}"),
            ({"network": 3}, "network: expected one of"),
            ({"engine": torch.float16}, "engine: expected a name"),
            ({"start": [1]}, "start: expected a tensor"),
            ({"recipe": "x.png"}, "recipe: expected what recipe_from_png returns, got 'x.png'"),
            ({"recipe": {}}, "recipe: expected what recipe_from_png returns"),
        ],
        ids=str,
    )
    def test_bad_values_are_named(self, make_run, bad, said):
        with pytest.raises(ValueError, match=re.escape(said)):
            make_run(**bad)

    @pytest.mark.parametrize("function", [nst.transfer, nst.StyleTransfer])
    def test_help_lists_every_setting(self, function):
        parameters = inspect.signature(function).parameters
        text = pydoc.render_doc(function, renderer=pydoc.plaintext)
        for field in dataclasses.fields(Settings):
            assert parameters[field.name].default == field.default
            assert re.search(rf"\b{field.name}\b.*:", text)
        assert {"quality", "balance", "recipe", "device"} <= set(parameters)
        assert "settings" not in parameters

    def test_the_choices_of_a_network_belong_to_it(self, make_run, vgg16):
        assert make_run(pooling="max").network is vgg16
        with pytest.raises(
            ValueError, match="pooling: expected 'max', which the network was created with, got 'average'"
        ):
            make_run(pooling="average")

    def test_score(self, make_run):
        run = make_run()
        record = run.step()
        assert run.score(record.image) == record.total
        assert run.score(nst.load_image(run.content_image, 48)) == record.total
        with pytest.raises(ValueError, match=r"expected an image of \(1, 3, 36, 48\), got"):
            run.score(run.content_image)

    def test_an_engine_may_be_given(self, make_run, vgg16):
        engine = pick_engine(vgg16, "direct", "float32")
        run = make_run(engine=engine)
        assert run.engine is engine
        assert list(run) == list(make_run(engine="direct", precision="float32"))
        with pytest.raises(ValueError, match="Engine of this run's network"):
            make_run(engine=pick_engine(nst.VGG("vgg16"), "plain"))


class TestSizesAndSteps:
    @pytest.mark.parametrize(
        ("shape", "sizes"),
        [
            ((512, 512), (128, 256, 512)),
            ((256, 200), (128, 256)),
            ((100, 150), (150,)),
            ((1000, 700), (125, 250, 500, 1000)),
            ((64, 1024), (256, 512, 1024)),
        ],
    )
    def test_coarse_to_fine(self, shape, sizes):
        assert coarse_to_fine(*shape) == sizes

    def test_a_number_of_steps_is_for_the_last_size(self, make_run):
        assert make_run(sizes=(24, 32, 48), steps=100).settings.steps == (40, 40, 100)
        assert make_run(sizes=(48,), steps=100).settings.steps == (100,)
        assert make_run(sizes=(24, 48), steps=(7, 0)).settings.steps == (7, 0)

    def test_sizes_follow_one_another(self, make_run):
        run = make_run(sizes=(24, 32, 48), steps=(2, 0, 3))
        records = list(run)
        assert [record.size for record in records] == [24, 24, 48, 48, 48]
        assert [tuple(record.image.shape[2:]) for record in records[1:3]] == [(18, 24), (36, 48)]
        assert run.done
        assert run.best_loss == min(record.total for record in records[2:])

    def test_the_coarse_painting_is_painted_on(self, make_run):
        """The next size starts from what the one before has painted, not from the photograph."""
        run = make_run(sizes=(24, 48), steps=(6, 1), start="noise")
        records = list(run)
        coarse = min(records[:6], key=lambda record: record.total).image
        enlarged = torch.nn.functional.interpolate(coarse, (36, 48), mode="bicubic")
        assert (records[6].image - enlarged).abs().mean() < 0.02

    @pytest.mark.parametrize("sizes", [(), (48, 24), (24, 24)])
    def test_bad_sizes(self, make_run, sizes):
        with pytest.raises(ValueError, match="ascending"):
            make_run(sizes=sizes)

    @pytest.mark.parametrize("steps", [0, -3, (1, 2), (0,)])
    def test_bad_steps(self, make_run, steps):
        with pytest.raises(ValueError, match="steps: expected a number above 0, or one for each"):
            make_run(steps=steps)

    def test_too_small_is_said_before_the_first_step(self, make_run):
        with pytest.raises(ValueError, match=r"content_image: expected sides of at least .*got 20×15 px"):
            make_run(sizes=(20, 48))

    def test_enlarging_is_said_before_the_first_step(self, make_run):
        with pytest.warns(UserWarning, match="enlarged") as warned:
            make_run(sizes=(48, 80))
        said = sorted(str(warning.message) for warning in warned)
        assert said == [
            "content_image: enlarged from 64×48 to 80×60 px",
            "style_image: enlarged from 60×64 to 75×80 px",
        ]


class TestStart:
    def test_content(self, make_run):
        run = make_run()
        assert torch.equal(run.image, nst.load_image(run.content_image, 48))

    def test_noise_is_seeded(self, make_run):
        first, same, other = (make_run(start="noise", seed=seed).image for seed in (1, 1, 2))
        assert torch.equal(first, same)
        assert not torch.equal(first, other)
        assert abs(first.mean() - 0.5) < 0.02
        assert abs(first.std() - 12**-0.5) < 0.02

    def test_any_image(self, make_run, picture):
        image = picture(30, 80, seed=5)
        torch.testing.assert_close(make_run(start=image).image, resize(image, 36, 48))

    def test_recolored(self, make_run):
        run = make_run(start="recolored")
        content, style = nst.load_image(run.content_image, 48), run.regions[0].styles[0].image
        torch.testing.assert_close(run.image, nst.recolor(content, style))

    def test_gray(self, make_run):
        assert (make_run(start="gray").image == 0.5).all()

    def test_the_styles_colors(self, make_run):
        run = make_run(start="style_colors", seed=3, sizes=(64,))
        style, image = run.regions[0].styles[0].image, run.image
        torch.testing.assert_close(image.mean((2, 3)), style.mean((2, 3)), atol=0.02, rtol=0)
        covariances = [torch.cov(x[0].flatten(1)) for x in (image, style)]
        torch.testing.assert_close(*covariances, atol=5e-3, rtol=0)
        neighbors = torch.corrcoef(torch.stack([image[0, 0, :, 1:].flatten(), image[0, 0, :, :-1].flatten()]))
        assert neighbors[0, 1].abs() < 0.1  # noise
        assert not torch.equal(image, make_run(start="style_colors", seed=4, sizes=(64,)).image)

    @pytest.mark.parametrize("noise", [0.0, 0.3, 1.0])
    def test_a_blend_with_noise(self, make_run, noise):
        image = make_run(start="content", noise=noise, seed=5).image
        expected = (1 - noise) * make_run(start="content").image + noise * make_run(start="noise", seed=5).image
        torch.testing.assert_close(image, expected)

    def test_bad_noise(self, make_run):
        with pytest.raises(ValueError, match="noise: expected a finite number, from 0 to 1, got 2"):
            make_run(noise=2)

    @pytest.mark.parametrize("quality", QUALITIES)
    def test_quality_says_steps_and_start(self, make_run, quality):
        run = make_run(quality=quality, steps=None, start=None, sizes=(32, 40, 48))
        coarse, fine, start = QUALITIES[quality]
        assert run.settings.steps == (coarse, coarse, fine)
        torch.testing.assert_close(run.image, make_run(start=start, sizes=(32, 48)).image)
        assert make_run(quality=quality, sizes=(32, 48), steps=10).settings.steps == (4, 10)
        assert torch.equal(make_run(quality=quality, start="noise").image, make_run(start="noise").image)

    def test_bad_quality(self, make_run):
        with pytest.raises(ValueError, match="quality: expected one of draft, good, best, got 'ultra'"):
            make_run(quality="ultra")

    def test_bad_start(self, make_run):
        with pytest.raises(ValueError, match="start: expected one of content, recolored, noise"):
            make_run(start="style")


class TestEmaDecay:
    def test_is_the_weighted_mean_of_this_sizes_images(self, make_run):
        run = make_run(optimizer="adam", ema_decay=0.9, sizes=(32, 48), steps=(3, 5), start="noise")
        images = []
        while not run.done:
            run.step()
            images.append(run.image)
        images = [image for image in images if image.shape[3] == 48]
        shares = torch.tensor([0.1 * 0.9**age for age in reversed(range(5))])
        expected = sum(share * image for share, image in zip(shares, images, strict=True)) / shares.sum()
        torch.testing.assert_close(run.average, expected)

    def test_what_the_next_size_goes_on_from(self, make_run):
        run = make_run(optimizer="adam", ema_decay=0.9, sizes=(32, 48), steps=(4, 1))
        for _ in range(4):
            run.step()
        average = run.average
        first = run.step()
        torch.testing.assert_close(first.image, resize(average, 36, 48))

    def test_without_it_is_the_latest(self, make_run):
        run = make_run()
        list(run)
        assert torch.equal(run.average, run.image)

    def test_transfer_returns_it(self, vgg16, picture):
        images = picture(48, 64), picture(64, 60, 1)
        settings = {"network": vgg16, "sizes": (48,), "steps": 12, "optimizer": "adam", "ema_decay": 0.9}
        result, run = nst.transfer(*images, progress=False, **settings), nst.StyleTransfer(*images, **settings)
        list(run)
        assert torch.equal(result.image, run.average)
        assert result.loss == run.evaluate(run.average, run.settings).losses[0] != run.best_loss

    def test_bad_value(self, make_run):
        with pytest.raises(ValueError, match="ema_decay: expected a finite number, from 0 to 1, got 2"):
            make_run(ema_decay=2)


@pytest.mark.long
class TestBalance:
    @pytest.mark.parametrize("style_loss", ["gram", "wasserstein"])
    def test_is_the_ratio_of_the_gradients_at_noise(self, make_run, vgg16, style_loss):
        run = make_run(balance=0.25, alpha=3.0, style_loss=style_loss, engine="plain", seed=2)
        settings = run.settings
        white = torch.rand(1, 3, 36, 48, generator=torch.Generator().manual_seed(2))
        content, style = (
            run.evaluate(white, dataclasses.replace(settings, **{name: 0.0})).gradient.norm()
            for name in ("beta", "alpha")
        )
        assert style / content == pytest.approx(10, rel=1e-4)
        assert run.alpha == 3

    def test_more_is_more_stylized(self, make_run):
        runs = [make_run(balance=balance, steps=20) for balance in (0.0, 0.5, 1.0)]
        content = [list(run)[-1].content for run in runs]
        assert content[0] < content[1] < content[2]

    def test_one_number_for_every_style_loss(self, make_run):
        """A half leaves about as much of the content, whatever the loss; the same β does not."""

        def spread(**settings):
            losses = "gram", "mean_std", "nearest"
            content = [list(make_run(style_loss=loss, steps=20, **settings))[-1].content for loss in losses]
            return max(content) / min(content)

        assert spread(balance=0.5) < 0.5 * spread(beta=10.0)

    def test_is_read_and_set(self, make_run):
        run = make_run(balance=0.4, alpha=2.0, sizes=(32, 48), steps=(1, 3))
        assert run.balance == pytest.approx(0.4)
        run.step(), run.step()
        assert make_run(alpha=2.0, sizes=(32, 48), beta=run.beta).balance == pytest.approx(0.4)
        run.balance = 0.7
        assert run.beta == pytest.approx(run.alpha * run.balance_unit * 10**2.8)
        later = make_run(alpha=2.0, sizes=(32, 48), steps=(1, 3))
        later.step(), later.step()  # at the second size: the unit is that of the first
        assert later.balance_unit == run.balance_unit
        assert later.engine.low_precision == run.engine.low_precision

    def test_not_together_with_beta(self, make_run):
        with pytest.raises(ValueError, match="expected beta or balance, got both"):
            make_run(balance=0.5, beta=3.0)

    def test_bad_values(self, make_run):
        with pytest.raises(ValueError, match="balance: expected a finite number, from 0 to 1, got 2"):
            make_run(balance=2)
        with pytest.raises(ValueError, match="balance: expected an alpha above 0"):
            make_run(balance=0.5, alpha=0)


class TestKeepOptimizerState:
    def at_the_next_size(self, make_run, **settings):
        run = make_run(sizes=(32, 64), steps=(10, 3), start="noise", **settings)
        for _ in range(11):
            run.step()
        return run.state.optimizer

    def test_adams_memory(self, make_run):
        assert self.at_the_next_size(make_run, optimizer="adam").steps == 1
        adam = self.at_the_next_size(make_run, optimizer="adam", keep_optimizer_state=True)
        assert adam.steps == 11
        assert adam.mean.shape == (1, 3, 48, 64)
        assert len(self.at_the_next_size(make_run, keep_optimizer_state=True).pairs) <= 1  # L-BFGS begins anew

    def test_is_enlarged_in_proportion(self):
        """A gradient that stays the same keeps its steps: four times the pixels have each a quarter of it."""
        adam, gradient = Adam(), torch.tensor([2.0, -1.0, 0.5]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
        for _ in range(3):
            before = adam.direction(torch.zeros(1, 3, 8, 8), gradient)
        wide = gradient[..., :1, :1].expand(1, 3, 16, 16) / 4
        after = adam.resized(16, 16).direction(torch.zeros(1, 3, 16, 16), wide)
        torch.testing.assert_close(after, before[..., :1, :1].expand(1, 3, 16, 16))
        assert Adam().resized(4, 4).steps == 0


class TestBadInput:
    def test_images(self, vgg16, picture):
        good = picture()
        for bad in (picture()[0], picture().expand(2, -1, -1, -1), "photo.jpg", torch.zeros(1, 1, 32, 32)):
            with pytest.raises(ValueError, match="content_image: expected a tensor"):
                nst.StyleTransfer(bad, good, network=vgg16)
            with pytest.raises(ValueError, match="style_image: expected a tensor"):
                nst.StyleTransfer(good, bad, network=vgg16)
        with pytest.raises(ValueError, match=r"style_image: expected values .* normalized already"):
            nst.StyleTransfer(good, nst.preprocess(good), network=vgg16)

    def test_names(self, make_run):
        with pytest.raises(ValueError, match="optimizer: expected one of lbfgs, adam, got 'sgd'"):
            make_run(optimizer="sgd")
        with pytest.raises(ValueError, match="got 'conv4_9'"):
            make_run(content_weights={"conv4_9": 1})
        with pytest.raises(ValueError, match="got 'conv1_9'"):
            make_run(style_weights={"conv1_9": 1.0})


@pytest.mark.long
class TestSteadiness:
    @pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
    def test_a_run_repeats_bit_by_bit(self, make_run, optimizer):
        first, second = (make_run(start="noise", steps=6, optimizer=optimizer) for _ in range(2))
        assert list(first) == list(second)
        assert torch.equal(first.image, second.image)

    @pytest.mark.parametrize("start", ["content", "noise"])
    @pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
    def test_the_loss_falls(self, make_run, optimizer, start):
        records = list(make_run(optimizer=optimizer, start=start, steps=40))
        assert records[-1].total < 0.35 * records[0].total

    @pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
    def test_the_image_stays_in_range(self, make_run, optimizer):
        for record in make_run(optimizer=optimizer, start="noise", steps=8, beta=1e4):
            assert record.image.min() >= 0
            assert record.image.max() <= 1

    @pytest.mark.parametrize("what", ["loss", "gradient"])
    def test_nan_never_reaches_the_caller(self, make_run, monkeypatch, what):
        run = make_run(steps=12)
        evaluate = run.evaluate
        calls = []

        def sometimes_nan(image, settings):
            evaluation = evaluate(image, settings)
            calls.append(1)
            if len(calls) not in (4, 5):
                return evaluation
            if what == "loss":
                return Evaluation(image, (math.nan,) * 4, evaluation.gradient)
            return Evaluation(image, evaluation.losses, evaluation.gradient * math.inf)

        monkeypatch.setattr(run, "evaluate", sometimes_nan)
        records = list(run)
        assert len(records) == len(calls) == 12
        assert [record.step for record in records if record.rolled_back] == [4, 5]
        for record in records:
            assert math.isfinite(record.total)
            assert record.image.isfinite().all()
        best_before = min(records[:3], key=lambda record: record.total)
        assert records[3].total == best_before.total
        assert torch.equal(records[3].image, best_before.image)
        assert records[-1].total < best_before.total
        assert run.image.isfinite().all()

    @pytest.mark.parametrize("settings", [{"learning_rate": 1e30}, {"learning_rate": 50, "optimizer": "adam"}])
    def test_a_step_too_large_is_taken_back(self, make_run, settings):
        run = make_run(steps=12, **settings)
        records = list(run)
        assert any(record.rolled_back for record in records)
        assert all(record.total <= JUMP * records[0].total for record in records)
        assert run.best_loss <= records[0].total

    def test_nothing_to_go_back_to(self, make_run):
        run = make_run(beta=1e38)
        with pytest.raises(FloatingPointError, match=r"not finite at the start.*beta=1e\+38"):
            run.step()
        run.beta = 10
        assert math.isfinite(run.step().total)

    def test_beta_raised_too_far_while_running(self, make_run):
        run = make_run(steps=9)
        run.step(), run.step()
        run.beta = 1e38
        with pytest.raises(FloatingPointError):
            run.step()
        assert run.image.isfinite().all()

    def test_no_style_leaves_the_photograph(self, make_run):
        run = make_run(beta=0)
        list(run)
        torch.testing.assert_close(run.best, nst.load_image(run.content_image, 48))

    def test_state_is_plain_data(self, make_run):
        """A run whose state is copied and put back makes the same steps: what resuming will stand on."""
        run = make_run(steps=8)
        for _ in range(4):
            run.step()
        state = pickle.loads(pickle.dumps(run.state))
        expected = list(run)
        resumed = make_run(steps=8)
        resumed.state = copy.deepcopy(state)
        assert list(resumed) == expected


class TestTransfer:
    def transfer(self, network, picture, **settings):
        return nst.transfer(picture(48, 64), picture(64, 60, seed=1), network=network, **settings)

    def test_returns_the_best_image_and_its_story(self, vgg16, picture, capsys):
        result = self.transfer(vgg16, picture, sizes=(32, 48), steps=6)
        assert result.image.shape == (1, 3, 36, 48)
        assert [record.size for record in result.history] == [32] * 2 + [48] * 6
        assert result.loss == min(record.total for record in result.history if record.size == 48)
        assert (result.network, result.sizes, result.interrupted) == ("vgg16", (32, 48), False)
        assert result.seconds > 0
        said = capsys.readouterr().out
        assert said.startswith("Painting on ")
        assert "with VGG-16, as requested. Steps: 2 at 32 px, 6 at 48 px." in said

    def test_reports(self, vgg16, picture, capsys):
        result = self.transfer(vgg16, picture, sizes=(48,), steps=7, report_every=3, progress=False)
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(":")[0] for line in lines] == ["step 3 (48 px)", "step 6 (48 px)"]
        assert f"total {result.history[5].total:.4g}" in lines[1]

    @pytest.mark.long
    def test_progress_bar(self, vgg16, picture, capsys):
        self.transfer(vgg16, picture, sizes=(48,), steps=40, progress=True)
        captured = capsys.readouterr()
        assert re.search(r"[1-9]\d*/40 .*step/s, 48 px, loss", captured.out)
        assert captured.out.splitlines()[-1].strip() == ""  # erased at the end
        assert captured.err == ""
        self.transfer(vgg16, picture, sizes=(48,), steps=3)
        assert "3/3" not in capsys.readouterr().out  # nobody to see it

    def test_a_keyboard_interrupt_returns_the_best_image_so_far(self, vgg16, picture, monkeypatch):
        evaluate = nst.StyleTransfer.evaluate
        calls = []

        def interrupted(self, image, settings):
            calls.append(1)
            if len(calls) == 5:
                signal.default_int_handler(signal.SIGINT, None)  # as Python does, unless it was started without
            return evaluate(self, image, settings)

        monkeypatch.setattr(nst.StyleTransfer, "evaluate", interrupted)
        result = self.transfer(vgg16, picture, sizes=(48,), steps=50, progress=False)
        assert result.interrupted
        assert len(result.history) == 4
        assert result.loss == min(record.total for record in result.history)

    def test_a_batch_of_settings_reaches_the_run(self, vgg16, picture):
        with pytest.raises(TypeError, match=r"unknown setting 'iterations' .did you mean 'steps'"):
            self.transfer(vgg16, picture, iterations=5)


class TestDevice:
    def test_choice(self, monkeypatch):
        for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
            monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
            monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
            assert vgg.pick_device().type == expected

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_cuda(self, picture):
        result = nst.transfer(picture(48, 64), picture(64, 60), network="vgg16", sizes=(48,), steps=20)
        assert result.device == "cuda"
        assert result.image.device.type == "cpu"
        assert result.loss < 0.5 * result.history[0].total
