"""Fixtures and helpers that several test files share. The network is the default one."""

import io
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import nst_helpers as nst

ROOT = Path(__file__).resolve().parents[1]
pytest_plugins = ["pages"]


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def vgg():
    return nst.load_vgg(device="cpu")


@pytest.fixture
def picture():
    """Makes a smooth, colorful image (1, 3, height, width) in [0, 1]; another seed makes another."""

    def make(height=48, width=64, seed=0):
        coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
        return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").clamp(0, 1)

    return make


@pytest.fixture
def make_run(vgg, picture):
    """Makes a StyleTransfer of two small pictures, 64×48 and 60×64 px."""

    def make(**settings):
        settings = {"network": vgg, "sizes": (48,), "steps": 4, "start": "content", **settings}
        return nst.StyleTransfer(picture(48, 64), picture(64, 60, seed=1), **settings)

    return make


@pytest.fixture
def images(picture):
    """A content and a style image for the playground."""
    return picture(48, 64), picture(64, 64, seed=1)


@pytest.fixture
def paint(images, vgg):
    """Paints some steps into a history, as a segment of its own, and returns the last record."""

    def segment(history, steps, start="content", settings=(), changes=(), sizes=(64,)):
        run = nst.StyleTransfer(
            *images,
            network=vgg,
            sizes=sizes,
            steps=[steps] * len(sizes),
            start=start if start is not None else history.latest.image,
            **dict(settings),
        )
        history.begin(run, start)
        for record in run:
            history.add(run, record)
            for name, value in dict(changes).get(record.step, {}).items():
                setattr(run, name, value)
        return record

    return segment


@pytest.fixture
def downloads(monkeypatch):
    """Pretends to be in Colab; the paths that the browser is told to download."""
    paths = []
    colab = SimpleNamespace(files=SimpleNamespace(download=paths.append))
    monkeypatch.setitem(sys.modules, "google.colab", colab)
    return paths


@pytest.fixture
def brief(monkeypatch):
    """Paintings of few steps."""
    from nst_helpers.widgets import painter, playground

    monkeypatch.setattr(playground, "SKETCH_STEPS", 4)
    monkeypatch.setattr(painter, "EXTRA_STEPS", 3)


@pytest.fixture
def playground(images, vgg, tmp_path, monkeypatch):
    from nst_helpers.widgets import playground as widgets

    monkeypatch.setattr(widgets, "PROJECT", tmp_path)
    monkeypatch.chdir(tmp_path)
    playground = widgets.Playground(*images, size=64, steps=6, network=vgg)
    yield playground
    playground.close()


def settled(playground):
    """Wait until nothing is being painted, and return the playground."""
    playground.wait(block=True, timeout=60)
    return playground


def walk(widget):
    """Yield the children of a box, those of its boxes, and so on."""
    if children := getattr(widget, "children", ()):
        yield children
        for child in children:
            yield from walk(child)


@pytest.fixture
def winograd_for_small_pictures(monkeypatch):
    """Lets Winograd's convolutions run on feature maps that are too small to be faster."""
    from nst_helpers.engine import winograd

    monkeypatch.setattr(winograd, "MIN_TILES", 1)


def encoded(picture, format="PNG", **options):
    """The bytes of a PIL image in a file format."""
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


@pytest.fixture
def photo():
    """A 60×40 RGB picture in which every pixel differs from its neighbors."""
    y, x = np.mgrid[:40, :60]
    return Image.fromarray(np.stack([x * 4, y * 6, (x + y) * 2], axis=2).astype(np.uint8))


def pixels(image):
    """An image as an array (H, W, 3) of uint8."""
    return (image[0].permute(1, 2, 0) * 255).round().byte().numpy()


def code_cells(notebook):
    """The code cells of a notebook."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook, name="stdout"):
    """What the cells of an executed notebook printed."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == name)


@pytest.fixture(scope="session")
def clone(tmp_path_factory):
    """A copy of what a reader's clone holds, so that no test writes into this one."""
    folder = tmp_path_factory.mktemp("clone")
    for part in ("nst_helpers", "notebooks", "data"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    return folder


def pytest_collection_modifyitems(config, items):
    """Whole notebooks first where there are several workers, so that no worker ends with the longest one alone."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: "test_nbval" not in item.name)
