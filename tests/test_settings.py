"""Settings: read at each step, frozen, validated, documented."""

import dataclasses
import inspect
import math
import pydoc
import re
import threading

import pytest
import torch

import nst_helpers as nst
from nst_helpers.engine import pick_engine
from nst_helpers.optimizers import Adam
from nst_helpers.settings import STEERABLE, Settings


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
        assert run.state.optimizer.number_of_pairs > 0
        for name, value in change.items():
            setattr(run, name, value)
        record = run.step()
        assert run.state.optimizer.number_of_pairs == 0
        assert run.best_loss == record.total
        assert torch.equal(run.best, record.image)

    def test_setting_the_same_value_changes_nothing(self, make_run):
        run, same = make_run(), make_run()
        for _ in range(4):
            same.beta, same.style_weights = 25, nst.STYLE_WEIGHTS
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
    def test_settings_describe_it_completely(self, make_run, vgg):
        run = make_run(steps=7, sizes=(24, 48), beta=3, style_loss="mean_std", seed=4, engine="direct", start="noise")
        settings = run.settings
        assert (settings.network, settings.pooling, settings.padding) == ("vgg19", "max", "zeros")
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
        assert (before.beta, run.settings.beta) == (25, 3)
        run.settings = dataclasses.replace(run.settings, alpha=2.0, tv_weight=1.0)
        assert (run.alpha, run.beta, run.tv_weight) == (2, 3, 1)
        assert hash(run.settings) != hash(before)

    @pytest.mark.parametrize("bad", [{"beta": -1}, {"optimizer": "sgd"}, {"sizes": (32,)}, {"seed": 3}])
    def test_all_are_taken_or_none(self, make_run, bad):
        run = make_run()
        before = run.settings
        with pytest.raises(ValueError, match=r"finite number|one of|settings that can change"):
            run.steer(alpha=5.0, **bad)
        with pytest.raises(ValueError, match=r"finite number|one of|settings that can change"):
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

    def test_the_choices_of_a_network_belong_to_it(self, make_run, vgg):
        assert make_run(pooling="max").network is vgg
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

    def test_an_engine_may_be_given(self, make_run, vgg):
        engine = pick_engine(vgg, "direct", "float32")
        run = make_run(engine=engine)
        assert run.engine is engine
        assert list(run) == list(make_run(engine="direct", precision="float32"))
        with pytest.raises(ValueError, match="Engine of this run's network"):
            make_run(engine=pick_engine(nst.VGG("vgg19"), "plain"))


class TestBadInput:
    def test_images(self, vgg, picture):
        good = picture()
        for bad in (picture()[0], picture().expand(2, -1, -1, -1), "photo.jpg", torch.zeros(1, 1, 32, 32)):
            with pytest.raises(ValueError, match="content_image: expected a tensor"):
                nst.StyleTransfer(bad, good, network=vgg)
            with pytest.raises(ValueError, match="style_image: expected a tensor"):
                nst.StyleTransfer(good, bad, network=vgg)
        with pytest.raises(ValueError, match=r"style_image: expected values .* normalized already"):
            nst.StyleTransfer(good, nst.preprocess(good), network=vgg)

    def test_names(self, make_run):
        with pytest.raises(ValueError, match="optimizer: expected one of lbfgs, adam, got 'sgd'"):
            make_run(optimizer="sgd")
        with pytest.raises(ValueError, match="got 'conv4_9'"):
            make_run(content_weights={"conv4_9": 1})
        with pytest.raises(ValueError, match="got 'conv1_9'"):
            make_run(style_weights={"conv1_9": 1.0})
