"""The playground as a web app."""

import contextlib
import time

import ipywidgets as W
import pytest
from conftest import settled, walk
from traitlets import TraitError

import nst_helpers as nst
from nst_helpers.widgets import Playground
from nst_helpers.widgets import playground as widgets

pytestmark = pytest.mark.long


class TestApp:
    def test_in_an_app_nobody_names_a_path(self, images, vgg, tmp_path, picture):
        nst.save_image(picture(48, 48, seed=9), tmp_path / "private.png")
        playground = settled(Playground(network=vgg, app=True, size=64, steps=6))
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

    def test_an_app_pauses_while_nobody_looks(self, images, vgg, monkeypatch):
        monkeypatch.setattr(widgets, "PAGE_TIMEOUT_S", 1)
        playground = Playground(*images, network=vgg, app=True, size=64, steps=2000)
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
