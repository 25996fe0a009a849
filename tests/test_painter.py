"""The painter: a run in a thread, with a queue of commands."""

import gc
import threading
import time
import weakref

import pytest
import torch

import nst_helpers as nst
from nst_helpers.widgets import painter as painters
from nst_helpers.widgets.painter import Painter

pytestmark = pytest.mark.long


@pytest.fixture
def painter(images, vgg):
    painter = Painter(*images, network=vgg)
    yield painter
    painter.close()


class TestPainter:
    def test_paints(self, painter):
        assert painter.state == "idle"
        painter.paint((32, 64), (2, 3), "content")
        painter.wait(60)
        assert (painter.state, painter.history.steps, painter.run.done) == ("done", 5, True)
        assert painter.seconds_a_step > 0

    def test_steering_acts_from_the_next_step(self, painter):
        painter.paint((64,), 500, "content")
        while painter.history.steps < 3:
            time.sleep(0.01)
        painter.steer(beta=77.0)
        assert painter.run.beta == 77
        steps = painter.history.steps
        while painter.history.steps < steps + 2:
            time.sleep(0.01)
        painter.pause()
        painter.wait(60)
        assert painter.history.segments[0].changes[-1][1] == {"beta": 77.0}
        painter.step()
        painter.wait(60)
        assert painter.run.state.settings.beta == 77

    def test_a_gesture_is_one_annotation(self, painter, monkeypatch):
        monkeypatch.setattr(painters, "GESTURE", 60)
        painter.paint((64,), 500, "content")
        while painter.history.steps < 3:
            time.sleep(0.01)
        for gesture in ({"beta": 20.0}, {"alpha": 3.0}, {"beta": 50.0}):
            (name, value), steps = *gesture.items(), painter.history.steps
            for part in (0.6, 0.7, 1):
                painter.steer(**{name: value * part})
                while painter.history.steps < steps + 2:
                    time.sleep(0.01)
                steps = painter.history.steps
        monkeypatch.setattr(painters, "GESTURE", 0)
        painter.steer(beta=70.0)
        while painter.history.steps < steps + 40 and len(painter.history.annotations) < 5:
            time.sleep(0.01)
        assert [note.text for note in painter.history.annotations] == ["64 px", "β 20", "α 3", "β 50", "β 70"]
        changes = [change for _, change in painter.history.segments[0].changes]
        assert changes[1:] == [
            *({"beta": value} for value in (12.0, 14.0, 20.0)),
            *({"alpha": value} for value in (3 * 0.6, 3 * 0.7, 3.0)),
            *({"beta": value} for value in (30.0, 35.0, 50.0, 70.0)),
        ]

    def test_steering_outlives_the_run(self, painter):
        painter.steer(alpha=3.0, optimizer="adam", learning_rate=0.005)
        painter.paint((64,), 1, "content")
        painter.wait(60)
        assert (painter.run.alpha, painter.run.optimizer, painter.run.learning_rate) == (3, "adam", 0.005)
        painter.steer(optimizer="lbfgs")
        painter.paint((64,), 1, "content")
        painter.wait(60)
        assert (painter.run.optimizer, painter.run.learning_rate) == ("lbfgs", 1)

    def test_steering_after_the_end_paints_on(self, painter):
        painter.paint((64,), 2, "content")
        painter.wait(60)
        painter.steer(beta=20.0)
        painter.wait(60)
        assert painter.history.steps == 2 + painters.EXTRA_STEPS

    @pytest.mark.parametrize("controls", [{"beta": -1}, {"optimizer": "sgd"}, {"size": 3}])
    def test_nonsense_changes_nothing(self, painter, controls):
        painter.paint((64,), 1, "content")
        painter.wait(60)
        with pytest.raises(ValueError, match=r"finite number|one of|settings that can change"):
            painter.steer(**controls)
        with pytest.raises(ValueError, match=r"finite number|one of|settings that can change"):
            painter.steer(alpha=5.0, **controls)
        assert painter.run.alpha == 1
        assert painter.settings == {}
        assert painter.history.steps == 1

    def test_pause_step_resume_stop(self, painter):
        painter.paint((64,), 30, "content")
        painter.pause()
        painter.wait(60)
        steps = painter.history.steps
        time.sleep(0.3)
        assert (painter.state, painter.history.steps) == ("paused", steps)
        painter.step()
        painter.wait(60)
        assert (painter.state, painter.history.steps) == ("paused", steps + 1)
        painter.resume()
        painter.stop()
        painter.wait(60)
        assert painter.state == "stopped"
        assert painter.history.steps < 30
        painter.resume()  # a painting that was stopped has ended
        painter.wait(60)
        assert painter.state == "stopped"

    def test_start_goes_on_with_what_is_paused(self, painter):
        painter.start((64,), 10, "content")
        painter.pause()
        painter.wait(60)
        run = painter.run
        painter.start((32,), 3, "noise")
        painter.wait(60)
        assert painter.run is run
        assert painter.history.steps == 10
        painter.start((32,), 3, "noise")
        painter.wait(60)
        assert painter.history.steps == 3

    def test_back(self, painter):
        painter.paint((32, 64), (4, 4), "content")
        painter.wait(60)
        snapshot = painter.history.snapshots[2]
        painter.back(snapshot, 10)
        painter.wait(60)
        assert (painter.state, painter.history.latest, painter.history.steps) == ("paused", snapshot, 3)
        painter.step()
        painter.wait(60)
        assert (painter.history.latest.size, painter.history.steps) == (32, 4)

    def test_other_size_and_start_on_the_way(self, painter):
        painter.paint((32,), 3, "content")
        painter.wait(60)
        painter.continue_at(64, 4)
        painter.wait(60)
        assert (painter.history.latest.size, painter.history.steps) == (64, 7)
        painter.continue_at(None, 1, "noise")
        painter.wait(60)
        assert (painter.history.latest.size, painter.history.steps) == (64, 8)
        noise = nst.StyleTransfer(
            painter.content_image, painter.style_image, network=painter.network, sizes=(64,), start="noise"
        )
        assert torch.equal(painter.history.latest.image, noise.image)

    def test_errors_are_kept_and_raised(self, painter):
        painter.paint((64,), 3, "nowhere")
        with pytest.raises(ValueError, match="start: expected one of content"):
            painter.wait(60)
        assert painter.state == "failed"
        assert "Traceback" in painter.failure
        painter.paint((64,), 3, "content")
        painter.wait(60)
        assert (painter.state, painter.failure) == ("done", "")

    def test_timeout_and_interrupt(self, painter, monkeypatch):
        painter.paint((64,), 2000, "content")
        with pytest.raises(TimeoutError, match="still painting"):
            painter.wait(0.1)

        def interrupted(timeout):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(painter._at_rest, "wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                painter.wait()
        painter.wait(60)
        assert painter.state == "stopped"

    def test_the_thread_ends(self, images, vgg):
        others = set(threading.enumerate())
        left, closed = Painter(*images, network=vgg), Painter(*images, network=vgg)
        left.paint((64,), 5000, "content")
        weak = weakref.ref(left)
        closed.close()
        del left
        gc.collect()

        def painters():
            return [thread for thread in set(threading.enumerate()) - others if thread.name == "painter"]

        deadline = time.monotonic() + 10
        while (weak() or painters()) and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.05)
        assert weak() is None
        assert not painters()
