"""What comes out of a file is what its author saw: profiles, depths, orientations, containers, and damage."""

import io
import struct
import sys
import time
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import profiles
import pytest
import torch
from conftest import encoded, pixels
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin
from PIL.TiffImagePlugin import IFDRational

import nst_helpers as nst

LOSSLESS = {
    "PNG": {},
    "TIFF": {},
    "WEBP": {"lossless": True},
    "JPEG": {"quality": 100, "subsampling": 0},
} | ({"AVIF": {"quality": 100, "subsampling": "4:4:4"}} if "AVIF" in Image.registered_extensions().values() else {})
RAMP = np.tile(np.linspace(0, 1, 64), (32, 1))


def loaded(source):
    return nst.load_image(source, None)


def in_srgb(picture, profile):
    return ImageCms.profileToProfile(picture, io.BytesIO(profile), ImageCms.createProfile("sRGB"), outputMode="RGB")


def tiff(values, bits, photometric=1, sample_format=1, samples=1, tags=()):
    """A little-endian TIFF with one strip of raw bytes; `values` is (H, W) or (H, W, samples), or the packed bytes."""
    data, (height, width) = values if isinstance(values, tuple) else (values.tobytes(), values.shape[:2])
    entries = [(256, width), (257, height), (259, 1), (262, photometric), (277, samples), (278, height)]
    entries += [(258, bits), (279, len(data)), (339, sample_format), *tags]
    start = 8 + 2 + 12 * (len(entries) + 1) + 4
    if samples > 1:
        data_start, many = start + 2 * samples, struct.pack(f"<{samples}H", *[bits] * samples)
    else:
        data_start, many = start, b""
    directory = struct.pack("<H", len(entries) + 1)
    for number, value in sorted([*entries, (273, data_start)]):
        count, kind = (samples, 3) if number == 258 and samples > 1 else (1, 4)
        directory += struct.pack("<HHII", number, kind, count, start if count > 1 else value)
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(4) + many + data


def big_endian(content, compression):
    """The same gray TIFF in the other byte order, whose numbers in `content` are big-endian already."""
    tags = struct.unpack("<H", content[8:10])[0]
    entries = {}
    for start in range(10, 10 + 12 * tags, 12):
        number, _, _, value = struct.unpack("<HHII", content[start : start + 12])
        entries[number] = value
    data = content[-entries[279] :]
    if compression == "tiff_adobe_deflate":
        entries[259], data = 8, zlib.compress(data)
    entries[279], entries[273] = len(data), 10 + 12 * tags + 4
    directory = b"".join(struct.pack(">HHII", number, 4, 1, entries[number]) for number in sorted(entries))
    return b"MM\0*" + struct.pack(">IH", 8, tags) + directory + bytes(4) + data


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(png, kind, data, at=33):
    return png[:at] + chunk(kind, data) + png[at:]


