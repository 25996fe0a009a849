"""Strangers' pictures are decoded in a process of their own, with limits."""

import numpy as np
import pytest
from conftest import encoded
from PIL import Image

import nst_helpers as nst
from nst_helpers.files import sandbox
from nst_helpers.files.decoding import decode
from nst_helpers.files.sandbox import decode_apart


def test_the_same_pixels(photo):
    photo.putalpha(128)
    sixteen = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50)
    for content in (encoded(photo), encoded(photo.convert("RGB"), "JPEG"), encoded(sixteen)):
        array, notes = decode_apart(content, "name")
        expected, expected_notes = decode(content, "name")
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == expected.dtype
        assert notes == expected_notes


def test_the_same_errors(photo):
    noise = encoded(Image.effect_noise((64, 64), 50))
    with pytest.raises(ValueError, match=r"^my file.png: the image is truncated or damaged"):
        decode_apart(noise[: len(noise) // 2], "my file.png")
    with pytest.raises(ValueError, match=r"expected at most 0.001 megapixels, got 0.0"):
        decode_apart(encoded(photo), "a.png", 1000)
    with pytest.raises(ValueError, match=r"^-c: expected an image in one of the formats"):
        decode_apart(b"nothing", "-c")


def test_time_is_limited(photo, monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 0)
    with pytest.raises(ValueError, match="longer than 0 s"):
        decode_apart(encoded(photo), "a.png")


def test_memory_is_limited(monkeypatch):
    pytest.importorskip("resource")
    content = encoded(Image.new("RGB", (8000, 5000)))
    monkeypatch.setattr(sandbox, "MEMORY", 500 * 2**20)
    with pytest.raises(ValueError, match=r"a\.png: "):
        decode_apart(content, "a.png")


def test_what_kills_the_child_leaves_the_parent(photo, monkeypatch):
    monkeypatch.setattr(nst.files.decoding, "__file__", "/no/such/program.py")
    with pytest.raises(ValueError, match=r"a\.png: the picture cannot be decoded: the decoder stopped with code 2"):
        decode_apart(encoded(photo), "a.png")
