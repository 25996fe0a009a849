"""The compiled inner loops of `winograd`: float32 inside, float32 or bfloat16 in memory.

Every array of feature maps is (H, W, C) and holds the *bits* of its numbers: uint32 for float32, uint16 for bfloat16,
which is the upper half of a float32 (NumPy has no bfloat16). C is a multiple of LANES; H and W are free.
"""

import numpy as np
from numba import njit

TILE, PATCH = 4, 6  # output and input pixels a side
LANES = 16  # channels worked on at once: a 512-bit register of float32

F, U = np.float32, np.uint32
a, b = F(2 / 3), F(3 / 2)
a2, b2, a3, b3, sum2 = F(4 / 9), F(9 / 4), F(8 / 27), F(27 / 8), F(97 / 36)  # sum2 = a² + b²; a²b² is 1

# What a gate does: nothing; pass where it is not 0 (the gradient of ReLU); pass where it names the place in its 2×2
# (of ReLU and max pooling); spread over the 2×2, and pass where it is not 0 (of ReLU and average pooling).
OPEN, RELU, MAX, AVERAGE = range(4)
NOWHERE = 4  # the place of a maximum that is not above 0

# Without "nnan" and "ninf": what is not finite has to come out as such.
_flags = {"contract", "reassoc", "nsz", "arcp"}
_compiled = njit(fastmath=_flags, error_model="numpy", nogil=True, cache=True)
_inlined = njit(fastmath=_flags, error_model="numpy", inline="always")


@_inlined
def _bt(d0, d1, d2, d3, d4, d5):
    """Return Bᵀ d."""
    e, f, g, h = d4 - b2 * d2, a * d3 - b * d1, d4 - a2 * d2, b * d3 - a * d1
    return d0 + d4 - sum2 * d2, e + f, e - f, g + h, g - h, d1 + d5 - sum2 * d3


@_inlined
def _at(m0, m1, m2, m3, m4, m5):
    """Return Aᵀ m."""
    e, f, g, h = m1 + m2, m1 - m2, m3 + m4, m3 - m4
    return m0 + e + g, a * f + b * h, a2 * e + b2 * g, a3 * f + b3 * h + m5


@_inlined
def _format(array):
    """Return what turns the array's numbers to float32, value << shift, and back, (bits + half) >> shift."""
    return (U(16), U(0x8000)) if array.itemsize == 2 else (U(0), U(0))


@_compiled
def patches(x, gate, mode, V, first, across):
    """Fill V (36, tiles, C) with Bᵀ d B of the tiles from the `first` on; the picture has `across` in a row.

    d is of x (H, W, C), or of what comes of x behind its gate: (2H, 2W, C) where that undoes a pooling.
    """
    from_x, (to_v, half) = _format(x)[0], _format(V)
    scale = 2 if mode >= MAX else 1
    height, width = scale * x.shape[0], scale * x.shape[1]
    P, Q = np.empty((PATCH, PATCH, LANES), F), np.empty((PATCH, PATCH, LANES), F)
    bits = P.view(U)
    for t in range(V.shape[1]):
        top, left = (first + t) // across * TILE - 1, (first + t) % across * TILE - 1
        i0, i1, j0, j1 = max(0, -top), min(PATCH, height - top), max(0, -left), min(PATCH, width - left)
        for c0 in range(0, x.shape[2], LANES):
            if i1 - i0 < PATCH or j1 - j0 < PATCH:
                P[:] = F(0)
            for i in range(i0, i1):
                for j in range(j0, j1):
                    y, z = top + i, left + j
                    if mode == OPEN:
                        for c in range(LANES):
                            bits[i, j, c] = U(x[y, z, c0 + c]) << from_x
                    elif mode == RELU:
                        for c in range(LANES):
                            value, passes = U(x[y, z, c0 + c]) << from_x, gate[y, z, c0 + c] != 0
                            bits[i, j, c] = value if passes else U(0)
                    elif mode == MAX:
                        place = (y & 1) * 2 + (z & 1)
                        for c in range(LANES):
                            value = U(x[y >> 1, z >> 1, c0 + c]) << from_x
                            passes = gate[y >> 1, z >> 1, c0 + c] == place
                            bits[i, j, c] = value if passes else U(0)
                    else:
                        for c in range(LANES):
                            value, passes = U(x[y >> 1, z >> 1, c0 + c]) << from_x, gate[y, z, c0 + c] != 0
                            bits[i, j, c] = value if passes else U(0)
                        for c in range(LANES):
                            P[i, j, c] *= F(0.25)
            for i in range(PATCH):
                for c in range(LANES):
                    Q[i, 0, c], Q[i, 1, c], Q[i, 2, c], Q[i, 3, c], Q[i, 4, c], Q[i, 5, c] = _bt(
                        P[i, 0, c], P[i, 1, c], P[i, 2, c], P[i, 3, c], P[i, 4, c], P[i, 5, c]
                    )
            for j in range(PATCH):
                for c in range(LANES):
                    P[0, j, c], P[1, j, c], P[2, j, c], P[3, j, c], P[4, j, c], P[5, j, c] = _bt(
                        Q[0, j, c], Q[1, j, c], Q[2, j, c], Q[3, j, c], Q[4, j, c], Q[5, j, c]
                    )
            for i in range(PATCH):
                for j in range(PATCH):
                    for c in range(LANES):
                        V[i * PATCH + j, t, c0 + c] = (bits[i, j, c] + half) >> to_v