class TestProfiles:
    @pytest.mark.parametrize("format", LOSSLESS)
    @pytest.mark.parametrize("name", ["SRGB", "DISPLAY_P3", "ADOBE_RGB", "PROPHOTO", "LINEAR"])
    def test_rgb(self, photo, name, format):
        profile = getattr(profiles, name)
        stored = encoded(photo, format, icc_profile=profile, **LOSSLESS[format])
        raw = Image.open(io.BytesIO(stored)).convert("RGB")
        np.testing.assert_allclose(pixels(loaded(stored)), np.asarray(in_srgb(raw, profile)), atol=2)
        if name != "SRGB":
            assert np.abs(pixels(loaded(stored)).astype(int) - np.asarray(raw)).mean() > 5

    def test_known_colors(self):
        red = Image.new("RGB", (20, 20), (234, 51, 35))  # sRGB's red in Display P3
        assert pixels(loaded(encoded(red, icc_profile=profiles.DISPLAY_P3)))[0, 0].tolist() == [255, 0, 0]
        other = Image.new("RGB", (20, 20), (200, 60, 40))
        found = pixels(loaded(encoded(other, icc_profile=profiles.ADOBE_RGB)))[0, 0]
        np.testing.assert_allclose(found, (231, 57, 34), atol=1)

    def test_srgb_changes_nothing(self, photo):
        found = pixels(loaded(encoded(photo, icc_profile=profiles.SRGB)))
        np.testing.assert_allclose(found, np.asarray(photo), atol=1)

    def test_pil_image(self, photo):
        photo.info["icc_profile"] = profiles.DISPLAY_P3
        np.testing.assert_array_equal(pixels(loaded(photo)), np.asarray(in_srgb(photo, profiles.DISPLAY_P3)))

    @pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
    def test_gray(self, format):
        gray = Image.new("L", (20, 20), 128)
        np.testing.assert_allclose(pixels(loaded(encoded(gray, format, icc_profile=profiles.GRAY_LINEAR))), 188, atol=1)

    @pytest.mark.parametrize("format", ["PNG", "TIFF"])
    def test_gray_of_16_bits(self, format):
        gray = Image.fromarray(np.full((20, 20), 128 * 257, np.uint16))
        np.testing.assert_allclose(pixels(loaded(encoded(gray, format, icc_profile=profiles.GRAY_LINEAR))), 188, atol=1)

    @pytest.mark.parametrize("format", ["JPEG", "TIFF"])
    def test_cmyk(self, format):
        """With a table, as profiles of printing inks have it."""
        picture = Image.new("CMYK", (20, 20), (255, 128, 0, 0))
        without = pixels(loaded(encoded(picture, format)))[0, 0]
        np.testing.assert_allclose(without, (0, 127, 255), atol=3)
        stored = encoded(picture, format, icc_profile=profiles.CMYK)
        expected = in_srgb(Image.open(io.BytesIO(stored)), profiles.CMYK)
        np.testing.assert_array_equal(pixels(loaded(stored)), np.asarray(expected))
        assert np.abs(pixels(loaded(stored))[0, 0].astype(int) - without).max() > 20
        assert pixels(loaded(encoded(picture, format, icc_profile=profiles.SRGB)))[0, 0].tolist() == without.tolist()

    def test_alpha_and_palette_stay(self, photo):
        photo.putalpha(Image.linear_gradient("L").resize(photo.size))
        stored = encoded(photo, icc_profile=profiles.DISPLAY_P3)
        image, mask = nst.load_transparent(stored, None)
        expected = np.asarray(in_srgb(photo.convert("RGB"), profiles.DISPLAY_P3))
        opaque = np.asarray(photo.getchannel("A")) > 60
        np.testing.assert_allclose(pixels(image)[opaque], expected[opaque], atol=1)
        np.testing.assert_array_equal(pixels(mask.expand(1, 3, -1, -1))[..., 0], np.asarray(photo.getchannel("A")))
        palette = photo.convert("RGB").quantize(32)
        found = pixels(loaded(encoded(palette, icc_profile=profiles.DISPLAY_P3)))
        np.testing.assert_array_equal(found, np.asarray(in_srgb(palette.convert("RGB"), profiles.DISPLAY_P3)))

    @pytest.mark.parametrize("profile", [b"", b"broken", profiles.DISPLAY_P3[:200], profiles.GRAY_LINEAR])
    def test_broken_or_for_another_mode(self, photo, profile):
        for format, options in LOSSLESS.items():
            stored = encoded(photo, format, icc_profile=profile, **options)
            expected = pixels(loaded(encoded(photo, format, **options)))
            np.testing.assert_array_equal(pixels(loaded(stored)), expected)

    def test_rgb_profile_of_a_gray_picture(self, photo):
        gray = photo.convert("L")
        found = pixels(loaded(encoded(gray, icc_profile=profiles.DISPLAY_P3)))
        np.testing.assert_array_equal(found[..., 0], np.asarray(gray))

    def test_adobe_rgb_of_a_camera_without_a_profile(self, photo):
        for tags in ({ExifTags.Base.ColorSpace: 2}, {ExifTags.IFD.Interop: {1: "R03"}}):
            exif = Image.Exif()
            exif.get_ifd(ExifTags.IFD.Exif).update(tags)
            stored = encoded(photo, "JPEG", exif=exif)
            expected = in_srgb(Image.open(io.BytesIO(stored)), profiles.ADOBE_RGB)
            np.testing.assert_allclose(pixels(loaded(stored)), np.asarray(expected), atol=2)


