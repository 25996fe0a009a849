"""The SVG of the loss curves."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from nst_helpers.widgets import chart
from nst_helpers.widgets.history import Annotation, History, LossPoint


class TestChart:
    def drawn(self, history):
        svg = chart.loss_chart(history.losses, history.annotations)
        root = ElementTree.fromstring(svg)
        return root, ["".join(text.itertext()) for text in root.iter("text")]

    def test_nothing_yet(self):
        root, texts = self.drawn(History())
        assert texts == []
        assert "no step yet" in root.get("aria-label")

    def test_curves_and_annotations(self, paint):
        history = History()
        record = paint(history, 12, changes={4: {"beta": 40.0}})
        root, texts = self.drawn(history)
        assert {"total", "α·content", "β·style", "64 px", "β 40", "step"} <= set(texts)
        assert f"total {record.total:.3g}" in root.get("aria-label")
        curves = [line.get("points").split() for line in root.iter("polyline")]
        assert [len(curve) for curve in curves] == [12, 12, 12]
        heights = [float(point.split(",")[1]) for point in curves[0]]
        assert heights[3] < heights[2] + 20
        assert heights[4] != heights[3]
        assert all(
            chart.TOP - 1 <= height <= chart.HEIGHT - chart.BOTTOM + 1
            for curve in curves
            for height in (float(point.split(",")[1]) for point in curve)
        )
        dashed = [path.get("d") for path in root.iter("path") if path.get("stroke-dasharray")]
        assert len(dashed) == 2
        assert [int(re.search(r"M(\d+)", path)[1]) for path in dashed] == [chart.LEFT, 205]

    @pytest.mark.parametrize("losses", [(0.0, 0.0, 0.0), (5.0, 0.0, 5.0), (1e-9, 1e-9, 0.0), (1e30, 1.0, 1e30)])
    def test_any_losses(self, losses):
        points = [LossPoint(step, *losses) for step in (1, 2)]
        svg = chart.loss_chart(points, [Annotation(1, "a < b & c")])
        assert "nan" not in svg
        ElementTree.fromstring(svg)
