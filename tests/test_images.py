import numpy as np
import pytest
import torch
from conftest import encoded, pixels
from PIL import Image

import nst_helpers as nst
from nst_helpers import images


class TestSize:
    @pytest.mark.parametrize(
        ("shape", "expected"), [((200, 400), (32, 64)), ((400, 200), (64, 32)), ((101, 97), (64, 61))]
    )
    def test_longest_side(self, shape, expected):
        image = nst.load_image(np.zeros((*shape, 3), np.uint8), size=64)
        assert image.shape == (1, 3, *expected)

    def test_is_lanczos(self, photo):
        image = nst.load_image(photo, size=30)
        np.testing.assert_array_equal(pixels(image), np.asarray(photo.resize((30, 20), Image.Resampling.LANCZOS)))

    def test_stays_in_range_where_lanczos_overshoots(self):
        edge = np.zeros((64, 64), np.float32)
        edge[:, 32:] = 1
        image = nst.load_image(edge, size=48)
        assert image.min() == 0
        assert image.max() == 1

    def test_a_warning_points_to_the_line_of_the_caller(self, photo, tmp_path, picture):
        photo.convert("L").save(tmp_path / "small.png")
        calls = [
            lambda: nst.load_image(photo, size=640),
            lambda: nst.load_mask(tmp_path / "small.png", 640),
            lambda: nst.load_transparent(photo, 640),
            lambda: nst.StyleTransfer(picture(), picture(), sizes=(80,), device="cpu"),
            lambda: nst.transfer(picture(), picture(), sizes=(80,), steps=1, device="cpu", progress=False),
        ]
        for call in calls:
            with pytest.warns(UserWarning, match="enlarged") as caught:
                call()
            line = call.__code__.co_firstlineno
            assert {(warning.filename, warning.lineno) for warning in caught} == {(__file__, line)}

    def test_enlarging_says_so(self, photo):
        with pytest.warns(UserWarning, match=r"<PIL image>: enlarged from 60×40 to 120×80 px"):
            assert nst.load_image(photo, size=120).shape == (1, 3, 80, 120)

    def test_a_large_photograph_within_the_limit_raises_no_warning(self):
        assert nst.load_image(encoded(Image.new("1", (12_000, 8_000))), size=64).shape == (1, 3, 43, 64)

    @pytest.mark.parametrize("size", [0, -5, 15, 64.0, "64"])
    def test_bad_size(self, photo, size):
        with pytest.raises(ValueError, match="size: expected the longest side in pixels, a whole number ≥ 16"):
            nst.load_image(photo, size=size)


class TestPreprocess:
    def test_is_imagenet_normalization(self):
        image = torch.tensor(images.IMAGENET_MEAN).view(1, 3, 1, 1).expand(2, 3, 4, 5)
        assert nst.preprocess(image).abs().max() == 0
        torch.testing.assert_close(
            nst.preprocess(torch.ones(3, 4, 5))[:, 0, 0], torch.tensor([2.2489, 2.4286, 2.64]), atol=1e-4, rtol=0
        )

    def test_inverses_of_each_other(self, picture):
        image = picture().double()
        torch.testing.assert_close(nst.deprocess(nst.preprocess(image)), image, rtol=0, atol=1e-15)
        normalized = torch.randn(2, 3, 8, 8, dtype=torch.float64) * 0.1
        torch.testing.assert_close(nst.preprocess(nst.deprocess(normalized)), normalized, rtol=0, atol=1e-14)
        assert nst.deprocess(torch.full((3, 1, 1), 10.0)).min() > 2  # nothing is clipped

    def test_gradient_passes(self):
        assert torch.autograd.gradcheck(nst.preprocess, torch.rand(1, 3, 2, 2, dtype=torch.float64, requires_grad=True))

    def test_normalizing_twice_is_noticed(self, picture):
        with pytest.raises(ValueError, match="normalized already"):
            nst.preprocess(nst.preprocess(picture()))

    @pytest.mark.parametrize(
        ("bad", "message"),
        [
            (torch.full((1, 3, 4, 4), 255.0), "divide by 255"),
            (torch.full((1, 3, 4, 4), torch.nan), "got NaN or infinity"),
            (torch.full((1, 3, 4, 4), torch.inf), "got NaN or infinity"),
            (torch.zeros(1, 4, 4, 4), r"\(\.\.\., 3, H, W\)"),
            (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "uint8"),
        ],
    )
    def test_bad_input(self, bad, message):
        with pytest.raises(ValueError, match=message):
            nst.preprocess(bad)


class TestSave:
    @pytest.mark.parametrize(("suffix", "error"), [(".png", 0), (".jpg", 1), (".jpeg", 1), (".webp", 2), (".PNG", 0)])
    def test_comes_back(self, picture, tmp_path, suffix, error):
        image = picture(64, 96)
        path = nst.save_image(image, tmp_path / "new" / f"painting{suffix}")
        back = nst.load_image(path, size=None)
        assert back.shape == image.shape
        assert np.abs(pixels(back).astype(int) - pixels(image)).mean() <= error
        assert [file.name for file in path.parent.iterdir()] == [path.name]

    def test_rounds_to_the_nearest_level(self, tmp_path):
        image = torch.full((3, 16, 16), 127.6 / 255)
        assert Image.open(nst.save_image(image, tmp_path / "a.png")).getpixel((0, 0)) == (128, 128, 128)

    @pytest.mark.parametrize("name", ["painting", "painting.gif", "painting.tiff"])
    def test_other_suffixes(self, picture, tmp_path, name):
        with pytest.raises(ValueError, match=r"a name that ends in one of \.png, \.jpg, \.jpeg, \.webp"):
            nst.save_image(picture(), tmp_path / name)

    def test_bad_images(self, picture, tmp_path):
        with pytest.raises(ValueError, match="expected one image"):
            nst.save_image(picture().expand(2, -1, -1, -1), tmp_path / "a.png")
        with pytest.raises(ValueError, match="normalized already"):
            nst.save_image(nst.preprocess(picture()), tmp_path / "a.png")

    def test_a_failure_leaves_the_old_file(self, picture, tmp_path, monkeypatch):
        path = nst.save_image(picture(), tmp_path / "a.png")
        before = path.read_bytes()

        def broken(self, file, *args, **kwargs):
            file.write(b"half")
            raise OSError("disk full")

        monkeypatch.setattr(Image.Image, "save", broken)
        with pytest.raises(OSError, match="disk full"):
            nst.save_image(picture(seed=1), path)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


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


class TestLoadTransparent:
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


class TestSaveTransparent:
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


def test_a_painting_of_it(disc, picture, vgg, tmp_path):
    """Style goes where something is; the rest stays as it was, and transparent."""
    image, mask = nst.load_transparent(disc[0], None)
    region = nst.Region(mask, picture(64, 80, 3))
    result = nst.transfer(image, region, network=vgg, sizes=(80,), steps=4, progress=False)
    assert torch.equal(result.image * (mask == 0), image * (mask == 0))
    path = nst.save_image(result.image, tmp_path / "painting.png", mask=mask)
    with Image.open(path) as picture:
        assert picture.mode == "RGBA"
