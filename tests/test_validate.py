"""Argument validation: what passes, and which message names what is wrong."""

import warnings

import pytest
import torch

from nst_helpers import validate
from nst_helpers.images import scaled


@pytest.mark.parametrize("value", [2, 2.0, "2", torch.tensor(2.0)])
def test_a_number_becomes_a_float(value):
    assert validate.number("x", value, high=2) == 2.0


@pytest.mark.parametrize("value", [-0.1, 2.1, float("nan"), float("inf"), None, "two", [1, 2]])
def test_a_number_must_be_finite_and_in_range(value):
    with pytest.raises(ValueError, match=r"^x: expected a finite number, from 0 to 2, got "):
        validate.number("x", value, high=2)


def test_whole_numbers():
    assert validate.whole_numbers("x", 3) == (3,)
    assert validate.whole_numbers("x", torch.tensor([3, 4]).tolist()) == (3, 4)
    for value in (1.5, "3", [1, 2.0], None):
        with pytest.raises(ValueError, match=r"^x: expected a whole number, or several, got"):
            validate.whole_numbers("x", value)


def test_layer_weights():
    pairs = (("relu1_1", 1.0), ("relu2_1", 0.0))
    assert validate.layer_weights("w", {"relu1_1": 1, "relu2_1": 0}) == pairs
    assert validate.layer_weights("w", pairs) == pairs
    for value in ({}, None, 3, "relu1_1"):
        with pytest.raises(ValueError, match=r"^w: expected \{layer: weight\} with one layer at least"):
            validate.layer_weights("w", value)
    with pytest.raises(ValueError, match=r"^relu1_1: expected a finite number, at least 0, got -1"):
        validate.layer_weights("w", {"relu1_1": -1})


def test_one_of():
    assert validate.one_of("color", "pca", ["pca", "style"]) == "pca"
    with pytest.raises(
        ValueError, match=r"^color: expected one of pca, style, got 'styel' \(did you mean 'style'\?\)$"
    ):
        validate.one_of("color", "styel", ["pca", "style"])


def test_nearest_suggests_only_what_is_similar():
    assert validate.nearest("relu4-2", ["relu4_2", "conv1_1"]) == " (did you mean 'relu4_2'?)"
    assert validate.nearest("xyz", ["relu4_2"]) == ""


def test_names():
    validate.check_names(["beta"], ["alpha", "beta"])
    with pytest.raises(TypeError, match=r"unknown setting 'style_weight' \(did you mean 'beta'\?\)"):
        validate.check_names(["style_weight"], ["alpha", "beta"])


def test_a_picture_is_clipped_and_detached():
    image = torch.full((1, 3, 4, 5), 1.05, requires_grad=True)
    picture = validate.picture("image", image)
    assert not picture.requires_grad
    assert picture.max() == 1
    for bad in (torch.zeros(3, 4, 5), torch.zeros(2, 3, 4, 5), "image.jpg"):
        with pytest.raises(ValueError, match=r"^image: expected a tensor \(1, 3, H, W\)"):
            validate.picture("image", bad)


@pytest.mark.parametrize(
    ("values", "cause"), [((0, 255), "divide by 255"), ((-2, 2.6), "is it normalized already"), ((0, 3), "normalized")]
)
def test_values_out_of_range_name_the_likely_cause(values, cause):
    image = torch.linspace(*values, 48).view(1, 3, 4, 4)
    with pytest.raises(ValueError, match=rf"^image: expected values in \[0, 1\], got values from .+; .*{cause}"):
        validate.check_image(image)


def test_a_warning_points_outside_the_package():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        validate.warn("something")
    assert caught[0].filename == __file__


@pytest.mark.parametrize("sides", [(100, 1000), (1000, 100), (64, 64), (3, 4), (16, 2000), (1, 77), (299, 301)])
def test_the_smallest_size(sides):
    size = validate.smallest_size(*sides, 16)
    assert min(scaled(*sides, size)) >= 16
    assert min(scaled(*sides, size - 1)) < 16
