"""Compiled inner loops of `winograd`: arithmetic in float32, memory in float32 or bfloat16.

Feature maps are arrays (H, W, C) that hold the *bits* of their numbers: uint32 for float32, uint16 for bfloat16, which
is the upper half of a float32 (NumPy has no bfloat16). C must be a multiple of LANES; H and W may have any value.
"""

import contextlib

import numpy as np
from numba import config, njit
from numba.core.caching import FunctionCache

from .lanes import LANES, inlined, load, load_along, maximum, select_equal, store, store_along

TILE, PATCH = 4, 6  # side of an output tile and of an input patch, in pixels

F = np.float32
a, b = F(2 / 3), F(3 / 2)
a2, b2, a3, b3, sum2 = F(4 / 9), F(9 / 4), F(8 / 27), F(27 / 8), F(97 / 36)  # sum2 = a² + b²; a²b² is 1

# Modes of an activation mask. OPEN: no mask. RELU (gradient of ReLU): pass where the mask is not 0. MAX (gradient of
# ReLU and max pooling): pass to the position in the 2×2 window that the mask names. AVERAGE (gradient of ReLU and
# average pooling): spread over the 2×2 window, and pass where the mask is not 0.
OPEN, RELU, MAX, AVERAGE = range(4)
NOWHERE = 4  # position of a maximum that is not above 0

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT is set")


class _Cache(FunctionCache):
    """numba's cache of machine code on disk. A full disk or a damaged file only means that it is not used."""

    def load_overload(self, *args):
        try:
            return super().load_overload(*args)
        except Exception:
            with contextlib.suppress(Exception):
                self.flush()  # begin a new index

    def save_overload(self, *args):
        with contextlib.suppress(Exception):
            super().save_overload(*args)


def _compiled(function):
    """Return a function that is compiled at its first call, and cached if there is a folder that can be written to."""
    compiled = njit(error_model="numpy", nogil=True)(function)
    with contextlib.suppress(RuntimeError, OSError):
        compiled._cache = _Cache(function)
    return compiled


@inlined
def _bt(d):
    """Return Bᵀ d."""
    d0, d1, d2, d3, d4, d5 = d
    e, f, g, h = d4 - b2 * d2, a * d3 - b * d1, d4 - a2 * d2, b * d3 - a * d1
    return d0 + d4 - sum2 * d2, e + f, e - f, g + h, g - h, d1 + d5 - sum2 * d3


@inlined
def _at(m):
    """Return Aᵀ m."""
    m0, m1, m2, m3, m4, m5 = m
    e, f, g, h = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    return m0 + e + g, a * f + b * h, a2 * e + b2 * g, a3 * f + b3 * h + m5


@inlined
def _masked(x, mask, mode, i, j, c0):
    """Return the masked value at row i, column j."""
    if mode == OPEN:
        return load(x, (i, j, c0))
    if mode == RELU:
        return select_equal(load(mask, (i, j, c0)), F(0), F(0), load(x, (i, j, c0)))
    if mode == MAX:
        return select_equal(
            load(mask, (i >> 1, j >> 1, c0)), F((i & 1) * 2 + (j & 1)), load(x, (i >> 1, j >> 1, c0)), F(0)
        )
    return select_equal(load(mask, (i, j, c0)), F(0), F(0), F(0.25) * load(x, (i >> 1, j >> 1, c0)))


@_compiled
def patches(x, mask, mode, V, first, across):
    """Fill V (6, 6, tiles, C) with the transformed patches Bᵀ d B of consecutive tiles.

    first: index of the first tile; `across` is the number of tiles in a row of the picture.
    d: masked patches of x (H, W, C). MAX and AVERAGE undo a pooling: then the patches are of an array (2H, 2W, C).
    """
    scale = 2 if mode >= MAX else 1
    height, width = scale * x.shape[0], scale * x.shape[1]
    P = np.empty((PATCH, PATCH, LANES), F)
    for t in range(V.shape[2]):
        top, left = (first + t) // across * TILE - 1, (first + t) % across * TILE - 1
        i0, i1, j0, j1 = max(0, -top), min(PATCH, height - top), max(0, -left), min(PATCH, width - left)
        for c0 in range(0, x.shape[2], LANES):
            if i1 - i0 < PATCH or j1 - j0 < PATCH:
                P[:] = F(0)
            for i in range(i0, i1):
                for j in range(j0, j1):
                    store(P, (i, j, 0), _masked(x, mask, mode, top + i, left + j, c0))
            for i in range(PATCH):
                store_along(P, (i, 0, 0), 1, _bt(load_along(P, (i, 0, 0), 1, PATCH)))
            for j in range(PATCH):
                store_along(V, (0, j, t, c0), 0, _bt(load_along(P, (0, j, 0), 0, PATCH)))


@inlined
def _tile(M, t, c0, P):
    """Fill P[:4, :4] with Aᵀ m A of tile t for LANES channels from c0 on."""
    for j in range(PATCH):
        store_along(P, (0, j, 0), 0, _at(load_along(M, (0, j, t, c0), 0, PATCH)))
    for i in range(TILE):
        store_along(P, (i, 0, 0), 1, _at(load_along(P, (i, 0, 0), 1, PATCH)))


