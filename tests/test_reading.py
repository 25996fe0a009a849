"""Every source and format of a picture, and what is refused."""

import io
import warnings
import zlib

import numpy as np
import pytest
import torch
from conftest import encoded, pixels
from PIL import Image, ImageOps

import nst_helpers as nst
from nst_helpers.files import reading


class TestSources:
    def test_every_kind_gives_the_same_image(self, photo, tmp_path):
        path = tmp_path / "photo.png"
        photo.save(path)
        expected = nst.load_image(photo, size=None)
        assert expected.shape == (1, 3, 40, 60)
        assert expected.dtype == torch.float32
        np.testing.assert_array_equal(pixels(expected), np.asarray(photo))
        array = np.asarray(photo)
        chw = torch.tensor(array).permute(2, 0, 1)
        with open(path, "rb") as file:
            sources = [path, str(path), path.read_bytes(), bytearray(path.read_bytes()), file, array, array / 255]
            sources += [array.astype(np.uint16) * 257, chw, chw[None], chw / 255, expected, expected.bfloat16()]
            for source in sources:
                tolerance = 2**-8 if getattr(source, "dtype", None) == torch.bfloat16 else 1e-6
                torch.testing.assert_close(nst.load_image(source, size=None), expected, rtol=0, atol=tolerance)

    def test_anything_else_is_refused(self):
        with pytest.raises(TypeError, match="got int"):
            nst.load_image(3)
        with pytest.raises(TypeError, match="opened as text"):
            nst.load_image(io.StringIO("text"))

    def test_the_source_is_left_as_it_was(self, photo):
        tensor = nst.load_image(photo, size=None)
        before = tensor.clone()
        nst.load_image(tensor, size=None).zero_()
        assert torch.equal(tensor, before)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_rotation_is_applied(self, photo, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned = Image.open(io.BytesIO(encoded(photo, exif=exif)))
        expected = np.asarray(ImageOps.exif_transpose(turned))
        image = nst.load_image(encoded(photo, exif=exif), size=None)
        assert image.shape[2:] == ((60, 40) if orientation >= 5 else (40, 60))
        np.testing.assert_array_equal(pixels(image), expected)


class TestModes:
    def test_grayscale_has_three_equal_channels(self, photo):
        image = nst.load_image(encoded(photo.convert("L")), size=None)
        np.testing.assert_array_equal(pixels(image), np.stack([np.asarray(photo.convert("L"))] * 3, axis=2))

    @pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "HSV", "YCbCr"])
    def test_other_modes_match_pillow(self, photo, mode):
        picture = photo.convert(mode)
        np.testing.assert_array_equal(pixels(nst.load_image(picture, size=None)), np.asarray(picture.convert("RGB")))

    def test_cmyk_jpeg(self):
        image = nst.load_image(encoded(Image.new("CMYK", (20, 20), (255, 0, 0, 0)), "JPEG"), size=None)
        np.testing.assert_allclose(pixels(image)[10, 10], (0, 255, 255), atol=3)

    @pytest.mark.parametrize("format", ["PNG", "TIFF"])
    def test_16_bit_is_scaled_not_clipped(self, format):
        ramp = np.linspace(0, 65535, 64).astype(np.uint16)
        image = nst.load_image(encoded(Image.fromarray(np.tile(ramp, (32, 1))), format), size=None)
        torch.testing.assert_close(image[0, 1, 7], torch.from_numpy(ramp / 65535).float(), rtol=0, atol=1e-6)

    def test_32_bit_integers_that_hold_16_bits(self):
        ramp = np.tile(np.linspace(0, 65535, 64).astype(np.int32), (32, 1))
        image = nst.load_image(Image.fromarray(ramp), size=None)
        torch.testing.assert_close(image[0, 0, 0], torch.linspace(0, 1, 64), rtol=0, atol=2e-5)

    def test_transparent_lies_on_white(self):
        picture = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
        picture.putpixel((3, 4), (255, 0, 0, 255))
        picture.putpixel((5, 4), (0, 0, 0, 51))
        image = pixels(nst.load_image(encoded(picture), size=None))
        assert image[0, 0].tolist() == [255, 255, 255]
        assert image[4, 3].tolist() == [255, 0, 0]
        assert image[4, 5].tolist() == [204, 204, 204]

    def test_transparent_palette(self):
        picture = Image.new("P", (20, 20), 0)
        picture.putpalette([10, 20, 30, 200, 100, 50])
        picture.putpixel((1, 1), 1)
        image = pixels(nst.load_image(encoded(picture, transparency=0), size=None))
        assert image[0, 0].tolist() == [255, 255, 255]
        assert image[1, 1].tolist() == [200, 100, 50]

    def test_transparent_array(self):
        array = np.zeros((20, 20, 4), np.float32)
        array[..., 3] = 0.25
        torch.testing.assert_close(nst.load_image(array, size=None), torch.full((1, 3, 20, 20), 0.75))

    def test_first_frame_of_an_animation(self):
        frames = [Image.new("RGB", (20, 20), color) for color in ("red", "lime", "blue")]
        for format in ("GIF", "WEBP", "TIFF", "PNG"):
            animation = encoded(frames[0], format, save_all=True, append_images=frames[1:])
            np.testing.assert_allclose(pixels(nst.load_image(animation, size=None))[9, 9], (255, 0, 0), atol=2)