@_inlined
def _tile(M, t, c0, P, Q):
    """Fill P[:4, :4] with Aᵀ m A of tile t and LANES of its channels."""
    from_m, bits = _format(M)[0], P.view(U)
    for i in range(PATCH):
        for j in range(PATCH):
            for c in range(LANES):
                bits[i, j, c] = U(M[i * PATCH + j, t, c0 + c]) << from_m
    for j in range(PATCH):
        for c in range(LANES):
            Q[0, j, c], Q[1, j, c], Q[2, j, c], Q[3, j, c] = _at(
                P[0, j, c], P[1, j, c], P[2, j, c], P[3, j, c], P[4, j, c], P[5, j, c]
            )
    for i in range(TILE):
        for c in range(LANES):
            P[i, 0, c], P[i, 1, c], P[i, 2, c], P[i, 3, c] = _at(
                Q[i, 0, c], Q[i, 1, c], Q[i, 2, c], Q[i, 3, c], Q[i, 4, c], Q[i, 5, c]
            )


@_compiled
def outputs(M, bias, lowest, y, kept, first, across):
    """Write max(Aᵀ m A + bias, lowest) of M's tiles into y (H, W, C), and into `kept` unless that is empty."""
    (to_y, half_y), (to_kept, half_kept) = _format(y), _format(kept)
    H, W, C = y.shape
    P, Q = np.empty((PATCH, PATCH, LANES), F), np.empty((TILE, PATCH, LANES), F)
    bits = P.view(U)
    for t in range(M.shape[1]):
        top, left = (first + t) // across * TILE, (first + t) % across * TILE
        for c0 in range(0, C, LANES):
            _tile(M, t, c0, P, Q)
            for i in range(min(TILE, H - top)):
                for j in range(min(TILE, W - left)):
                    for c in range(LANES):
                        P[i, j, c] = max(P[i, j, c] + bias[c0 + c], lowest)
                    for c in range(LANES):
                        y[top + i, left + j, c0 + c] = (bits[i, j, c] + half_y) >> to_y
                    if kept.size:
                        for c in range(LANES):
                            kept[top + i, left + j, c0 + c] = (bits[i, j, c] + half_kept) >> to_kept


