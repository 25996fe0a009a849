"""Records, history, the moving average, and the state as plain data."""

import copy
import pickle

import pytest
import torch

import nst_helpers as nst
from nst_helpers.images import resize


class TestRecord:
    def test_the_record_is_of_the_image_before_the_update(self, make_run):
        run = make_run()
        before = run.image
        record = run.step()
        assert torch.equal(record.image, before)
        assert record.content == 0
        assert not torch.equal(run.image, before)
        assert (record.step, record.size_step, record.size) == (1, 1, 48)
        assert (record.settings.alpha, record.settings.beta) == (1.0, 25.0)
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


class TestState:
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

    @pytest.mark.parametrize("start", ["content", "gray", None])
    def test_the_pictures_are_left_as_they_are(self, vgg, picture, start):
        """Steps change the image in place, which must not be the one that was passed, nor the content image."""
        content, style, own = picture(48, 64), picture(64, 60, 1), picture(48, 64, 2)
        run = nst.StyleTransfer(content, style, network=vgg, sizes=(64,), steps=8, start=start or own)
        run.engine.low_precision_steps = 4  # then the targets are computed again
        before = [image.clone() for image in (content, style, own, run._objective.content_image)]
        list(run)
        for image, same in zip((content, style, own, run._objective.content_image), before, strict=True):
            assert torch.equal(image, same)


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

    def test_transfer_returns_it(self, vgg, picture):
        images = picture(48, 64), picture(64, 60, 1)
        settings = {"network": vgg, "sizes": (48,), "steps": 12, "optimizer": "adam", "ema_decay": 0.9}
        result, run = nst.transfer(*images, progress=False, **settings), nst.StyleTransfer(*images, **settings)
        list(run)
        assert torch.equal(result.image, run.average)
        assert result.loss == run.evaluate(run.average, run.settings).losses[0] != run.best_loss

    def test_bad_value(self, make_run):
        with pytest.raises(ValueError, match="ema_decay: expected a finite number, from 0 to 1, got 2"):
            make_run(ema_decay=2)
