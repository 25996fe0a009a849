import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

import nst_helpers as nst


@pytest.fixture(autouse=True)
def nothing_left_open():
    yield
    assert plt.get_fignums() == []


def drawn(figure):
    """The figure's pixels, (H, W, 4)."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file))


def test_show_grid(picture, tmp_path):
    images = picture(64, 96), picture(80, 40, seed=1), picture(64, 96, seed=2)
    figure = nst.show_grid(*images)
    assert [ax.get_title() for ax in figure.axes] == ["Content", "Style", "Output"]
    for ax, image in zip(figure.axes, images, strict=True):
        shown = ax.images[0].get_array()
        np.testing.assert_array_equal(shown, (image[0].permute(1, 2, 0) * 255).round().byte().numpy())
    drawn(figure)
    heights = [ax.get_window_extent().height for ax in figure.axes]
    assert max(heights) - min(heights) < 2  # side by side at one height, whatever their shapes
    figure.savefig(tmp_path / "grid.jpg")
    assert nst.load_image(tmp_path / "grid.jpg", size=None).shape[3] > 300
    titled = nst.show_grid(*images, titles=("a", "b", "c"))
    assert [ax.get_title() for ax in titled.axes] == ["a", "b", "c"]


def test_show_losses(vgg, picture):
    run = nst.StyleTransfer(picture(), picture(seed=1), network=vgg, sizes=(32, 48), steps=(2, 4), beta=3)
    list(run)
    figure = nst.show_losses(run.history)
    (ax,) = figure.axes
    assert ax.get_yscale() == "log"
    curves = {line.get_label(): line.get_ydata() for line in ax.get_lines()}
    np.testing.assert_allclose(curves["total"], [record.total for record in run.history])
    np.testing.assert_allclose(curves["α·content"] + curves["β·style"], curves["total"], rtol=1e-5)
    assert [text.get_text().strip() for text in ax.texts] == ["48 px"]
    assert drawn(figure).std() > 5


class TestShowImages:
    def test_images_and_maps(self, picture):
        image = picture(40, 60)
        figure = nst.show_images([image, image[0], image[0, 0]], ["a", "b", "c"], columns=2)
        drawn = [ax for ax in figure.axes if ax.images]
        assert [ax.get_title() for ax in drawn] == ["a", "b", "c"]
        assert drawn[0].images[0].get_array().shape == (40, 60, 3)
        assert drawn[2].images[0].get_array().shape == (40, 60)
        assert len(figure.axes) == 4  # two rows of two, the last one empty
        assert not figure.axes[3].axison

    def test_masks(self, picture):
        mask = torch.zeros(1, 1, 80, 96)
        mask[..., :48] = 1
        figure = nst.show_images([picture(80, 96), mask], ["picture", "mask"])
        drawn = figure.axes[1].images[0].get_array()
        assert drawn.shape == (80, 96, 3)
        assert drawn[0, 0].tolist() == [255] * 3
        assert drawn[0, -1].tolist() == [0] * 3

    def test_maps_begin_at_0_or_below(self):
        ramp = torch.linspace(0.5, 2, 12).view(3, 4)
        for shift, limits in ((0, (0, 2)), (-1, (-0.5, 1))):
            (ax,) = nst.show_images([ramp + shift], ["ramp"]).axes
            assert ax.images[0].get_clim() == pytest.approx(limits)


def test_show_source():
    class Painter:
        def paint(self):
            return "painted"

    assert nst.show_source(Painter.paint) == 'def paint(self):\n    return "painted"\n'
    assert nst.show_source(Painter.paint)._repr_markdown_().startswith("```python\ndef paint")