@_compiled
def pooled_outputs(M, bias, y, places, first, across):
    """Write the 2×2 maxima of max(Aᵀ m A + bias, 0) into y (H, W, C), and into `places` where they stood."""
    to_y, half = _format(y)
    H, W, C = y.shape
    P, Q = np.empty((PATCH, PATCH, LANES), F), np.empty((TILE, PATCH, LANES), F)
    values, stood = np.empty(LANES, F), np.empty(LANES, np.uint8)
    bits = values.view(U)
    for t in range(M.shape[1]):
        top, left = (first + t) // across * (TILE // 2), (first + t) % across * (TILE // 2)
        for c0 in range(0, C, LANES):
            _tile(M, t, c0, P, Q)
            for i in range(min(TILE // 2, H - top)):
                for j in range(min(TILE // 2, W - left)):
                    for c in range(LANES):
                        p0, p1 = P[2 * i, 2 * j, c], P[2 * i, 2 * j + 1, c]
                        p2, p3 = P[2 * i + 1, 2 * j, c], P[2 * i + 1, 2 * j + 1, c]
                        highest = max(max(p0, p1), max(p2, p3))
                        place = 0 if p0 == highest else (1 if p1 == highest else (2 if p2 == highest else 3))
                        value = highest + bias[c0 + c]
                        values[c], stood[c] = max(value, F(0)), place if value > 0 else NOWHERE
                    for c in range(LANES):
                        y[top + i, left + j, c0 + c] = (bits[c] + half) >> to_y
                    for c in range(LANES):
                        places[top + i, left + j, c0 + c] = stood[c]


# The first convolution has three input channels: too few for tiles to pay.


@_compiled
def first_outputs(x, weight, bias, lowest, y, kept, start, stop):
    """Write max(x * weight + bias, lowest) of rows start … stop into y (H, W, C), and into `kept` unless empty.

    x (H + 2, W + 2, 3), with a border of 0, and weight (27, C), by row, column and channel, are plain float32.
    """
    (to_y, half_y), (to_kept, half_kept) = _format(y), _format(kept)
    values, sums = np.empty(27, F), np.empty(y.shape[2], F)
    bits = sums.view(U)
    for r in range(start, stop):
        for s in range(y.shape[1]):
            for k in range(27):
                values[k] = x[r + k // 9, s + k % 9 // 3, k % 3]
            for c in range(y.shape[2]):
                total = bias[c]
                for k in range(27):
                    total += values[k] * weight[k, c]
                sums[c] = max(total, lowest)
            for c in range(y.shape[2]):
                y[r, s, c] = (bits[c] + half_y) >> to_y
            if kept.size:
                for c in range(y.shape[2]):
                    kept[r, s, c] = (bits[c] + half_kept) >> to_kept


TAPS = 32  # 27, and room to fill two registers


@_compiled
def first_gradient(g, gate, mode, weight, out, start, stop):
    """Write the gradient of rows start … stop of the image into out (H, W, 3), plain float32.

    g (H, W, C) passes its gate (OPEN or RELU). weight (C, 32) is float32: what a channel gives to the 27 values that
    it came from.
    """
    from_g = _format(g)[0]
    H, W, C = g.shape
    given = np.zeros((3, W + 2, TAPS), F)  # by the rows above, at and below the one to be written
    values, sums = np.empty((4, C), F), np.empty((4, TAPS), F)
    bits = values.view(U)
    for r in range(start - 1, stop + 1):
        slot = (r + 3) % 3
        if r < 0 or r >= H:
            given[slot] = F(0)
        else:
            for s in range(0, W, 4):
                for p in range(min(4, W - s)):
                    for c in range(C):
                        value, passes = U(g[r, s + p, c]) << from_g, mode == OPEN or gate[r, s + p, c] != 0
                        bits[p, c] = value if passes else U(0)
                sums[:] = F(0)
                for c in range(C):
                    v0, v1, v2, v3 = values[0, c], values[1, c], values[2, c], values[3, c]
                    for k in range(TAPS):
                        sums[0, k] += v0 * weight[c, k]
                        sums[1, k] += v1 * weight[c, k]
                        sums[2, k] += v2 * weight[c, k]
                        sums[3, k] += v3 * weight[c, k]
                for p in range(min(4, W - s)):
                    for k in range(TAPS):
                        given[slot, s + p + 1, k] = sums[p, k]
        if r > start:
            for s in range(W):
                for channel in range(3):
                    total = F(0)
                    for i in range(3):
                        for j in range(3):
                            total += given[(r - i + 3) % 3, s + 2 - j, (i * 3 + j) * 3 + channel]
                    out[r - 1, s, channel] = total
