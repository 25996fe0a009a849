"""Strangers' pictures are decoded in a process of their own, with limits."""

import sys

import numpy as np
import pytest
from conftest import encoded
from PIL import Image

import nst_helpers as nst
from nst_helpers.files import sandbox
from nst_helpers.files.decoding import decode
from nst_helpers.files.sandbox import decode_in_child


def test_the_same_pixels(photo):
    photo.putalpha(128)
    sixteen = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)
    for content in (encoded(photo), encoded(photo.convert("RGB"), "JPEG"), encoded(sixteen)):
        array, notes = decode_in_child(content, "name")
        expected, expected_notes = decode(content, "name")
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == expected.dtype
        assert notes == expected_notes


def test_the_same_errors(photo):
    noise = encoded(Image.effect_noise((64, 64), 50))
    with pytest.raises(ValueError, match=r"^my file.png: the image is truncated or damaged"):
        decode_in_child(noise[: len(noise) // 2], "my file.png")
    with pytest.raises(ValueError, match=r"expected at most 0.001 megapixels, got 0.0"):
        decode_in_child(encoded(photo), "a.png", 1000)
    with pytest.raises(ValueError, match=r"^-c: expected an image in one of the formats"):
        decode_in_child(b"nothing", "-c")


def test_time_is_limited(photo, monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 0)
    with pytest.raises(ValueError, match="longer than 0 s"):
        decode_in_child(encoded(photo), "a.png")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit the memory of a process")
def test_memory_is_limited(photo, monkeypatch):
    monkeypatch.setattr(sandbox, "MEMORY", 500 * 2**20)
    decode_in_child(encoded(photo), "a.png")
    with pytest.raises(ValueError, match=r"a\.png: (the picture needs too much memory|the picture cannot be decoded)"):
        decode_in_child(encoded(Image.new("RGB", (8000, 5000))), "a.png")


def test_names_that_are_no_arguments(photo):
    for name in ("a" * 200_000, "-c", "a\0b.png"):
        assert decode_in_child(encoded(photo), name)[0].shape == (40, 60, 3)


def test_what_kills_the_child_leaves_the_parent(photo, monkeypatch):
    monkeypatch.setattr(nst.files.decoding, "__file__", "/no/such/program.py")
    with pytest.raises(ValueError, match=r"a\.png: the picture cannot be decoded: the decoder stopped with code 2"):
        decode_in_child(encoded(photo), "a.png")