class TestDepths:
    def same(self, content, expected, tolerance=2 / 65535):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*expected white inside the region")
            mask = nst.load_mask(content, None)
        for image in (loaded(content), nst.load_transparent(content, None)[0], mask):
            torch.testing.assert_close(image[0, 0].double(), torch.from_numpy(expected), rtol=0, atol=tolerance)

    def test_16_bits(self):
        values = (RAMP * 65535).round().astype("<u2")
        self.same(tiff(values, 16), RAMP)
        self.same(encoded(Image.fromarray(values)), RAMP)

    def test_white_is_zero(self):
        self.same(tiff((RAMP * 255).round().astype(np.uint8), 8, photometric=0), 1 - RAMP, 1 / 255)
        self.same(tiff((RAMP * 65535).round().astype("<u2"), 16, photometric=0), 1 - RAMP)
        self.same(tiff(RAMP.astype("<f4"), 32, photometric=0, sample_format=3), 1 - RAMP)

    def test_12_bits(self):
        values = (RAMP * 4095).round().astype(int)
        pairs = values.reshape(-1, 2).T
        packed = np.stack([pairs[0] >> 4, (pairs[0] & 15) << 4 | pairs[1] >> 8, pairs[1] & 255], 1).astype(np.uint8)
        self.same(tiff((packed.tobytes(), values.shape), 12), RAMP, 1 / 4095)
        self.same(tiff(values.astype("<u2"), 16, tags=[(281, 4095)]), RAMP, 1 / 4095)

    def test_a_maximum_that_is_a_statistic_means_nothing(self):
        self.same(tiff((RAMP * 50_000).round().astype("<u2"), 16, tags=[(281, 50_000)]), RAMP * 50_000 / 65535)
        self.same(tiff((RAMP * 65535).round().astype("<u2"), 16, tags=[(281, 4095)]), RAMP)

    def test_signed(self):
        self.same(tiff((RAMP * 32767).round().astype("<i2"), 16, sample_format=2), RAMP, 1 / 32767)
        self.same(tiff((RAMP * 127).round().astype("i1"), 8, sample_format=2), RAMP, 1 / 127)
        with pytest.raises(ValueError, match="values from 0 to 32767, got values from -1024 to 3071"):
            loaded(tiff((RAMP * 4095 - 1024).astype("<i2"), 16, sample_format=2))

    def test_32_bits(self):
        self.same(tiff((RAMP * (2**32 - 1)).astype("<u4"), 32), RAMP)
        self.same(tiff(RAMP.astype("<f4"), 32, sample_format=3), RAMP)
        with pytest.raises(ValueError, match="divide by 255"):
            loaded(tiff((RAMP * 255).astype("<f4"), 32, sample_format=3))

    @pytest.mark.parametrize("compression", ["raw", "tiff_adobe_deflate"])
    def test_big_endian(self, compression):
        for kind, full in (("f4", 1), ("u2", 65535), ("i2", 32767)):
            content = tiff((RAMP * full).astype(f">{kind}"), 8 * int(kind[1]), sample_format="_uif".index(kind[0]))
            self.same(big_endian(content, compression), RAMP, 1 / 32767)

    def test_planes_of_16_bits(self):
        planes = np.concatenate([RAMP * 65535] * 3).astype("<u2")
        with pytest.raises(ValueError, match="got a planar TIFF of 16 bits"):
            loaded(tiff((planes.tobytes(), RAMP.shape), 16, 2, samples=3, tags=[(284, 2)]))

    def test_dark_integers_are_reported(self):
        for content in (tiff((RAMP * 1023).astype("<u2"), 16), encoded(Image.fromarray((RAMP * 1023).astype("<u2")))):
            with pytest.warns(UserWarning, match="the largest value is 1023 of 65535"):
                assert loaded(content).max() < 0.02
        color = np.stack([RAMP * 4095] * 3, 2).astype("<u2")
        with pytest.warns(UserWarning, match="the largest value is 15 of 255"):
            loaded(tiff(color, 16, 2, samples=3))

    @pytest.mark.parametrize("depth", [1, 2, 4])
    def test_few_bits_with_a_transparent_color(self, depth):
        levels = np.arange(64) % 2**depth
        packed = np.packbits((levels[:, None] >> np.arange(depth)[::-1]) & 1)
        rows = zlib.compress((b"\0" + packed.tobytes()) * 32)
        header = struct.pack(">IIBBBBB", 64, 32, depth, 0, 0, 0, 0)
        png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
        expected = np.tile(levels / (2**depth - 1), (32, 1))
        np.testing.assert_allclose(loaded(png)[0, 0].numpy(), expected, atol=1e-6)
        with_hole = with_chunk(png, b"tRNS", struct.pack(">H", 1))
        for source in (with_hole, Image.open(io.BytesIO(with_hole))):
            opacity = nst.load_transparent(source, None)[1][0, 0].numpy()
            np.testing.assert_array_equal(opacity, np.tile(levels != 1, (32, 1)))
        np.testing.assert_allclose(loaded(with_hole)[0, 0].numpy(), np.where(levels == 1, 1, expected), atol=1e-6)

    def test_transparent_color_of_16_bits(self):
        values = (RAMP * 65535).round().astype(np.uint16)
        gray = with_chunk(encoded(Image.fromarray(values)), b"tRNS", struct.pack(">H", 0))
        assert loaded(gray)[0, 0, 0, :2].tolist() == pytest.approx([1, values[0, 1] / 65535])
        rows = b"".join(b"\0" + np.stack([row] * 3, 1).astype(">u2").tobytes() for row in values)
        header = struct.pack(">IIBBBBB", 64, 32, 16, 2, 0, 0, 0)
        png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        np.testing.assert_allclose(loaded(png)[0, 1].numpy(), RAMP, atol=1 / 255)
        opaque = with_chunk(png, b"tRNS", struct.pack(">HHH", 65535, 65535, 65535))
        assert nst.load_transparent(opaque, None)[1][0, 0, 0, -2:].tolist() == [1, 0]


