import itertools
import re
import xml.etree.ElementTree as ElementTree

import pytest
import torch

import nst_helpers as nst
from nst_helpers.widgets import chart
from nst_helpers.widgets import history as story
from nst_helpers.widgets.history import Story


@pytest.fixture
def images(picture):
    return picture(48, 64), picture(64, 64, seed=1)


@pytest.fixture
def paint(images, vgg16):
    """Paints some steps into a story, in an act of its own, and returns the last record."""

    def act(told, steps, start="content", settings=(), changes=(), sizes=(64,)):
        run = nst.StyleTransfer(
            *images,
            network=vgg16,
            sizes=sizes,
            steps=[steps] * len(sizes),
            start=start if start is not None else told.latest.image,
            **dict(settings),
        )
        told.begin(run, start)
        for record in run:
            told.add(run, record)
            for name, value in dict(changes).get(record.iteration + 1, {}).items():
                setattr(run, name, value)
        return record

    return act


class TestStory:
    def test_what_it_notes(self, paint):
        told = Story()
        assert (told.steps, told.latest) == (0, None)
        record = paint(told, 6, changes={3: {"beta": 30.0}, 4: {"optimizer": "adam"}})
        assert told.steps == 6
        assert torch.equal(told.latest.image, record.image)
        assert told.latest.loss == record.total
        assert [point.step for point in told.points] == [snapshot.step for snapshot in told.snapshots] == [*range(1, 7)]
        assert told.points[-1][1:] == (record.total, record.content, 30 * record.style)
        assert [tuple(mark) for mark in told.marks] == [(1, "64 px"), (4, "β 30"), (5, "Adam")]

    def test_layers_and_sizes_are_marked(self, paint):
        told = Story()
        weights = nst.STYLE_WEIGHTS | {"relu3_1": 2.0}
        paint(told, 3, changes={1: {"style_weights": weights}, 2: {"tv_weight": 5}}, sizes=(32, 64))
        assert [mark.text for mark in told.marks] == ["32 px", "relu3_1 2", "TV 5", "64 px"]

    def test_changes_of_a_gesture_share_a_mark(self, paint, images, vgg16):
        told, run = Story(), nst.StyleTransfer(*images, network=vgg16, sizes=(32, 64), steps=(5, 4), start="content")
        told.begin(run, "content")
        for step, record in enumerate(run):
            told.add(run, record, gesture=max(1, step // 3))
            run.beta = 20.0 + step
            run.tv_weight = float(step > 2)
        assert [tuple(mark) for mark in told.marks] == [
            (1, "32 px"),
            (2, "β 22, TV 1"),  # the first gesture ends with step 6
            (6, "β 24, 64 px"),
            (7, "β 27"),
        ]
        assert [change["beta"] for _, change in told.acts[0].changes] == [10.0, *(20.0 + step for step in range(8))]

    def test_cut(self, paint):
        told = Story()
        paint(told, 4, changes={2: {"alpha": 2.0}})
        paint(told, 4, start=None)
        snapshot = told.snapshots[2]
        told.cut(snapshot)
        assert (told.steps, told.latest) == (3, snapshot)
        assert (len(told.acts), told.acts[0].made) == (1, 3)
        assert [point.step for point in told.points] == [1, 2, 3]
        assert [mark.step for mark in told.marks] == [1, 3]
        paint(told, 1, start=None)  # alpha is 1 again, which is a change
        assert told.marks[-1].text == "α 1, 64 px"
        paint(told, 1, start="noise")
        assert told.marks[-1].text == "64 px, from noise"

    def test_memory_is_bounded(self, paint, monkeypatch):
        monkeypatch.setattr(story, "SNAPSHOTS", 6)
        monkeypatch.setattr(story, "POINTS", 8)
        told = Story()
        for n in range(5):
            paint(told, 8, start=None if n else "content")
        assert len(told.snapshots) <= 6
        assert len(told.points) <= 8
        steps = [snapshot.step for snapshot in told.snapshots]
        assert steps == sorted(steps)
        assert steps[-1] > 30
        assert max(b - a for a, b in itertools.pairwise(steps)) <= 16
        monkeypatch.setattr(story, "SNAPSHOT_BYTES", 2 * told.latest.image.nbytes)
        paint(told, 8, start=None)
        assert len(told.snapshots) <= 3

    def test_code_paints_it_again(self, paint, images, vgg16, tmp_path, monkeypatch):
        told = Story()
        paint(told, 5, changes={2: {"beta": 40.0}, 3: {"optimizer": "adam", "learning_rate": 0.01}}, sizes=(32, 64))
        told.cut(told.snapshots[7])
        paint(told, 3, start=None, settings={"tv_weight": 3.0}, changes={1: {"style_weights": {"relu2_1": 4.0}}})
        paint(told, 3, start="noise")
        monkeypatch.chdir(tmp_path)
        for step in (told.steps, 9, 3):
            names = {"content": images[0], "style": images[1], "vgg16": vgg16}
            code = told.code("content", "style", {"network": "vgg16"}, step)
            assert ("'noise'" in code) == (step > 11)
            exec(code, names)
            (again,) = (snapshot for snapshot in told.snapshots if snapshot.step == step)
            assert torch.equal(names["image"], again.image)
            assert (tmp_path / "painting.png").exists()


class TestChart:
    def drawn(self, told):
        svg = chart.loss_chart(told.points, told.marks)
        root = ElementTree.fromstring(svg)
        return root, ["".join(text.itertext()) for text in root.iter("text")]

    def test_nothing_yet(self):
        root, texts = self.drawn(Story())
        assert texts == []
        assert "no step yet" in root.get("aria-label")

    def test_curves_and_marks(self, paint):
        told = Story()
        record = paint(told, 12, changes={4: {"beta": 40.0}})
        root, texts = self.drawn(told)
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
        points = [story.Point(step, *losses) for step in (1, 2)]
        svg = chart.loss_chart(points, [story.Mark(1, "a < b & c")])
        assert "nan" not in svg
        ElementTree.fromstring(svg)
