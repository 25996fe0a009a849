import dataclasses
import math
import re
import signal

import pytest
import torch
from oracles import plain_losses

import nst_helpers as nst
from nst_helpers import vgg
from nst_helpers.engine import memory, pick_engine
from nst_helpers.state import JUMP


class TestStep:
    def test_losses_and_gradient_are_the_formulas(self, make_run, vgg):
        run = make_run(alpha=2.0, beta=3.0, tv_weight=0.7, start="noise", style_loss="gram", engine="plain")
        record = run.step()
        images = run.content_image, run.regions[0].styles[0].image
        content, style = (nst.load_image(image, 48) for image in images)
        image = record.image.requires_grad_()
        expected = plain_losses(image, content, style, vgg, 2.0, 3.0, 0.7)
        found = (record.total, record.content, record.style, record.total_variation)
        torch.testing.assert_close(torch.tensor(found), torch.stack(expected).detach(), rtol=1e-5, atol=0)
        gradient = torch.autograd.grad(expected[0], image)[0]
        torch.testing.assert_close(
            run.state.best.gradient, gradient, rtol=1e-3, atol=1e-4 * gradient.abs().max().item()
        )

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


@pytest.mark.long
class TestBalance:
    @pytest.mark.parametrize("style_loss", ["gram", "wasserstein"])
    def test_is_the_ratio_of_the_gradients_at_noise(self, make_run, vgg, style_loss):
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
        """A half leaves about as much of the content, whatever the loss; the same β only if losses are relative."""

        def spread(**settings):
            losses = "gram", "mean_std", "nearest"
            content = [list(make_run(style_loss=loss, steps=20, **settings))[-1].content for loss in losses]
            return max(content) / min(content)

        not_relative = spread(beta=10.0, relative_losses=False)
        assert spread(balance=0.5, relative_losses=False) < 0.5 * not_relative
        assert spread(beta=50.0) < 0.5 * not_relative

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
        assert self.at_the_next_size(make_run, keep_optimizer_state=True).number_of_pairs <= 1  # L-BFGS begins anew


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
                return evaluation._replace(values=evaluation.values * math.nan)
            return evaluation._replace(gradient=evaluation.gradient * math.inf)

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
        run = make_run(beta=1e40)
        with pytest.raises(FloatingPointError, match=r"not finite at the start.*beta=1e\+40"):
            run.step()
        run.beta = 10
        assert math.isfinite(run.step().total)

    def test_beta_raised_too_far_while_running(self, make_run):
        run = make_run(steps=9)
        run.step(), run.step()
        run.beta = 1e40
        with pytest.raises(FloatingPointError):
            run.step()
        assert run.image.isfinite().all()

    def test_no_style_leaves_the_photograph(self, make_run):
        run = make_run(beta=0)
        list(run)
        torch.testing.assert_close(run.best, nst.load_image(run.content_image, 48))