class TestScale:
    """Integers up to 255 in a wider type would be a black picture."""

    @pytest.mark.parametrize("dtype", ["int32", "uint16", ">u2", "int64", "int16", "uint32"])
    def test_arrays(self, photo, dtype):
        for array in (np.asarray(photo), np.asarray(photo.convert("L"))):
            with pytest.raises(ValueError, match=r"values 0 to 2\d\d; convert it to uint8"):
                loaded(array.astype(dtype))

    @pytest.mark.parametrize("dtype", [torch.int32, torch.uint16, torch.int64, torch.int16])
    def test_tensors(self, photo, dtype):
        with pytest.raises(ValueError, match="convert it to uint8"):
            loaded(torch.from_numpy(np.array(photo)).permute(2, 0, 1).to(dtype))

    @pytest.mark.parametrize("mode", ["I", "I;16"])
    def test_pil_images(self, photo, mode):
        with pytest.raises(ValueError, match=r'use .convert\("L"\)'):
            loaded(photo.convert("L").convert(mode))

    def test_int32_is_never_16_bits(self):
        with pytest.raises(ValueError, match="convert it to uint16"):
            loaded(np.full((20, 20, 3), 40_000, np.int32))


class TestFrames:
    def test_a_preview_before_the_picture(self):
        preview, picture = Image.new("RGB", (20, 20), "red"), Image.new("RGB", (40, 30), "lime")
        for number, value in ((254, 1), (254, 4), (255, 2)):  # a preview; a mask; a preview, as older programs say
            file = io.BytesIO()
            with TiffImagePlugin.AppendingTiffWriter(file) as pages:
                preview.save(pages, "TIFF", tiffinfo={number: value})
                pages.newFrame()
                picture.save(pages, "TIFF")
                pages.newFrame()
            assert loaded(file.getvalue()).shape[2:] == (30, 40)

    @pytest.mark.parametrize("of_preview", [None, profiles.ADOBE_RGB])
    @pytest.mark.parametrize("own", [None, profiles.DISPLAY_P3])
    def test_each_page_has_its_own_profile(self, of_preview, own):
        preview, picture = Image.new("RGB", (20, 20), "red"), Image.new("RGB", (40, 30), (200, 60, 40))
        file = io.BytesIO()
        with TiffImagePlugin.AppendingTiffWriter(file) as pages:
            preview.save(pages, "TIFF", tiffinfo={254: 1}, icc_profile=of_preview)
            pages.newFrame()
            picture.save(pages, "TIFF", icc_profile=own)
            pages.newFrame()
        expected = in_srgb(picture, own) if own else picture
        np.testing.assert_array_equal(pixels(loaded(file.getvalue())), np.asarray(expected))

    def test_a_preview_alone(self):
        stored = encoded(Image.new("RGB", (20, 20), "red"), "TIFF", tiffinfo={254: 1})
        np.testing.assert_array_equal(pixels(loaded(stored))[0, 0], (255, 0, 0))

    def test_substitute_for_an_animation(self):
        still, *frames = (Image.new("RGB", (20, 20), color) for color in ("red", "lime", "blue"))
        stored = encoded(still, "PNG", save_all=True, append_images=frames, default_image=True)
        np.testing.assert_array_equal(pixels(loaded(stored))[0, 0], (0, 255, 0))


