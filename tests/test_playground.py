"""The playground without a page; `test_browser` has the pages."""

import dataclasses
import datetime
import gc
import io
import os
import subprocess
import sys
import threading
import time
import types
import weakref

import pytest
import torch
from conftest import ROOT, settled, walk
from jupyter_client.manager import start_new_kernel

import nst_helpers as nst
from nst_helpers.images import scaled, sides
from nst_helpers.widgets import Playground, controls
from nst_helpers.widgets import playground as widgets

pytestmark = pytest.mark.long

NOW = datetime.datetime.now(datetime.UTC)  # of uploads


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

    def test_a_page_that_connects_gets_its_widgets_and_new_upload_buttons(self, playground, monkeypatch):
        targets, asked, renewed = {}, [], []
        manager = types.SimpleNamespace(register_target=targets.__setitem__)
        kernel = types.SimpleNamespace(kernel=types.SimpleNamespace(comm_manager=manager))
        monkeypatch.setattr(widgets, "get_ipython", lambda: kernel)
        monkeypatch.setattr(widgets.W.Widget, "handle_control_comm_opened", lambda *message: asked.append(message))
        widgets._when_a_page_connects(renewed.append)
        targets["jupyter.widget.control"]("comm", "message")
        assert (asked, renewed) == ([("comm", "message")], [None])

    def test_buttons_call_their_methods(self, playground):
        def press(name):
            playground.panel.buttons[name].click()
            return settled(playground)

        settled(playground)._message = "old"
        press("reset")
        assert playground._message == ""
        assert playground.steps_made == 0
        press("step")  # begins a painting, since there is none
        assert (playground.painter.state, playground.steps_made) == ("paused", 1)
        press("stop")
        assert playground.painter.state == "stopped"
        press("save_image")
        assert "Saved" in playground._message

    def test_a_closed_one_can_save_its_image(self, playground):
        image = settled(playground).shown.image
        playground.close()
        while playground.painter.state != "closed":
            time.sleep(0.05)
        path = playground.save_image()
        assert (nst.load_image(path, None) - image).abs().max() < 0.003
        assert "nst.StyleTransfer" in nst.recipe_from_png(path)["code"]

    def test_a_value_that_is_refused_is_told(self, playground):
        settled(playground)._weakly(lambda playground, value: float(value))("no number")
        settled(playground)
        assert "ValueError: could not convert" in playground.panel.messages.value

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
        assert recipe["settings"]["beta"] == nst.Settings.beta

    def test_saving_is_exclusive(self, playground, tmp_path, monkeypatch):
        """Of two kernels that save at the same time, each gets its own file. An error leaves none."""
        settled(playground)
        monkeypatch.setattr(widgets.Path, "exists", lambda path: False)  # as the other one sees it, just before
        assert playground.save_image() != playground.save_image()
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(widgets, "PROJECT", tmp_path)
        before = os.listdir(tmp_path / "outputs")
        monkeypatch.setattr(widgets, "save_animation", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            playground.save_gif()
        assert os.listdir(tmp_path / "outputs") == before

    @pytest.mark.parametrize("letter", ["x", "ö", "画"])
    def test_long_names(self, letter, playground):
        settled(playground)
        playground._names = {name: f"{letter * (250 // len(letter.encode()))}.jpg" for name in playground._names}
        name = playground.save_image().name
        assert name.count(letter) > 60
        assert name.endswith("_0025.png")

    @pytest.mark.parametrize("shape", [(90, 1000), (1000, 90), (16, 400)])
    def test_narrow_pictures(self, shape, brief, picture, vgg, tmp_path, monkeypatch):
        """Sketches, and the smaller sizes of a rendering, are as large as both pictures need. Code repeats them."""
        monkeypatch.chdir(tmp_path)  # where the code saves its painting
        square = picture(256, 256)
        for pictures, sizes in (((picture(*shape), square), (256,)), ((square, picture(*shape)), (173, 256))):
            playground = settled(Playground(*pictures, network=vgg, size=256, steps=2))
            size = playground.shown.size
            assert all(min(scaled(*sides(image), size)) >= 16 for image in pictures)
            assert any(min(scaled(*sides(image), size - 1)) < 16 for image in pictures)
            if shape != (16, 400):
                playground.render()
                settled(playground)
                assert playground.painter.run.settings.sizes == sizes
                names = {"content_image": pictures[0], "style_image": pictures[1]}
                exec(playground.show_code(), names)
                assert torch.equal(names["image"], playground.shown.image)
            playground.close()

    def test_a_very_long_picture_is_loaded(self, picture, tmp_path):
        """At most 1024 px, unless its other side would be too short then."""
        for shape, loaded in {(20, 2000): (16, 1550), (2000, 40): (1024, 20), (16, 1500): (16, 1454)}.items():
            nst.save_image(picture(*shape), tmp_path / "a.png")
            assert sides(widgets._load(tmp_path / "a.png")) == loaded

    def test_code(self, brief, playground, images):
        settled(playground)
        playground.panel.controls["beta"].value = 40
        settled(playground)
        names = {"content_image": images[0], "style_image": images[1]}
        exec(playground.show_code(), names)
        assert torch.equal(names["image"], playground.shown.image)

    def test_unknown_choices_close_nothing(self, playground, images, vgg):
        with pytest.raises(ValueError, match=r"color: expected one of style, .+'luminance_yiq'"):
            Playground(*images, network=vgg, color="luminance_yik")
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
        playground = settled(Playground(*images, network=nst.load_vgg("vgg19", pooling), **choices))
        assert dataclasses.asdict(playground.painter.run.settings).items() > choices.items()
        names = {"content_image": images[0], "style_image": images[1]}
        exec(playground.show_code(), names)
        assert names["run"].settings == playground.painter.run.settings
        assert torch.equal(names["image"], playground.shown.image)
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

    def test_there_is_one(self, playground, images, vgg):
        other = Playground(*images, network=vgg)
        deadline = time.monotonic() + 20
        while playground.painter.state != "closed" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert playground.painter.state == "closed"
        playground.start()  # does nothing
        other.close()

    def test_it_is_not_kept_alive(self, images, vgg):
        playground = Playground(*images, network=vgg)
        playground.start()
        weak = weakref.ref(playground)
        del playground
        deadline = time.monotonic() + 20
        while weak() is not None and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.05)
        assert weak() is None

    def test_in_colab_ticks_paint(self, images, vgg, downloads):
        others = set(threading.enumerate())  # one of a playground before may be about to end
        playground = Playground(*images, network=vgg)
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

    def test_in_colab_what_is_saved_is_downloaded(self, images, vgg, downloads, tmp_path, monkeypatch):
        monkeypatch.setattr(widgets, "PROJECT", tmp_path)
        monkeypatch.chdir(tmp_path)
        playground = settled(Playground(*images, network=vgg))
        for method in ("save_image", "save_gif"):
            playground.panel.buttons[method].click()
        assert [os.path.splitext(path)[1] for path in downloads] == [".png", ".gif"]
        assert all(os.path.getsize(path) for path in downloads)
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
playground = Playground(*{pictures}, size=64, steps=2000)
playground.start()
while playground.steps_made < 3:
    time.sleep(0.05)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