class TestTransfer:
    def transfer(self, network, picture, **settings):
        return nst.transfer(picture(48, 64), picture(64, 60, seed=1), network=network, **settings)

    def test_returns_the_best_image_and_its_story(self, vgg, picture, capsys):
        result = self.transfer(vgg, picture, sizes=(32, 48), steps=6)
        assert result.image.shape == (1, 3, 36, 48)
        assert [record.size for record in result.history] == [32] * 2 + [48] * 6
        assert result.loss == min(record.total for record in result.history if record.size == 48)
        assert (result.network, result.sizes, result.interrupted) == ("vgg19", (32, 48), False)
        assert result.seconds > 0
        said = capsys.readouterr().out
        assert said.startswith("Painting on ")
        assert f"with {vgg.note}. Steps: 2 at 32 px, 6 at 48 px." in said

    def test_reports(self, vgg, picture, capsys):
        result = self.transfer(vgg, picture, sizes=(48,), steps=7, report_every=3, progress=False)
        lines = capsys.readouterr().out.splitlines()
        assert [line.split(":")[0] for line in lines] == ["step 3 (48 px)", "step 6 (48 px)"]
        assert f"total {result.history[5].total:.4g}" in lines[1]

    @pytest.mark.long
    def test_progress_bar(self, vgg, picture, capsys):
        self.transfer(vgg, picture, sizes=(48,), steps=40, progress=True)
        captured = capsys.readouterr()
        assert re.search(r"[1-9]\d*/40 .*step/s, 48 px, loss", captured.out)
        assert captured.out.splitlines()[-1].strip() == ""  # erased at the end
        assert captured.err == ""
        self.transfer(vgg, picture, sizes=(48,), steps=3)
        assert "3/3" not in capsys.readouterr().out  # nobody to see it

    def test_a_keyboard_interrupt_returns_the_best_image_so_far(self, vgg, picture, monkeypatch):
        evaluate = nst.StyleTransfer.evaluate
        calls = []

        def interrupted(self, image, settings):
            calls.append(1)
            if len(calls) == 5:
                signal.default_int_handler(signal.SIGINT, None)  # as Python does, unless it was started without
            return evaluate(self, image, settings)

        monkeypatch.setattr(nst.StyleTransfer, "evaluate", interrupted)
        result = self.transfer(vgg, picture, sizes=(48,), steps=50, progress=False)
        assert result.interrupted
        assert len(result.history) == 4
        assert result.loss == min(record.total for record in result.history)

    def test_a_batch_of_settings_reaches_the_run(self, vgg, picture):
        with pytest.raises(TypeError, match=r"unknown setting 'iterations' .did you mean 'steps'"):
            self.transfer(vgg, picture, iterations=5)


class TestDevice:
    def test_choice(self, monkeypatch):
        for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
            monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
            monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
            assert vgg.pick_device().type == expected

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_cuda(self, picture):
        result = nst.transfer(picture(48, 64), picture(64, 60), sizes=(48,), steps=20)
        assert result.device == "cuda"
        assert result.image.device.type == "cpu"
        assert result.loss < 0.5 * result.history[0].total


class TestMemory:
    """A GPU that has enough memory for 40 px, pretended."""

    @pytest.fixture
    def make(self, vgg, picture, monkeypatch):
        def make(**settings):
            chosen = pick_engine(vgg, "direct")
            forward = chosen.forward

            def limited(image, request):
                if image.shape[3] > 40:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return forward(image, request)

            chosen.forward = limited
            monkeypatch.setattr(memory, "SMALL", 32)
            monkeypatch.setattr(memory, "largest_size", lambda try_at, tried, device: try_at(32) or 40)
            return nst.StyleTransfer(picture(60, 80), picture(80, 80, 1), network=vgg, engine=chosen, **settings)

        return make

    def test_the_message_names_the_largest_size(self, make):
        run = make(sizes=(32, 64), steps=(2, 3))
        run.step(), run.step()
        image = run.image
        with pytest.raises(torch.OutOfMemoryError, match=r"64 px do not fit .* 40 px: pass sizes=\(40,\), or fit=True"):
            run.step()
        assert torch.equal(run.image, image)  # nothing is lost

    def test_the_run_goes_on_if_asked(self, make):
        run = make(sizes=(32, 64, 80), steps=(2, 3, 4), fit=True)
        with pytest.warns(UserWarning, match=r"64 px do not fit .*: painting at 40 px"):
            records = list(run)
        assert [record.size for record in records] == [32, 32, 40, 40, 40]
        assert run.settings.sizes == (32, 40)
        assert records[-1].total < records[2].total

    def test_a_single_size(self, make):
        with pytest.raises(torch.OutOfMemoryError, match=r"64 px do not fit .* 40 px"):
            make(sizes=(64,), steps=2)
        with pytest.warns(UserWarning, match=r"64 px do not fit .*: painting at 40 px"):
            run = make(sizes=(64,), steps=2, fit=True)
        assert [record.size for record in run] == [40, 40]

    def test_memory_is_proportional_to_the_pixels(self, monkeypatch):
        """256 px take 1 GB, 3 GB are free beside the 2 GB that are in use: 256 · √(0.9 · 3) = 420 px."""
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2e9)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3e9)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3e9, 8e9))
        tried = []
        assert memory.largest_size(tried.append, 2048, torch.device("cuda")) == 416
        assert tried == [256]
        assert memory.largest_size(tried.append, 300, torch.device("cuda")) == 288