class TestChunks:
    """Damaged and large chunks that are not needed do not stop a PNG."""

    @pytest.mark.parametrize("kind", [b"gAMA", b"pHYs", b"cHRM", b"sRGB", b"iCCP", b"tIME"])
    def test_damaged(self, photo, kind):
        bad = chunk(kind, b"\1")[:-1] + b"\0"
        png = encoded(photo)
        np.testing.assert_array_equal(pixels(loaded(png[:33] + bad + png[33:])), np.asarray(photo))

    def test_large_profile(self, photo):
        profile = b"P3\0\0" + zlib.compress(profiles.DISPLAY_P3 + bytes(3_000_000))
        found = pixels(loaded(with_chunk(encoded(photo), b"iCCP", profile)))
        np.testing.assert_array_equal(found, np.asarray(in_srgb(photo, profiles.DISPLAY_P3)))


class TestTexts:
    TEXT = b"workflow\0\0" + zlib.compress(b"x" * 3_000_000)

    def test_long_texts_are_skipped(self, photo):
        png = encoded(photo)
        for content in (with_chunk(png, b"zTXt", self.TEXT), with_chunk(png, b"zTXt", self.TEXT, len(png) - 12)):
            np.testing.assert_array_equal(pixels(loaded(content)), np.asarray(photo))

    def test_long_recipe(self, picture, tmp_path):
        recipe = {"note": "x" * 3_000_000}
        path = nst.save_image(picture(), tmp_path / "painting.png", recipe=recipe)
        assert nst.recipe_from_png(path) == recipe
        damaged = path.read_bytes().replace(b"nst_recipe\0\1\0\0\0x", b"nst_recipe\0\1\0\0\0y")
        with pytest.raises(ValueError, match="<bytes>: the recipe is damaged"):
            nst.recipe_from_png(damaged)
        assert nst.load_image(path, None).shape == (1, 3, 48, 64)


