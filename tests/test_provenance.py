import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

import nst_helpers as nst
from nst_helpers.styles import Region, Style


@pytest.fixture
def pictures(picture):
    return picture(48, 64), picture(64, 60, 1)


SETTINGS = {"sizes": (48, 64), "steps": (2, 3), "beta": 30.0, "optimizer": "adam", "tv": "l2", "tv_weight": 2.0}


def test_paints_the_same_again(pictures, vgg16, tmp_path):
    result = nst.transfer(*pictures, network=vgg16, start="recolored", noise=0.2, seed=4, progress=False, **SETTINGS)
    path = nst.save_image(result.image, tmp_path / "painting.png", recipe=result.recipe)
    recipe = nst.settings_from_png(path)
    assert recipe == json.loads(json.dumps(result.recipe))
    again = nst.transfer(*pictures, progress=False, **recipe["settings"], device="cpu")
    assert torch.equal(again.image, result.image)
    assert recipe["losses"]["best"] == again.loss
    assert recipe["evaluations"] == 5
    assert recipe["steered"] is False


def test_sources_are_known_again(pictures, vgg16, tmp_path):
    path = nst.save_image(pictures[0], tmp_path / "content.png")
    pixels = np.asarray(Image.open(path).convert("RGB"))
    mask = torch.ones(1, 1, 48, 64)
    run = nst.StyleTransfer(
        pictures[0],
        Region(mask, [Style(pictures[1], 3, 0.9), pictures[1]]),
        network=vgg16,
        start=pictures[1],
        **SETTINGS,
    )
    sources = nst.provenance.recipe_of(run)["sources"]
    assert sources["content"] == {"sha256": hashlib.sha256(pixels.tobytes()).hexdigest(), "width": 64, "height": 48}
    (region,) = sources["styles"]
    assert [style["weight"] for style in region["styles"]] == [0.75, 0.25]
    assert region["styles"][0]["sha256"] == sources["start"]["sha256"]
    assert region["mask"] is not None


def test_steering_is_said(pictures, vgg16):
    run = nst.StyleTransfer(*pictures, network=vgg16, **SETTINGS)
    run.step()
    run.beta = 1.0
    run.step()
    recipe = nst.provenance.recipe_of(run)
    assert recipe["steered"]
    assert recipe["settings"]["beta"] == 1


def test_bad_files(pictures, tmp_path):
    path = nst.save_image(pictures[0], tmp_path / "plain.png")
    with pytest.raises(ValueError, match="holds no recipe"):
        nst.settings_from_png(path)
    with pytest.raises(ValueError, match=r"only \.png holds a recipe"):
        nst.save_image(pictures[0], tmp_path / "painting.jpg", recipe={})
    with pytest.raises(FileNotFoundError):
        nst.settings_from_png(tmp_path / "nowhere.png")
