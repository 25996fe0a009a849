import itertools

import pytest
import torch

import nst_helpers as nst
from nst_helpers.widgets import history as histories
from nst_helpers.widgets.history import History


class TestHistory:
    def test_what_it_notes(self, paint):
        history = History()
        assert (history.steps, history.latest) == (0, None)
        record = paint(history, 6, changes={3: {"beta": 30.0}, 4: {"optimizer": "adam"}})
        assert history.steps == 6
        assert torch.equal(history.latest.image, record.image)
        assert history.latest.loss == record.total
        assert (
            [point.step for point in history.losses]
            == [snapshot.step for snapshot in history.snapshots]
            == [*range(1, 7)]
        )
        assert history.losses[-1][1:] == (record.total, record.content, 30 * record.style)
        assert [tuple(note) for note in history.annotations] == [(1, "64 px"), (4, "β 30"), (5, "Adam")]

    def test_layers_and_sizes_are_annotated(self, paint):
        history = History()
        weights = nst.STYLE_WEIGHTS | {"relu3_1": 2.0}
        paint(history, 3, changes={1: {"style_weights": weights}, 2: {"tv_weight": 5}}, sizes=(32, 64))
        assert [note.text for note in history.annotations] == ["32 px", "relu3_1 2", "TV 5", "64 px"]

    def test_changes_of_a_gesture_share_an_annotation(self, paint, images, vgg):
        history = History()
        run = nst.StyleTransfer(*images, network=vgg, sizes=(32, 64), steps=(5, 4), start="content")
        history.begin(run, "content")
        for step, record in enumerate(run):
            history.add(run, record, gesture=max(1, step // 3))
            run.beta = 20.0 + step
            run.tv_weight = float(step > 2)
        assert [tuple(note) for note in history.annotations] == [
            (1, "32 px"),
            (2, "β 23, TV 1"),
            (6, "β 24, 64 px"),  # of the same gesture, but a new size is not merged
            (7, "β 27"),
        ]
        assert [change["beta"] for _, change in history.segments[0].changes] == [
            25.0,
            *(20.0 + step for step in range(8)),
        ]

    def test_cut(self, paint):
        history = History()
        paint(history, 4, changes={2: {"alpha": 2.0}})
        paint(history, 4, start=None)
        snapshot = history.snapshots[2]
        history.cut(snapshot)
        assert (history.steps, history.latest) == (3, snapshot)
        assert (len(history.segments), history.segments[0].made) == (1, 3)
        assert [point.step for point in history.losses] == [1, 2, 3]
        assert [note.step for note in history.annotations] == [1, 3]
        paint(history, 1, start=None)  # alpha is 1 again, which is a change
        assert history.annotations[-1].text == "α 1, 64 px"
        paint(history, 1, start="noise")
        assert history.annotations[-1].text == "64 px, from noise"

    @pytest.mark.long
    def test_memory_is_bounded(self, paint, monkeypatch):
        monkeypatch.setattr(histories, "SNAPSHOTS", 6)
        monkeypatch.setattr(histories, "LOSS_POINTS", 8)
        history = History()
        for n in range(5):
            paint(history, 8, start=None if n else "content")
        assert len(history.snapshots) <= 6
        assert len(history.losses) <= 8
        steps = [snapshot.step for snapshot in history.snapshots]
        assert steps == sorted(steps)
        assert steps[-1] > 30
        assert max(b - a for a, b in itertools.pairwise(steps)) <= 16
        monkeypatch.setattr(histories, "SNAPSHOT_BYTES", 2 * history.latest.image.nbytes)
        paint(history, 8, start=None)
        assert len(history.snapshots) <= 3

    @pytest.mark.long
    def test_code_paints_it_again(self, paint, images, vgg, tmp_path, monkeypatch):
        history = History()
        paint(history, 5, changes={2: {"beta": 40.0}, 3: {"optimizer": "adam", "learning_rate": 0.01}}, sizes=(32, 64))
        history.cut(history.snapshots[7])
        paint(history, 3, start=None, settings={"tv_weight": 3.0}, changes={1: {"style_weights": {"relu2_1": 4.0}}})
        paint(history, 3, start="noise")
        monkeypatch.chdir(tmp_path)
        for step in (history.steps, 9, 3):
            names = {
                "content": images[0],
                "style": images[1],
            }
            code = history.code("content", "style", step)
            assert ("'noise'" in code) == (step > 11)
            exec(code, names)
            (again,) = (snapshot for snapshot in history.snapshots if snapshot.step == step)
            assert torch.equal(names["image"], again.image)
            assert (tmp_path / "painting.png").exists()
