"""Small ICC profiles, version 4, from the published colorimetry, adapted to D50 with Bradford's matrix."""

import struct

import numpy as np

BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
D50, D65 = np.array([0.9642, 1.0, 0.8249]), np.array([0.3127, 0.3290, 0.3583]) / 0.3290
SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # parametric curve of type 3


def _numbers(*values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _curve(parameters):
    kind = {1: 0, 5: 3}[len(parameters)]
    return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + _numbers(*parameters)


def _text(text):
    letters = text.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II", 1, 12) + b"enUS" + struct.pack(">II", len(letters), 28) + letters


def _profile(space, name, tags):
    tags = {b"desc": _text(name), b"cprt": _text("CC0"), b"wtpt": b"XYZ " + bytes(4) + _numbers(*D50), **tags}
    table, data, start = b"", b"", 132 + 12 * len(tags)
    for key, value in tags.items():
        table += key + struct.pack(">II", start + len(data), len(value))
        data += value + bytes(-len(value) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(data), b"lcms", 0x04200000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + _numbers(*D50)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + data


def rgb(name, primaries, curve, white=D65):
    """A profile of (x, y) of red, green and blue, and the parameters of one curve for all."""
    xyz = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
    xyz = xyz * np.linalg.solve(xyz, white)
    xyz = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ white)) @ BRADFORD @ xyz
    tags = {key: b"XYZ " + bytes(4) + _numbers(*column) for key, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), xyz.T)}  # noqa: B905
    return _profile(b"RGB ", name, tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(curve)))


SRGB = rgb("sRGB", [(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)], SRGB_CURVE)
DISPLAY_P3 = rgb("Display P3", [(0.68, 0.32), (0.265, 0.69), (0.15, 0.06)], SRGB_CURVE)
ADOBE_RGB = rgb("Adobe RGB (1998)", [(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)], (563 / 256,))
PROPHOTO = rgb("ProPhoto", [(0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)], (1.8,), white=D50)
LINEAR = rgb("linear sRGB", [(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)], (1.0,))
GRAY_LINEAR = _profile(b"GRAY", "linear gray", {b"kTRC": _curve((1.0,))})


def _cmyk():
    """A table from the corners of CMYK to Lab with 8 bits: dull inks, of which black leaves some light."""
    lab = []
    for corner in range(16):
        c, m, y, k = ((corner >> bit) & 1 for bit in (3, 2, 1, 0))
        light = np.array([1 - 0.9 * c, 1 - 0.8 * m, 1 - 0.85 * y]) * (1 - 0.9 * k)
        f = np.cbrt(light)
        lab += [116 * f[1] - 16, 500 * (f[0] - f[1]) / 3, 200 * (f[1] - f[2]) / 3]
    L, a, b = np.array(lab).reshape(16, 3).T
    table = np.stack([L * 2.55, a + 128, b + 128], 1).round().clip(0, 255).astype(np.uint8).tobytes()
    identity = bytes(range(256))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + _numbers(1, 0, 0, 0, 1, 0, 0, 0, 1) + 4 * identity + table
    profile = _profile(b"CMYK", "dull inks", {b"A2B0": lut + 3 * identity})
    return profile[:12] + b"prtrCMYKLab " + profile[24:]


CMYK = _cmyk()