@_compiled
def outputs(M, bias, lowest, y, kept, first, across):
    """Write max(Aᵀ m A + bias, lowest) of the tiles of M to y (H, W, C), and to `kept` unless that is empty."""
    H, W, C = y.shape
    P = np.empty((TILE, PATCH, LANES), F)
    for t in range(M.shape[2]):
        top, left = (first + t) // across * TILE, (first + t) % across * TILE
        for c0 in range(0, C, LANES):
            _tile(M, t, c0, P)
            b = load(bias, (c0,))
            for i in range(min(TILE, H - top)):
                for j in range(min(TILE, W - left)):
                    value = maximum(load(P, (i, j, 0)) + b, lowest)
                    store(y, (top + i, left + j, c0), value)
                    if kept.size:
                        store(kept, (top + i, left + j, c0), value)


@_compiled
def pooled_outputs(M, bias, y, argmax, first, across):
    """Write the 2×2 max pooling of max(Aᵀ m A + bias, 0) to y (H, W, C), and the maxima's positions to `argmax`."""
    H, W, C = y.shape
    P = np.empty((TILE, PATCH, LANES), F)
    for t in range(M.shape[2]):
        top, left = (first + t) // across * (TILE // 2), (first + t) % across * (TILE // 2)
        for c0 in range(0, C, LANES):
            _tile(M, t, c0, P)
            b = load(bias, (c0,))
            for i in range(min(TILE // 2, H - top)):
                for j in range(min(TILE // 2, W - left)):
                    p0, p1 = load(P, (2 * i, 2 * j, 0)), load(P, (2 * i, 2 * j + 1, 0))
                    p2, p3 = load(P, (2 * i + 1, 2 * j, 0)), load(P, (2 * i + 1, 2 * j + 1, 0))
                    p = maximum(maximum(p0, p1), maximum(p2, p3))
                    value = maximum(p + b, F(0))
                    place = select_equal(p, p0, F(0), select_equal(p, p1, F(1), select_equal(p, p2, F(2), F(3))))
                    store(y, (top + i, left + j, c0), value)
                    store(argmax, (top + i, left + j, c0), select_equal(value, F(0), F(NOWHERE), place))


# The first convolution has only three input channels, for which a direct convolution is faster.


@_compiled
def first_outputs(x, weight, bias, lowest, y, kept, start, stop):
    """Write max(x * weight + bias, lowest) of rows start … stop to y (H, W, C), and to `kept` unless it is empty.

    x (H + 2, 3·(W + 5)), zero-padded, and weight (27, C), ordered by row, column and channel, are float32.
    """
    _, W, C = y.shape
    P = np.empty((4, LANES), F)
    for r in range(start, stop):
        for s in range(0, W, 4):
            for c0 in range(0, C, LANES):
                v0 = load(bias, (c0,))
                v1, v2, v3 = v0, v0, v0
                for i in range(3):
                    for k in range(9):
                        w = load(weight, (9 * i + k, c0))
                        v0 += x[r + i, 3 * s + k] * w
                        v1 += x[r + i, 3 * s + k + 3] * w
                        v2 += x[r + i, 3 * s + k + 6] * w
                        v3 += x[r + i, 3 * s + k + 9] * w
                store_along(P, (0, 0), 0, (v0, v1, v2, v3))
                for p in range(min(4, W - s)):
                    value = maximum(load(P, (p, 0)), lowest)
                    store(y, (r, s + p, c0), value)
                    if kept.size:
                        store(kept, (r, s + p, c0), value)


TAPS = 2 * LANES  # 27 weights per channel, padded to two registers


@_compiled
def first_gradient(g, mask, mode, weight, out, start, stop):
    """Write the gradient of rows start … stop of the image to out (H, W, 3), in float32.

    g (H, W, C) is masked (OPEN or RELU). weight (C, 32), float32: the filter of each channel, ordered by row, column
    and image channel, and padded.
    """
    H, W, C = g.shape
    given = np.zeros((3, W + 6, TAPS), F)  # contributions of the rows above, at and below the row to write
    values, sums, nought = np.empty((4, C), F), np.empty(LANES, F), np.zeros(LANES, F)
    for r in range(start - 1, stop + 1):
        slot = (r + 3) % 3
        if r < 0 or r >= H:
            given[slot] = F(0)
        else:
            for s in range(0, W, 4):
                for p in range(4):
                    for c0 in range(0, C, LANES):
                        store(values, (p, c0), _masked(g, mask, mode, r, min(s + p, W - 1), c0))
                u0 = load(nought, (0,))
                u1, u2, u3, v0, v1, v2, v3 = u0, u0, u0, u0, u0, u0, u0
                for c in range(C):
                    u, v = load(weight, (c, 0)), load(weight, (c, LANES))
                    u0 += values[0, c] * u
                    v0 += values[0, c] * v
                    u1 += values[1, c] * u
                    v1 += values[1, c] * v
                    u2 += values[2, c] * u
                    v2 += values[2, c] * v
                    u3 += values[3, c] * u
                    v3 += values[3, c] * v
                store_along(given, (slot, s + 1, 0), 1, (u0, u1, u2, u3))
                store_along(given, (slot, s + 1, LANES), 1, (v0, v1, v2, v3))
            given[slot, W + 1 :] = F(0)
        if r > start:
            for s in range(W):
                total = load(given, ((r + 3) % 3, s + 2, 0))
                for k in range(1, 9):
                    total += load(given, ((r - k // 3 + 3) % 3, s + 2 - k % 3, 3 * k))
                store(sums, (0,), total)
                for channel in range(3):
                    out[r - 1, s, channel] = sums[channel]