class TestExif:
    def photo(self, orientation=None, **tags):
        exif = Image.Exif()
        exif.update({ExifTags.Base.Make: "Cam", ExifTags.Base.XResolution: IFDRational(72, 1), **tags})
        if orientation:
            exif[ExifTags.Base.Orientation] = orientation
        exif.get_ifd(ExifTags.IFD.Exif).update({0x829A: IFDRational(1, 100), 0x9204: IFDRational(-1, 3)})
        exif.get_ifd(ExifTags.IFD.GPSInfo).update({1: "N", 2: (IFDRational(1, 1),) * 3})
        noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        return encoded(Image.fromarray(noise), "JPEG", exif=exif)

    @pytest.mark.parametrize("many", [400, pytest.param(4000, marks=pytest.mark.slow)])
    def test_damage(self, many):
        """Whole pixels with damaged metadata load, and no warning of Pillow's escapes."""
        whole = self.photo(6)
        start, random = whole.index(b"Exif\0\0") + 6, np.random.default_rng(1)
        length = struct.unpack(">H", whole[start - 8 : start - 6])[0] - 8
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(many):
                damaged = bytearray(whole)
                for _ in range(random.integers(1, 5)):
                    damaged[start + random.integers(length)] = random.choice([0, 255, random.integers(256)])
                assert set(loaded(bytes(damaged)).shape[2:]) == {40, 60}

    @pytest.mark.parametrize(
        ("kind", "count", "value", "height"),
        [
            (3, 1, struct.pack("<HH", 6, 0), 60),
            (4, 1, struct.pack("<I", 6), 60),
            (3, 2, struct.pack("<HH", 6, 6), 60),
            (2, 2, b"6\0\0\0", 60),
            (5, 1, struct.pack("<I", 38), 60),
            (7, 4, b"6666", 40),
            (3, 1, struct.pack("<HH", 99, 0), 40),
        ],
        ids=["SHORT", "LONG", "two SHORT", "ASCII", "RATIONAL", "UNDEFINED", "99"],
    )
    def test_orientation_of_any_type(self, photo, kind, count, value, height):
        """An EXIF block with the orientation, and a signed rational in a field that is for unsigned ones."""
        entries = struct.pack("<HHI", 0x0112, kind, count) + value + struct.pack("<HHII", 0x011A, 10, 1, 38)
        block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4) + struct.pack("<ii", 6, 1)
        plain = encoded(photo, "JPEG")
        content = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]
        assert loaded(content).shape[2] == height

    def test_rational_with_denominator_0(self, photo):
        entries = struct.pack("<HHI4s", 0x0112, 3, 1, b"\6\0\0\0") + struct.pack("<HHII", 0x011A, 10, 1, 38)
        block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4) + struct.pack("<ii", -1, 0)
        plain = encoded(photo, "JPEG")
        content = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]
        assert loaded(content).shape[2] == 60

    @pytest.mark.parametrize("format", LOSSLESS)
    def test_every_container(self, photo, format):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        stored = encoded(photo, format, exif=exif, **LOSSLESS[format])
        expected = np.asarray(photo.transpose(Image.Transpose.ROTATE_270))
        assert np.abs(pixels(loaded(stored)).astype(int) - expected).mean() < 1
        _, mask = nst.load_transparent(stored, None)
        assert mask.shape[2:] == (60, 40)

    @pytest.mark.parametrize("format", ["PNG", "TIFF"])
    def test_16_bits(self, format):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 8
        stored = encoded(Image.fromarray((RAMP * 65535).astype(np.uint16)), format, exif=exif)
        np.testing.assert_allclose(loaded(stored)[0, 0].numpy(), np.rot90(RAMP), atol=2e-5)


class TestHEIC:
    """As a phone writes it: turned, in Display P3."""

    def test_read_with_the_plugin(self, photo):
        heif = pytest.importorskip("pillow_heif")
        heif.register_heif_opener()
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        stored = encoded(photo, "HEIF", quality=100, chroma=444, exif=exif.tobytes(), icc_profile=profiles.DISPLAY_P3)
        expected = np.asarray(in_srgb(photo, profiles.DISPLAY_P3).transpose(Image.Transpose.ROTATE_270))
        found = pixels(loaded(stored)).astype(int)
        assert found.shape == expected.shape
        assert np.abs(found - expected).mean() < 1.5

    def test_named_without_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
        heic = struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(200)
        with pytest.raises(ValueError, match="got HEIC; install pillow-heif, or export the picture as JPEG"):
            loaded(heic)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), "JPEG XL"),
        (b"\xff\x0a" + bytes(50), "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(50), "JPEG 2000"),
        (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "Radiance HDR"),
        (b"v/1\x01\x02\0\0\0" + bytes(100), "OpenEXR"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"<?xml version='1.0'?>\n<!-- made by hand -->\n<svg/>", "SVG"),
        (b"%PDF-1.4\n", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"\n<!DOCTYPE html><html><svg/>", "a web page"),
        (struct.pack(">I", 24) + b"ftypqt  " + bytes(100), "a video"),
        (b"\x1aE\xdf\xa3" + bytes(100), "a video"),
        (struct.pack(">I", 24) + b"ftypcrx " + bytes(100), "RAW"),
        (b"FUJIFILMCCD-RAW 0201" + bytes(100), "RAW"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(100), "RAW"),
        (b"8BPS\0\x01" + bytes(100), "Photoshop"),
        (tiff(np.stack([RAMP] * 3, 2).astype("<f4"), 32, 2, 3, 3), "TIFF with samples"),
    ],
)
def test_other_files_are_named(content, name):
    with pytest.raises(ValueError, match=f"^<bytes>: expected an image in one of the formats JPEG, .*, got .*{name}"):
        loaded(content)