class TestRefusals:
    """One line that names the file and the reason."""

    def refused(self, source, error, *parts):
        with pytest.raises(error) as caught:
            nst.load_image(source)
        message = str(caught.value)
        assert "\n" not in message
        for part in parts:
            assert part in message

    def test_missing(self, tmp_path):
        self.refused(tmp_path / "no.jpg", FileNotFoundError, "no.jpg", "no such file")

    def test_the_courses_pictures_without_the_course(self, tmp_path, monkeypatch):
        monkeypatch.setattr(reading, "PROJECT", tmp_path)  # as in an installed package
        monkeypatch.chdir(tmp_path)
        path = nst.find_picture("data/content/hopper.jpg")
        self.refused(path, FileNotFoundError, "hopper.jpg", "pictures are not in the installed package")

    def test_folder(self, tmp_path):
        self.refused(tmp_path, IsADirectoryError, tmp_path.name, "a folder")

    def test_not_an_image(self, tmp_path):
        path = tmp_path / "notes.jpg"
        path.write_text("not a picture at all")
        self.refused(path, ValueError, "notes.jpg", "expected an image")

    @pytest.mark.parametrize("format", ["EPS", "PCX", "TGA", "XBM"])
    def test_formats_that_nobody_asked_for(self, monkeypatch, format):
        """Pillow knows many, and to open an EPS it runs the PostScript program inside."""
        monkeypatch.setattr(
            "PIL.EpsImagePlugin.Ghostscript", lambda *arguments, **options: pytest.fail("runs PostScript")
        )
        source = encoded(Image.new("1" if format == "XBM" else "L", (32, 32)), format)
        self.refused(source, ValueError, "<bytes>", "expected an image in one of the formats JPEG, PNG")

    def test_empty_file(self, tmp_path):
        path = tmp_path / "empty.png"
        path.touch()
        self.refused(path, ValueError, "empty.png", "the file is empty")

    @pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
    def test_truncated(self, tmp_path, format):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        whole = encoded(Image.fromarray(noise), format)
        path = tmp_path / f"cut.{format.lower()}"
        for share in np.linspace(0.02, 0.9, 23):
            path.write_bytes(whole[: int(len(whole) * share)])
            self.refused(path, ValueError, path.name)

    def test_truncated_16_bit(self, tmp_path):
        noise = np.random.default_rng(0).integers(0, 65536, (64, 64), dtype=np.uint16)
        whole = encoded(Image.fromarray(noise))
        self.refused(whole[: len(whole) // 2], ValueError, "<bytes>", "truncated")

    def test_zero_sized(self):
        self.refused(np.zeros((0, 20, 3), np.uint8), ValueError, "<ndarray>", "zero-sized")
        self.refused(torch.zeros(1, 3, 20, 0), ValueError, "<Tensor>", "zero-sized")
        self.refused(Image.new("RGB", (0, 20)), ValueError, "<PIL image>", "zero-sized")

    def test_too_many_pixels_is_judged_from_the_header(self, tmp_path):
        path = tmp_path / "bomb.png"
        small = encoded(Image.new("L", (16, 16)))
        for width in (18_000, 60_000):  # over the limit, and over Pillow's own
            header = bytearray(small)
            header[16:24] = width.to_bytes(4, "big") + (10_000).to_bytes(4, "big")
            header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
            path.write_bytes(header)
            self.refused(path, ValueError, "bomb.png", "at most 178 megapixels")

    def test_smaller_than_the_network_can_take(self):
        self.refused(np.zeros((15, 300, 3), np.uint8), ValueError, "300×15 px", "at least 16 px")
        self.refused(np.zeros((20, 2000, 3), np.uint8), ValueError, "512×5 px", "at least 16 px")

    def test_values_out_of_range(self):
        self.refused(np.full((20, 20, 3), 200.0), ValueError, "200", "divide by 255")
        self.refused(np.full((20, 20, 3), -1.0), ValueError, "normalized already")
        self.refused(np.full((20, 20, 3), np.nan), ValueError, "got NaN or infinity")

    def test_array_shapes_and_types(self):
        self.refused(np.zeros((3, 20, 20), np.uint8), ValueError, "(H, W, 3)", "(3, 20, 20)")
        self.refused(torch.zeros(2, 3, 20, 20), ValueError, "(1, 3, H, W)", "(2, 3, 20, 20)")
        self.refused(np.zeros((20, 20), np.int64), ValueError, "int64")


def test_no_warning_escapes_from_pillow():
    """Pillow warns of a decompression bomb at half of our limit; a photograph of 100 megapixels is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nst.load_image(encoded(Image.new("1", (10_000, 10_000))), size=64)


def test_find_picture(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert nst.find_picture("data/content/hopper.jpg") == root / "data" / "content" / "hopper.jpg"
    assert nst.find_picture("https://example.org/a.jpg") == "https://example.org/a.jpg"
    (tmp_path / "mine.jpg").touch()
    assert nst.find_picture("mine.jpg") == "mine.jpg"
    assert nst.find_picture(tmp_path / "mine.jpg") == tmp_path / "mine.jpg"
