"""The playground without a page; `test_browser` has the pages."""

import contextlib
import dataclasses
import datetime
import gc
import io
import subprocess
import sys
import threading
import time
import weakref

import ipywidgets as W
import pytest
import torch
from conftest import ROOT
from jupyter_client.manager import start_new_kernel
from traitlets import TraitError

import nst_helpers as nst
from nst_helpers.losses.style import STYLE_LOSSES
from nst_helpers.optimizers import OPTIMIZERS
from nst_helpers.widgets import Playground, controls
from nst_helpers.widgets import painter as painters
from nst_helpers.widgets import playground as widgets
from nst_helpers.widgets.controls import CONTROLS
from nst_helpers.widgets.painter import Painter

pytestmark = pytest.mark.long

NOW = datetime.datetime.now(datetime.UTC)  # of uploads


@pytest.fixture
def images(picture):
    return picture(48, 64), picture(64, 64, seed=1)


@pytest.fixture
def painter(images, vgg16):
    painter = Painter(*images, network=vgg16)
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

    def test_a_gesture_is_one_annotation(self, painter):
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
        time.sleep(painters.GESTURE + 0.1)
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
        with pytest.raises(ValueError, match=r"finite number|one of|expected some of alpha"):
            painter.steer(**controls)
        with pytest.raises(ValueError, match=r"finite number|one of|expected some of alpha"):
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

    def test_the_thread_ends(self, images, vgg16):
        others = set(threading.enumerate())
        left, closed = Painter(*images, network=vgg16), Painter(*images, network=vgg16)
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


@pytest.fixture
def brief(monkeypatch):
    """Paintings of few steps."""
    monkeypatch.setattr(widgets, "SKETCH_STEPS", 4)
    monkeypatch.setattr(painters, "EXTRA_STEPS", 3)


@pytest.fixture
def playground(images, vgg16, tmp_path, monkeypatch):
    monkeypatch.setattr(widgets, "PROJECT", tmp_path)
    monkeypatch.chdir(tmp_path)
    playground = Playground(*images, size=64, steps=6, network=vgg16)
    yield playground
    playground.close()


def walk(widget):
    """Yield the children of a box, those of its boxes, and so on."""
    if children := getattr(widget, "children", ()):
        yield children
        for child in children:
            yield from walk(child)


def settled(playground):
    playground.wait(block=True, timeout=60)
    return playground