def test_threads_leave_the_filters_of_warnings(photo):
    content, before = encoded(photo), list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(loaded, [content] * 200))
    assert list(warnings.filters) == before


@pytest.mark.parametrize("scheme", ["data", "file", "ftp"])
def test_other_addresses_are_named(scheme):
    with pytest.raises(ValueError, match=f"got a {scheme}: address") as caught:
        nst.load_image(nst.find_picture(f"{scheme}://image/png;base64," + 5000 * "A"))
    assert len(str(caught.value)) < 200


def test_names_that_no_file_can_have():
    for name in ("a" * 300 + ".png", "a\0b.png"):
        with pytest.raises(FileNotFoundError, match="no such file"):
            loaded(nst.find_picture(name))


def test_a_closed_file(photo):
    with Image.open(io.BytesIO(encoded(photo))) as closed:
        pass
    with pytest.raises(ValueError, match="the picture's file was closed"):
        loaded(closed)


# ------------------------------------------------------------------------------------------------------------- damaged


def seeds():
    """One small file of each format, with a profile and metadata where it can hold them."""
    y, x = np.mgrid[:24, :32]
    photo = Image.fromarray(np.stack([x * 8, y * 10, (x * y) % 256], 2).astype(np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    extras = {"icc_profile": profiles.DISPLAY_P3, "exif": exif}
    yield encoded(photo, "JPEG", **extras)
    yield encoded(photo, "JPEG", progressive=True)
    yield encoded(photo, "PNG", **extras)
    yield encoded(photo.quantize(16), "PNG", transparency=3)
    yield encoded(photo, "WEBP", lossless=True, **extras)
    yield encoded(photo, "WEBP", quality=80)
    yield encoded(photo.quantize(16), "GIF", save_all=True, append_images=[photo.rotate(180).quantize(16)])
    yield encoded(photo, "TIFF", **extras)
    yield encoded(photo, "TIFF", compression="tiff_lzw")
    yield tiff((RAMP * 65535).astype("<u2"), 16)
    yield encoded(photo, "BMP")
    yield encoded(photo.quantize(16), "BMP")


def check_damaged(content):
    """A damaged file is a picture or one of our errors, in 2 s and with 1 GB for each of three loaders."""
    began = time.perf_counter()
    tracemalloc.start()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for load in (nst.load_image, nst.load_transparent, nst.load_mask):
                try:
                    load(content, 64)
                except ValueError as error:
                    assert str(error).startswith("<bytes>: "), error  # noqa: PT017
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert time.perf_counter() - began < 3 * 2
    assert peak < 2**30


def damage(examples):
    files = list(seeds())

    @settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(
        st.sampled_from(files),
        st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 255)), max_size=6),
        st.one_of(st.none(), st.integers(0, 1500)),
        st.tuples(st.integers(0, 1500), st.binary(max_size=12)),
    )
    def run(content, changes, length, insertion):
        damaged = bytearray(content)
        for position, value in changes:
            damaged[position % len(damaged)] = value
        where, extra = insertion
        damaged[where % len(damaged) : where % len(damaged)] = extra
        check_damaged(bytes(damaged[: length if length is not None else len(damaged)]))

    run()


def test_damaged_files():
    damage(500)


@pytest.mark.slow
def test_many_damaged_files():
    damage(5000)
