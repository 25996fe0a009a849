"""The table of controls, and the model that all widgets display."""

import threading
import time

import ipywidgets as W
import pytest
import torch
from conftest import settled, walk

import nst_helpers as nst
from nst_helpers.losses.style import STYLE_LOSSES
from nst_helpers.optimizers import OPTIMIZERS
from nst_helpers.widgets import Playground, controls
from nst_helpers.widgets.controls import CONTROLS
from nst_helpers.widgets.panel import Panel

pytestmark = pytest.mark.long


class TestControls:
    def test_sliders(self, playground):
        panel, run = settled(playground).panel, playground.painter.run
        panel.controls["beta"].value = 123
        assert run.beta == 123
        assert panel.stylized.value == pytest.approx(min(1, run.balance), abs=0.005)  # on its grid
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
        value = "adam" if control.scale == "choice" else 0.35  # the default of none
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

    def test_what_the_page_shows_is_repeated_where_messages_cross(self, monkeypatch):
        panel, sent = Panel({"content": "a", "style": "b"}, 64, 6, 1.0, 10.0, app=False, ticking=False), []
        monkeypatch.setattr(W.FloatSlider, "send_state", lambda widget, key=None: sent.append((widget, key)))
        monkeypatch.setattr(controls, "REST", 0.05)
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

    @pytest.mark.parametrize("style_loss", STYLE_LOSSES)
    def test_how_stylized_is_the_balance(self, images, vgg, style_loss):
        """The same number as in the API, for any loss."""
        playground = settled(Playground(*images, network=vgg, style_loss=style_loss))
        playground._refresh()
        slider = playground.panel.stylized
        run = nst.StyleTransfer(*images, network=vgg, style_loss=style_loss, sizes=(64,), balance=0.5)
        playground.panel.controls["beta"].value = run.beta
        assert slider.value == 0.5
        slider.value = 0.3
        assert playground.painter.run.balance == pytest.approx(0.3, abs=1e-3)
        playground.close()
