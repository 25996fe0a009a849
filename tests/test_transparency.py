import numpy as np
import pytest
import torch
from PIL import Image

import nst_helpers as nst


@pytest.fixture
def disc(tmp_path):
    """A red disc with a soft edge on nothing; what is transparent holds green."""
    y, x = np.mgrid[:64, :80]
    alpha = np.clip(20.5 - np.hypot(y - 32, x - 40), 0, 1)
    rgba = np.zeros((64, 80, 4), np.uint8)
    rgba[..., 0], rgba[..., 3] = 200, np.round(255 * alpha)
    rgba[alpha == 0, :3] = (0, 255, 0)
    path = tmp_path / "disc.png"
    Image.fromarray(rgba).save(path)
    return path, alpha


class TestLoad:
    @pytest.mark.parametrize("size", [None, 40, 80])
    def test_no_background_shines_through(self, disc, size):
        """All is the disc's red: no white, and no green, not even at the edge or where nothing is."""
        image, mask = nst.load_transparent(disc[0], size)
        assert image.shape[2:] == mask.shape[2:]
        assert (image[:, 0] - 200 / 255).abs().max() < 0.02
        assert image[:, 1:].max() < 0.02
        if size != 40:
            torch.testing.assert_close(mask[0, 0], torch.tensor(disc[1]).float(), atol=3e-3, rtol=0)
        assert nst.load_image(disc[0], size)[:, 1:].max() > 0.98  # white there

    def test_nearest_colors_go_on(self):
        rgba = np.zeros((40, 60, 4), np.float32)
        rgba[:, :10] = (1, 0, 0, 1)
        rgba[:, 50:] = (0, 0, 1, 1)
        image, _ = nst.load_transparent(rgba, None)
        assert image[0, 0, 20, 12] > 0.8
        assert image[0, 2, 20, 47] > 0.8

    def test_without_transparency(self, picture):
        image, mask = nst.load_transparent(picture()[0].permute(1, 2, 0).numpy(), None)
        torch.testing.assert_close(image, picture())
        assert (mask == 1).all()

    def test_nothing_at_all(self):
        with pytest.raises(ValueError, match="transparent everywhere"):
            nst.load_transparent(np.zeros((40, 40, 4), np.uint8), None)


class TestSave:
    @pytest.mark.parametrize("suffix", [".png", ".webp"])
    def test_there_and_back(self, disc, suffix, tmp_path):
        image, mask = nst.load_transparent(disc[0], None)
        path = nst.save_image(image, tmp_path / f"again{suffix}", mask=mask)
        with Image.open(path) as picture:
            alpha = np.asarray(picture.getchannel("A")) / 255
        assert np.abs(alpha - disc[1]).max() <= 1 / 255

    def test_bad_input(self, disc, tmp_path):
        image, mask = nst.load_transparent(disc[0], None)
        with pytest.raises(ValueError, match="JPEG has no transparency"):
            nst.save_image(image, tmp_path / "a.jpg", mask=mask)
        with pytest.raises(ValueError, match=r"mask: expected \(64, 80\) px, got \(10, 10\) px"):
            nst.save_image(image, tmp_path / "a.png", mask=mask[..., :10, :10])


def test_a_painting_of_it(disc, picture, vgg16, tmp_path):
    """Style goes where something is; the rest stays as it was, and transparent."""
    image, mask = nst.load_transparent(disc[0], None)
    region = nst.Region(mask, picture(64, 80, 3))
    result = nst.transfer(image, region, network=vgg16, sizes=(80,), steps=4, progress=False)
    assert torch.equal(result.image * (mask == 0), image * (mask == 0))
    path = nst.save_image(result.image, tmp_path / "painting.png", mask=mask)
    with Image.open(path) as picture:
        assert picture.mode == "RGBA"