class TestPlayground:
    def test_begins_with_a_sketch(self, playground):
        figure = playground.wait(block=True, timeout=60)
        assert len(figure.axes) == 3
        assert (playground.steps_made, playground.painter.state) == (widgets.SKETCH_STEPS, "done")
        assert "data:image/jpeg" in playground.panel.views["output"].value
        assert 'alt="Output: step 25, 64 px, loss' in playground.panel.views["output"].value
        assert "<polyline" in playground.panel.chart.value
        assert "s a step" in playground.panel.status.value

    def test_without_a_kernel_nobody_can_steer(self, playground):
        assert playground.wait(timeout=60) is not None

    def test_sliders(self, playground):
        panel, run = settled(playground).panel, playground.painter.run
        panel.controls["beta"].value = 123
        assert run.beta == 123
        assert panel.stylized.value == pytest.approx(run.balance, abs=0.005)  # on its grid
        panel.stylized.value = 0.25
        assert (run.alpha, run.balance) == (1, pytest.approx(0.25))
        panel.controls["tv_weight"].value = 7
        panel.controls["relu2_1"].value = 3.5
        assert (run.tv_weight, run.style_weights["relu2_1"]) == (7, 3.5)
        panel.controls["learning_rate"].value = 0.5
        panel.controls["optimizer"].value = "adam"
        assert (run.optimizer, run.learning_rate) == ("adam", 0.01)
        settled(playground)
        assert run.state.settings == run.settings

    @pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.key)
    def test_every_control_reaches_all(self, brief, playground, images, control):
        """The widgets, the model, the run, the chart and the code."""
        panel, run = settled(playground).panel, playground.painter.run
        value = "adam" if control.scale == "choice" else 0.3
        panel.controls[control.key].value = value
        assert panel.model.values[control.key] == value
        settled(playground)
        default = OPTIMIZERS[run.optimizer].learning_rate
        expected = value * default if control.name == "learning_rate" else value
        assert control.part(getattr(run, control.name)) == expected
        assert control.part(playground.painter.settings[control.name]) == expected
        assert playground.painter.history.annotations[-1].text == control.text(expected)
        names = {"content_image": images[0], "style_image": images[1]}
        exec(playground.show_code(), names)
        assert control.part(getattr(names["run"], control.name)) == expected
        assert torch.equal(names["image"], playground.shown.image)

    def test_controls_that_show_one_value(self, playground):
        panel = settled(playground).panel
        number = panel.controls["beta"]
        (slider,) = (
            widget for row in walk(panel.box) if number in row for widget in row if isinstance(widget, W.FloatSlider)
        )
        slider.value = 1.5
        assert (number.value, panel.model.values["beta"]) == (31.6, 10**1.5)
        number.value = 12345.6789  # typed, it stays as it is
        assert slider.value == pytest.approx(4.1)
        panel.stylized.value = 0.37
        panel.controls["alpha"].value = 20
        assert panel.stylized.value == pytest.approx(0.04)  # β as it was
        assert panel.model.values["beta"] == pytest.approx(10 ** (4 * 0.37) * playground.painter.run.balance_unit)
        number.value = float("nan")
        assert panel.model.values["beta"] == playground.painter.run.beta == 1e-4

    def test_what_the_page_shows_is_repeated_where_messages_cross(self, playground, monkeypatch):
        panel, sent = settled(playground).panel, []
        monkeypatch.setattr(W.FloatSlider, "send_state", lambda widget, key=None: sent.append((widget, key)))
        monkeypatch.setattr(controls, "REST", 0.05)
        playground._refresh_at_leisure()
        panel.controls["tv_weight"].value = 3  # nobody else writes to this slider
        time.sleep(0.1)
        assert panel.model.settle()
        sent.clear()
        panel.controls["beta"].value = 20  # and so "How stylized" is written to, while it is moved:
        panel.stylized.value = 0.5
        time.sleep(0.1)
        sent.clear()
        assert panel.model.settle()
        assert sent == [(panel.stylized, "value")]

    def test_threads_do_not_disturb_one_another(self, playground):
        panel = settled(playground).panel

        def turn(widget, values):
            for value in values:
                widget.value = value

        turns = [(panel.stylized, [n / 100 for n in range(100)]), (panel.controls["alpha"], range(1, 100))]
        threads = [threading.Thread(target=turn, args=arguments) for arguments in turns]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        time.sleep(controls.REST + 0.1)
        while not panel.model.settle():
            time.sleep(0.05)
        values = panel.model.values
        run = playground.painter.run
        assert (run.alpha, run.beta) == (values["alpha"], values["beta"])
        balance = controls.balance_of(values["alpha"], values["beta"], panel.model.unit)
        assert panel.stylized.value == pytest.approx(balance, abs=0.0051)
        assert panel.controls["alpha"].value == pytest.approx(values["alpha"], rel=0.005)

    def test_render_and_size_and_start(self, playground):
        playground.render()
        settled(playground)
        assert playground.painter.run.settings.sizes == (64,)
        playground.panel.size.value = 128
        settled(playground)
        assert playground.shown.size == 128
        assert "style_image: enlarged from 64×64 to 128×128 px" in playground.panel.messages.value
        playground.panel.start_choice.value = "content"
        settled(playground)
        assert playground.painter.history.segments[-1].start == "content"

    def test_timeline_and_back(self, playground):
        settled(playground)
        playground.panel.timeline.value = 4
        assert playground.shown.step == 5
        playground.step()  # meanwhile the timeline stays under the reader's hand, and then grows
        settled(playground)
        assert (playground.panel.timeline.value, playground.panel.timeline.max) == (4, 25)
        time.sleep(controls.REST + 0.5)
        assert (playground.panel.timeline.value, playground.panel.timeline.max) == (4, 26)
        settled(playground)
        assert "step 5" in playground.panel.views["output"].value
        playground.back()
        settled(playground)
        assert playground.steps_made == 5
        playground.step()
        assert settled(playground).steps_made == 6
        playground.reset()
        settled(playground)
        assert playground.shown is None
        assert "not begun" in playground.panel.views["output"].value

    def test_wipe_and_zoom(self, playground):
        settled(playground)
        seen = playground.panel.views["output"].value, playground.panel.views["content"].value
        playground.panel.wipe.value = 0.5
        settled(playground)
        assert playground.panel.views["output"].value != seen[0]
        half = playground._wiped(playground.shown)
        assert torch.equal(half[..., 32:], playground.shown.image[..., 32:])
        assert (half[..., :32] - playground._images["content"][..., :32]).abs().max() < 1e-6
        playground.panel.zoom.value = 4
        settled(playground)
        assert playground.panel.views["content"].value != seen[1]

    def test_other_pictures(self, playground, picture, tmp_path):
        settled(playground)
        nst.save_image(picture(64, 48, seed=5), tmp_path / "mine.png")
        playground.panel.addresses["content"].value = str(tmp_path / "mine.png")
        time.sleep(0.5)
        settled(playground)
        assert playground.shown.image.shape == (1, 3, 64, 48)
        file = io.BytesIO()
        nst.to_pil(picture(32, 64, seed=6)).save(file, "PNG")
        playground._take("style", file.getvalue(), "uploaded.png")
        settled(playground)
        assert playground.painter.style_image.shape == (1, 3, 32, 64)
        assert "uploaded" in playground.panel.views["style"].value

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "the file is empty"),
            (b"no picture", "expected an image"),
            (bytes(8_000_000), "expected at most 7 MB, got 8.0 MB"),
            (None, "expected at most 0.001 megapixels"),
        ],
    )
    def test_bad_uploads_are_told_and_change_nothing(self, playground, content, said, monkeypatch):
        settled(playground)
        if content is None:
            monkeypatch.setattr(widgets, "UPLOAD_PIXELS", 1000)
            file = io.BytesIO()
            nst.to_pil(playground._images["content"]).save(file, "PNG")
            content = file.getvalue()
        before = playground._images["content"]
        for files in ({"a.png": {"content": content}}, ({"name": "a.png", "content": memoryview(content)},)):
            playground._later(playground._upload, "content", files)
            settled(playground)
            assert said in playground.panel.messages.value
            assert playground._images["content"] is before
            assert playground.steps_made == widgets.SKETCH_STEPS

    def test_an_uploaded_program_is_not_run(self, playground, picture):
        """Pillow would run the PostScript of an EPS."""
        settled(playground)
        file = io.BytesIO()
        nst.to_pil(picture(32, 64)).save(file, "EPS")
        playground._later(playground._upload, "content", ({"name": "a.jpg", "content": file.getvalue()},))
        settled(playground)
        assert "a.jpg: expected an image" in playground.panel.messages.value

    def test_bad_uploads_are_named(self, playground):
        settled(playground)
        playground._later(playground._upload, "content", ({"name": "notes.txt", "content": b"no picture"},))
        settled(playground)
        assert "notes.txt: expected an image" in playground.panel.messages.value

    def test_upload_buttons_are_renewed_when_a_page_connects_again(self, playground, picture):
        settled(playground)
        old = playground.panel.uploads["content"]
        playground._renew_uploads()
        new = playground.panel.uploads["content"]
        assert new is not old
        assert old.comm is None
        assert sum(new in row for row in walk(playground.panel.box)) == 1
        file = io.BytesIO()
        nst.to_pil(picture(32, 64, seed=6)).save(file, "PNG")
        new.value = ({"name": "new.png", "type": "", "size": 1, "last_modified": NOW, "content": file.getvalue()},)
        time.sleep(0.5)
        settled(playground)
        assert "Content: new" in playground.panel.views["content"].value
        assert "your own file" in playground.show_code()

    def test_saving_overwrites_nothing(self, playground, tmp_path):
        settled(playground).reset()
        settled(playground)
        assert playground.save_image() is playground.save_gif() is None
        assert "Nothing is painted yet" in playground._message
        playground.sketch()
        settled(playground)
        paths = [playground.save_image(), playground.save_image(), playground.save_gif(), playground.save_mp4()]
        assert len(set(paths)) == 4
        assert all(path.resolve().parent == tmp_path / "outputs" for path in paths)
        assert (nst.load_image(paths[0], None) - playground.shown.image).abs().max() <= 0.5 / 255 + 1e-6
        recipe = nst.recipe_from_png(paths[0])
        assert (recipe["code"], recipe["step"]) == (playground.show_code(), widgets.SKETCH_STEPS)
        assert recipe["settings"]["beta"] == 10

    def test_code(self, brief, playground, images):
        settled(playground)
        playground.panel.controls["beta"].value = 40
        settled(playground)
        names = {"content_image": images[0], "style_image": images[1]}
        exec(playground.show_code(), names)
        assert torch.equal(names["image"], playground.shown.image)

    def test_unknown_choices_close_nothing(self, playground, images, vgg16):
        with pytest.raises(ValueError, match=r"color: expected one of style, .+'luminance_yiq'"):
            Playground(*images, network=vgg16, color="luminance_yik")
        assert playground.painter.state != "closed"

    @pytest.mark.parametrize(
        ("pooling", "choices"),
        [
            ("max", {"color": "luminance_yiq", "content_loss": "self_similarity", "style_loss": "mean_std"}),
            ("average", {"color": "histogram", "style_loss": "wasserstein"}),
            ("l2", {"color": "content_oklab", "style_loss": "nearest"}),
        ],
    )
    def test_code_has_every_choice(self, brief, images, pooling, choices, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # where the code saves its painting
        playground = settled(Playground(*images, network=nst.load_vgg("vgg16", pooling), **choices))
        assert dataclasses.asdict(playground.painter.run.settings).items() > choices.items()
        names = {"content_image": images[0], "style_image": images[1]}
        exec(playground.show_code(), names)
        assert names["run"].settings == playground.painter.run.settings
        assert torch.equal(names["image"], playground.shown.image)
        playground.close()

    @pytest.mark.parametrize("style_loss", STYLE_LOSSES)
    def test_how_stylized_is_the_balance(self, images, vgg16, style_loss):
        """The same number as in the API, for any loss."""
        playground = settled(Playground(*images, network=vgg16, style_loss=style_loss))
        playground._refresh()
        slider = playground.panel.stylized
        run = nst.StyleTransfer(*images, network=vgg16, style_loss=style_loss, sizes=(64,), balance=0.5)
        playground.panel.controls["beta"].value = run.beta
        assert slider.value == 0.5
        slider.value = 0.3
        assert playground.painter.run.balance == pytest.approx(0.3, abs=1e-3)
        playground.close()

    def test_errors_are_shown(self, playground):
        settled(playground)
        playground.painter.run.evaluate = None
        playground.resume()
        with pytest.raises(TypeError):
            playground.wait(block=True, timeout=60)
        playground._refresh()
        assert "TypeError" in playground.panel.messages.value
        assert 'role="alert"' in playground.panel.messages.value

    def test_there_is_one(self, playground, images, vgg16):
        other = Playground(*images, network=vgg16)
        deadline = time.monotonic() + 20
        while playground.painter.state != "closed" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert playground.painter.state == "closed"
        playground.start()  # does nothing
        other.close()

    def test_it_is_not_kept_alive(self, images, vgg16):
        playground = Playground(*images, network=vgg16)
        playground.start()
        weak = weakref.ref(playground)
        del playground
        deadline = time.monotonic() + 20
        while weak() is not None and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.05)
        assert weak() is None

    def test_in_colab_ticks_paint(self, images, vgg16, monkeypatch):
        monkeypatch.setitem(sys.modules, "google.colab", sys)
        others = set(threading.enumerate())  # one of a playground before may be about to end
        playground = Playground(*images, network=vgg16)
        assert playground.panel.ticks.layout.display is None
        for tick in range(1, 6):
            playground.panel.ticks.value = tick
        assert playground.steps_made == 5
        assert "step 5" in playground.panel.views["output"].value
        playground.panel.controls["beta"].value = 50
        playground.panel.ticks.value = 6
        assert playground.painter.run.state.settings.beta == 50
        own = {thread.name for thread in set(threading.enumerate()) - others}
        assert not own & {"painter", "playground"}
        assert settled(playground).steps_made == widgets.SKETCH_STEPS
        playground.close()

    def test_in_an_app_nobody_names_a_path(self, images, vgg16, tmp_path, picture):
        nst.save_image(picture(48, 48, seed=9), tmp_path / "private.png")
        playground = settled(Playground(network=vgg16, app=True, size=64, steps=6))
        pictures = dict(playground._images)
        ours = [widget for row in walk(playground.panel.box) for widget in row]
        assert not [widget for widget in ours if isinstance(widget, W.Text)]
        path = str(tmp_path / "private.png")
        for widget in ours:
            for trait in ("value", "_options_labels", "options", "_options_values", "description", "placeholder"):
                for value in (path, [path]):
                    content = {"data": {"method": "update", "state": {trait: value}, "buffer_paths": []}}
                    with contextlib.suppress(TraitError, TypeError, ValueError, AttributeError):
                        widget._handle_msg({"content": content, "buffers": []})
        assert playground.panel.pictures["content"]._options_labels == (path,)  # such messages do arrive
        for widget in playground.panel.pictures.values():
            with contextlib.suppress(TraitError, IndexError):
                widget.set_state({"index": 10**6})
        time.sleep(0.5)
        settled(playground)
        assert all(playground._images[name] is image for name, image in pictures.items())
        assert "private" not in "".join(playground._names.values())
        upload = {"name": "/etc/passwd", "content": (tmp_path / "private.png").read_bytes()}
        playground._later(playground._upload, "content", (upload,))
        settled(playground)
        assert "'/etc/passwd'), 48)  # your own file" in playground.show_code()  # as for a name that does not exist
        playground.close()

    def test_an_app_pauses_while_nobody_looks(self, images, vgg16, monkeypatch):
        monkeypatch.setattr(widgets, "PAGE_TIMEOUT_S", 1)
        playground = Playground(*images, network=vgg16, app=True, size=64, steps=2000)
        settled(playground)
        playground.start()
        deadline = time.monotonic() + 20
        while playground.painter.state != "paused" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert playground.painter.state == "paused"
        steps = playground.steps_made
        playground.panel.ticks.value = 1  # the page is back
        deadline = time.monotonic() + 20
        while playground.steps_made == steps and time.monotonic() < deadline:
            time.sleep(0.05)
        assert playground.steps_made > steps
        playground.pause()
        settled(playground)
        steps = playground.steps_made
        time.sleep(1.5)
        playground.panel.ticks.value = 2  # back again, but it was the reader who paused
        assert settled(playground).steps_made == steps
        assert playground.save_image() is None
        assert "download=" in playground._message
        playground.close()


