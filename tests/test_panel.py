"""The widgets of the panel: what they display, and what the page would make of it."""

import math

import ipywidgets as W
import pytest
import torch

from nst_helpers.widgets import panel
from nst_helpers.widgets.controls import CONTROLS


def make_panel(**options):
    options = {"app": False, "ticking": False} | options
    return panel.Panel({"content": "tensor", "style": "data/styles/night.jpg"}, 256, 150, 1.0, 25.0, **options)


def test_every_control_has_a_widget_with_its_default():
    widgets = make_panel().controls
    for control in CONTROLS:
        expected = control.default if control.scale == "choice" else pytest.approx(control.default)
        assert widgets[control.key].value == expected


def test_pictures_of_the_project_and_others():
    shown = make_panel()
    assert shown.pictures["style"].value == "data/styles/night.jpg"
    assert shown.pictures["content"].value == panel.CUSTOM
    assert "data/content/hopper.jpg" in shown.pictures["content"].options


def test_an_app_has_no_fields_for_paths():
    assert make_panel().addresses
    assert not make_panel(app=True).addresses


@pytest.mark.parametrize(("low", "high", "step"), [(0, 1, 0.01), (-3, 3, 0.02), (0, 200, 1), (1, 8, 0.1)])
def test_a_value_on_the_grid_stays_where_it_is(low, high, step):
    slider = W.FloatSlider(min=low, max=high, step=step)
    for index in range(round((high - low) / step) + 1):
        value = low + index * step
        assert panel.on_grid(slider, value) == pytest.approx(value, abs=1e-9)
        assert panel.on_grid(slider, panel.on_grid(slider, value)) == panel.on_grid(slider, value)
    assert panel.on_grid(slider, low - 1) == low
    assert panel.on_grid(slider, high + 1) == high


def test_a_number_box_rounds_to_three_digits_unless_they_were_typed():
    box = W.BoundedFloatText(min=0, max=1e6)
    assert panel.three_digits(box, math.pi) == 3.14
    box.value = 1234.5678
    assert panel.three_digits(box, 1234.5678) == 1234.5678


def test_crop():
    image = torch.rand(1, 3, 40, 60)
    assert torch.equal(panel.crop(image, 1, 0.5, 0.5), image)
    assert torch.equal(panel.crop(image, 2, 0, 0), image[:, :, :20, :30])
    assert torch.equal(panel.crop(image, 2, 1, 1), image[:, :, 20:, 30:])
    assert panel.crop(image, 100, 0.5, 0.5).shape == (1, 3, 8, 8)  # never less than 8 px


def test_a_figure_escapes_its_texts():
    html = panel.figure(torch.rand(1, 3, 20, 30), "a < b", 'a "quoted" name')
    assert "a &lt; b" in html
    assert 'alt="a &quot;quoted&quot; name"' in html
    assert "<img" not in panel.figure(None, "empty", "")
