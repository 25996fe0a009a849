"""Pictures and the pretrained network that the tests share. VGG-16, since everyone can have it."""

from pathlib import Path

import pytest
import torch

import nst_helpers as nst

ROOT = Path(__file__).resolve().parents[1]
pytest_plugins = ["pages"]


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def vgg16():
    return nst.load_vgg("vgg16", device="cpu")


@pytest.fixture
def picture():
    """Makes a smooth, colorful image (1, 3, height, width) in [0, 1]; another seed makes another."""

    def make(height=48, width=64, seed=0):
        coarse = torch.rand(1, 3, 6, 8, generator=torch.Generator().manual_seed(seed))
        return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").clamp(0, 1)

    return make


def pytest_collection_modifyitems(config, items):
    """Whole notebooks first where there are several workers, so that no worker ends with the longest one alone."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: "test_nbval" not in item.name)