def test_interrupting_a_cell_that_waits_stops_the_painting():
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(ROOT))

    def run(code, interrupt=False):
        """Return what a cell prints, and the name of its error."""
        client.execute(code)
        outputs = []
        while True:
            content = client.get_iopub_msg(timeout=60)["content"]
            outputs.append(content.get("text", "") + content.get("ename", ""))
            if interrupt and "waiting" in outputs[-1]:
                time.sleep(1)
                manager.interrupt_kernel()
            if content.get("execution_state") == "idle":
                return "".join(outputs).strip()

    try:
        run("from nst_helpers.widgets import Playground\nplayground = Playground(network='vgg16', size=64, steps=2000)")
        run("playground.wait(block=True, timeout=60); playground.start()")
        assert "KeyboardInterrupt" in run("print('waiting', flush=True); playground.wait(block=True)", interrupt=True)
        run("playground.wait(block=True, timeout=60)")
        assert run("print(playground.painter.state)") == "stopped"
    finally:
        client.stop_channels()
        manager.shutdown_kernel()


def test_torch_waits_without_turning():
    code = "import nst_helpers, os; print(os.environ['OMP_WAIT_POLICY'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "PASSIVE"


def test_python_may_end_in_the_middle(images, tmp_path):
    for name, image in zip(("content", "style"), images, strict=True):
        nst.save_image(image, tmp_path / f"{name}.png")
    pictures = str(tmp_path / "content.png"), str(tmp_path / "style.png")
    code = f"""
import time
from nst_helpers.widgets import Playground
playground = Playground(*{pictures}, network="vgg16", size=64, steps=2000)
playground.start()
while playground.steps_made < 3:
    time.sleep(0.05)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
