import dataclasses
import hashlib
import json
import warnings

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


def test_paints_the_same_again(pictures, vgg, tmp_path):
    result = nst.transfer(*pictures, network=vgg, start="recolored", noise=0.2, seed=4, progress=False, **SETTINGS)
    path = nst.save_image(result.image, tmp_path / "painting.png", recipe=result.recipe)
    recipe = nst.recipe_from_png(path)
    assert recipe == json.loads(json.dumps(result.recipe))
    again = nst.transfer(*pictures, progress=False, **recipe["settings"], device="cpu")
    assert torch.equal(again.image, result.image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = nst.transfer(*pictures, progress=False, recipe=recipe, device="cpu")
    assert torch.equal(same.image, result.image)
    assert recipe["losses"]["best"] == again.loss
    assert recipe["steps_made"] == 5
    assert recipe["steered"] is False


@pytest.mark.parametrize(
    "choices",
    [
        {"pooling": "average"},
        {"padding": "reflect"},
        {"engine": "plain"},
        {"engine": "direct", "precision": "bfloat16"},
    ],
    ids=lambda choices: next(iter(choices.values())),
)
@pytest.mark.long
def test_the_network_and_the_engine_are_part_of_it(pictures, tmp_path, choices):
    """The README's way to paint a picture again gives that picture, and not another."""
    run = {"sizes": (64,), "steps": 12, "device": "cpu", "progress": False}
    result = nst.transfer(*pictures, **run, **choices)
    path = nst.save_image(result.image, tmp_path / "painting.png", recipe=result.recipe)
    recipe = nst.recipe_from_png(path)
    for again in ({"recipe": recipe}, recipe["settings"]):
        assert torch.equal(nst.transfer(*pictures, device="cpu", progress=False, **again).image, result.image)
    other = nst.transfer(*pictures, **run)
    assert not torch.equal(other.image, result.image)


def test_every_setting_is_in_it(pictures, vgg):
    recipe = nst.StyleTransfer(*pictures, network=vgg, **SETTINGS).recipe
    assert set(recipe["settings"]) == {field.name for field in dataclasses.fields(nst.Settings)}
    assert recipe["versions"]["nst-helpers"] == nst.__version__
    assert all(recipe["versions"].values())


def test_other_pictures_are_told(pictures, vgg):
    recipe = nst.StyleTransfer(*pictures, network=vgg, **SETTINGS).recipe
    with pytest.warns(UserWarning, match=r"made with other pictures \(styles\)"):
        run = nst.StyleTransfer(pictures[0], pictures[0], network=vgg, recipe=recipe, beta=7.0)
    assert (run.beta, run.tv_weight) == (7, 2)


def test_a_start_of_your_own_must_be_given_again(pictures, vgg):
    run = nst.StyleTransfer(*pictures, network=vgg, start=pictures[1], **SETTINGS)
    assert run.settings.start == "image"
    with pytest.raises(ValueError, match="start: expected the image, "):
        nst.StyleTransfer(*pictures, network=vgg, recipe=run.recipe)
    again = nst.StyleTransfer(*pictures, network=vgg, recipe=run.recipe, start=pictures[1])
    assert torch.equal(again.image, run.image)


def test_sources_are_known_again(pictures, vgg, tmp_path):
    path = nst.save_image(pictures[0], tmp_path / "content.png")
    pixels = np.asarray(Image.open(path).convert("RGB"))
    mask = torch.ones(1, 1, 48, 64)
    run = nst.StyleTransfer(
        pictures[0],
        Region(mask, [Style(pictures[1], 3, 0.9), pictures[1]]),
        network=vgg,
        start=pictures[1],
        **SETTINGS,
    )
    sources = run.recipe["sources"]
    assert sources["content"] == {"sha256": hashlib.sha256(pixels.tobytes()).hexdigest(), "width": 64, "height": 48}
    (region,) = sources["styles"]
    assert [style["weight"] for style in region["styles"]] == [0.75, 0.25]
    assert region["styles"][0]["sha256"] == sources["start"]["sha256"]
    assert region["mask"] is not None


def test_steering_is_said(pictures, vgg):
    run = nst.StyleTransfer(*pictures, network=vgg, **SETTINGS)
    run.step()
    run.beta = 1.0
    run.step()
    recipe = run.recipe
    assert recipe["steered"]
    assert recipe["settings"]["beta"] == 1


def test_bad_files(pictures, tmp_path):
    path = nst.save_image(pictures[0], tmp_path / "plain.png")
    with pytest.raises(ValueError, match="holds no recipe"):
        nst.recipe_from_png(path)
    with pytest.raises(ValueError, match=r"only PNG files can hold a recipe"):
        nst.save_image(pictures[0], tmp_path / "painting.jpg", recipe={})
    with pytest.raises(FileNotFoundError):
        nst.recipe_from_png(tmp_path / "nowhere.png")
