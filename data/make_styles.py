"""Make the style images of this course: ``python data/make_styles.py [NAME ...]``.

Every image is painted by a short program with a fixed seed, so anyone can make it again, change it and share it.
Most of them lay thousands of single brush strokes over a color plan, as in Haeberli, "Paint by numbers: abstract image
representations" (1990).
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates, sobel
from scipy.spatial import cKDTree

SIZE = 640
Y, X = np.mgrid[:SIZE, :SIZE].astype(float)


def rgb(colors):
    """Turn a string of hexadecimal colors into an array with one row of red, green, blue in [0, 1] per color."""
    return np.array([list(bytes.fromhex(color)) for color in colors.split()]) / 255


def blend(t, colors):
    """Look up every t in [0, 1] on a smooth ramp through the colors."""
    colors = rgb(colors)
    stops = np.linspace(0, 1, len(colors))
    return np.stack([np.interp(t, stops, channel) for channel in colors.T], axis=-1)


def rank(values):
    """Replace every value by its rank in [0, 1], so that a ramp looked up with it shows each color equally often."""
    return values.ravel().argsort().argsort().reshape(values.shape) / (values.size - 1)


def noise(rng, scale):
    """White noise blurred to the given scale in pixels, with unit variance."""
    blurred = gaussian_filter(rng.standard_normal((SIZE, SIZE)), scale, mode="wrap")
    return blurred / blurred.std()


def curl(potential):
    """Angle of the flow that circles the hills of a potential: curl noise (Bridson et al. 2007)."""
    return np.arctan2(-sobel(potential, 1), sobel(potential, 0))


def lic(image, angle, length):
    """Smear an image along a flow: line integral convolution (Cabral and Leedom 1993)."""
    total = image.copy()
    for sign in (1, -1):
        y, x = Y.copy(), X.copy()
        for _ in range(length // 2):
            here = angle[y.round().astype(int) % SIZE, x.round().astype(int) % SIZE]
            y += sign * np.sin(here)
            x += sign * np.cos(here)
            total += map_coordinates(image, [y, x], order=1, mode="wrap")
    return total


def canvas(colors):
    """A canvas holds red, green, blue and the height of the paint; it starts as a thin coat of the given colors."""
    return np.dstack([np.broadcast_to(colors, (SIZE, SIZE, 3)), np.zeros((SIZE, SIZE))])


def paint(rng, coat, angle, colors, count, length, width, jitter=0.06, where=None):
    """Lay strokes at random places of a canvas, each along the flow, bent with it, and of the plan's color there.

    Bristles streak every stroke in color and height and fray its ends; `where` is the chance to keep a stroke.
    """
    bristles = gaussian_filter(rng.standard_normal((256, 256)), (0.8, 14), mode="wrap")
    bristles /= bristles.std()
    cos, sin = np.cos(angle), np.sin(angle)
    turn = cos * (cos * np.gradient(sin, axis=1) + sin * np.gradient(sin, axis=0))
    turn -= sin * (cos * np.gradient(cos, axis=1) + sin * np.gradient(cos, axis=0))
    turn = turn.clip(-1 / length, 1 / length)
    reach = int(np.hypot(length, width) / 2) + 2
    for y, x in rng.integers(0, SIZE, (count, 2)):
        if where is not None and rng.random() > where[y, x]:
            continue
        box = slice(max(y - reach, 0), y + reach + 1), slice(max(x - reach, 0), x + reach + 1)
        dy, dx = Y[box] - y, X[box] - x
        along = cos[y, x] * dx + sin[y, x] * dy
        across = cos[y, x] * dy - sin[y, x] * dx - turn[y, x] * along**2 / 2
        row, column = rng.integers(0, 256, 2)
        hair = bristles[(2 * across + row).astype(int) % 256, (along + column).astype(int) % 256]
        size = rng.uniform(0.7, 1.3)
        frayed = 2 * along / length + 0.12 * hair
        edge = 1 - abs(2 * across / (width * size)) ** 3 - abs(frayed) ** 3
        cover = (edge * width / 3).clip(0, 1)[..., None]
        tint = (colors[y, x] + jitter * rng.standard_normal(3))[None, None] + 0.05 * hair[..., None]
        stroke = np.dstack([tint, edge.clip(0, 1) + 0.35 * hair])
        coat[box] += cover * (stroke - coat[box])
    return coat


def light(coat, depth=0.12):
    """Light the relief of the paint from the upper left and return the picture."""
    height = gaussian_filter(coat[..., 3], 0.7)
    shade = -(sobel(height, 0) + sobel(height, 1)) / 4
    return coat[..., :3] * (1 - depth * shade.clip(-2, 2)[..., None])


def night(rng):
    """A swirling night sky: long strokes along curl noise, colored by a smear of noise along the same flow."""
    stars = rng.uniform(0, SIZE, (7, 2))
    near = cKDTree(stars).query(np.dstack([Y, X]))[0]
    angle = curl(70 * noise(rng, 70) + 16 * noise(rng, 26) + 90 * np.exp(-((near / 60) ** 2)))
    streaks = rank(lic(noise(rng, 5), angle, 60) + 3 * noise(rng, 40))
    glow = np.exp(-((near / 36) ** 2))
    plan = blend(np.maximum(0.8 * streaks**1.3, glow), "0b1438 16307a 2a62b8 5fa3d0 a9cfc4 f2c230 fff3b0")
    coat = paint(rng, canvas(plan), angle, plan, 2500, 64, 15)
    return light(paint(rng, coat, angle, plan, 8000, 42, 8))


def harvest(rng):
    """A wheat field at noon: short thick strokes of ochre, orange, green and blue in gusts of wind."""
    angle = curl(45 * noise(rng, 50) + 0.8 * Y + 0.3 * X)
    gusts = rank(lic(noise(rng, 7), angle, 40) + 2 * noise(rng, 30))
    plan = blend(gusts, "12343b 1f6f5c 6f8f2f c9a227 f2c14e e8871e b5401a f7e3a1 3f7fae")
    coat = paint(rng, canvas(plan), angle, plan, 3000, 44, 13, 0.08)
    return light(paint(rng, coat, angle, plan, 9000, 26, 7, 0.09), 0.16)


def knife(rng):
    """Palette-knife rain at night: broad upright and level slabs of bright color on a dark ground."""
    tone = rank(noise(rng, 30) + 0.35 * noise(rng, 8))
    plan = blend(tone, "070a1f 141a52 0b4f78 3c2a86 8a1f6e d1274b f26b21 ffb703 fff1c1")
    angle = np.where(noise(rng, 25) > 0, 0.0, np.pi / 2) + 0.3 * noise(rng, 40)
    coat = paint(rng, canvas(plan), angle, plan, 2500, 56, 28, 0.05)
    return light(paint(rng, coat, angle, plan, 2600, 34, 15, 0.06), 0.2)


def ink(rng):
    """A pen drawing: sepia hatching along a flow, crossed by more and steeper layers where the tone is darker."""
    angle = curl(70 * noise(rng, 60) + 15 * noise(rng, 25))
    dark = rank(noise(rng, 35) + 0.4 * noise(rng, 12))
    coat, plan = canvas(rgb("f0e2c0")), np.broadcast_to(rgb("2a1a12"), (SIZE, SIZE, 3))
    for layer, turn in enumerate((0, 0.9, -0.9)):
        chance = ((dark - 0.25 * layer) * 2.5).clip(0, 1)
        coat = paint(rng, coat, angle + turn, plan, 6500, 40, 2.2, 0.04, chance)
    return coat[..., :3]


def tiles(seeds, angle, rounds):
    """Lay square tiles along a flow: Lloyd's relaxation in a turned maximum norm (Hausner 2001).

    Return the tiles' centers, the number of each pixel's tile, and how far the pixel is from that tile's edge.
    """
    for _ in range(rounds):
        near = cKDTree(seeds).query(np.dstack([Y, X]), k=8)[1]
        turn = angle[tuple(seeds.astype(int).clip(0, SIZE - 1).T)][near]
        dy, dx = Y[..., None] - seeds[near, 0], X[..., None] - seeds[near, 1]
        reach = np.maximum(abs(np.cos(turn) * dx + np.sin(turn) * dy), abs(np.cos(turn) * dy - np.sin(turn) * dx))
        order = reach.argsort(-1)[..., :2]
        owner = np.take_along_axis(near, order, -1)[..., 0]
        gap = np.diff(np.take_along_axis(reach, order, -1))[..., 0]
        sums = [np.bincount(owner.ravel(), weights.ravel(), len(seeds)) for weights in (Y, X, 1 + 0 * X)]
        seeds = np.stack(sums[:2], -1) / sums[2][:, None].clip(1)
    return seeds, owner, gap


def mosaic(rng):
    """A Roman mosaic: small glass and gold tiles in rows along a flow, set in dark grout."""
    potential = 60 * noise(rng, 55)
    seeds, owner, gap = tiles(rng.uniform(0, SIZE, (2400, 2)), curl(potential), 8)
    spot = tuple(seeds.astype(int).T)
    tone = (np.sin(potential[spot] / 11) + 1) / 2 + 0.1 * rng.standard_normal(len(seeds))
    tile = blend(tone, "0f2a4a 1c6e8c 3fb0a5 f3e6c4 e0a526 c2491d 6d1a1a") + 0.06 * rng.standard_normal((len(seeds), 3))
    coat = canvas(tile[owner] * (1 + 0.05 * noise(rng, 1.2)[..., None]))
    coat[..., 3] = 3 * np.minimum(gap / 3, 1)
    cover = ((gap - 0.8) / 1.2).clip(0, 1)[..., None]
    return cover * light(coat, 0.1) + (1 - cover) * rgb("1a1512")


def dusk(rng):
    """A blood-red evening over a fjord: very long bands of red, orange and blue that lean on each other."""
    potential = 50 * noise(rng, 65) + 1.7 * Y
    angle = curl(potential)
    bands = rank(lic(noise(rng, 6), angle, 120) + 0.5 * np.sin(potential / 14) + 1.5 * noise(rng, 60))
    plan = blend(bands, "0a1128 122c54 1f5f7a 3f7d6e 7a1f1f c1301c e8601c f5a02c fbe08a")
    coat = paint(rng, canvas(plan), angle, plan, 2000, 90, 13, 0.04)
    return light(paint(rng, coat, angle, plan, 5500, 64, 7, 0.05), 0.14)


def marble(rng):
    """Marbled paper: drops of ink push each other aside and combs drag them (Lu et al., "Mathematical marbling", 2012).

    The moves are undone from last to first, so each pixel finds the drop that its ink came from.
    """
    y, x = Y + 25 * noise(rng, 60), X + 25 * noise(rng, 60)
    for at in rng.uniform(0, SIZE, 8):
        x = x + rng.normal(0, 60) * 0.96 ** abs(y - at)
        y = y + rng.normal(0, 60) * 0.96 ** abs(x - at)
    colors = rgb("14213d 1d4e89 00a6a6 f7b32b f25f3a a4243b f4ead5 2e8b57 0b132b")
    image = np.broadcast_to(colors[0], (SIZE, SIZE, 3)).copy()
    free = np.ones((SIZE, SIZE), bool)
    for drop in range(700):
        center, radius = rng.uniform(-40, SIZE + 40, 2), rng.uniform(4, 30)
        square = (y - center[0]) ** 2 + (x - center[1]) ** 2
        inside = free & (square < radius**2)
        image[inside] = colors[drop % len(colors)] * (0.85 + 0.3 * np.sqrt(square[inside, None]) / radius)
        free &= ~inside
        pull = np.sqrt((1 - radius**2 / square.clip(1e-6)).clip(0))
        y, x = center[0] + (y - center[0]) * pull, center[1] + (x - center[1]) * pull
    return gaussian_filter(image, (0.6, 0.6, 0)) * (1 + 0.03 * noise(rng, 1)[..., None])


def wave(rng):
    """A woodblock print of waves: flat blues shaded from edge to edge, carved lines and foam on cream paper."""
    swell = 3.2 * noise(rng, 60) + 0.5 * noise(rng, 16) + Y / 90 + np.sin(X / 60)
    level = swell % 1
    slope = np.hypot(*np.gradient(swell)).clip(1e-3)
    plan = blend(np.floor(swell) * 0.37 % 1, "0b2a4a 174a7c 2f7fa8 8fb8b8 e9dcb8 d9a05b")
    plan *= 0.75 + 0.35 * level[..., None]
    plan = np.where((level * 4 % 1 / slope / 4 < 1.1)[..., None], rgb("12233f"), plan)
    foam = (level > 0.8 + 0.12 * noise(rng, 4))[..., None]
    plan = np.where(foam, rgb("f3ead2"), plan)
    plan = np.where((np.minimum(level, 1 - level) / slope < 1.8)[..., None], rgb("0a1730"), plan)
    grain = lic(noise(rng, 0.7), 0.05 * noise(rng, 80), 30)
    return gaussian_filter(plan, (0.6, 0.6, 0)) * (1 + 0.04 * grain / grain.std())[..., None]


def discs(rng):
    """Rhythm of discs: rings cut into quarters of strong color, brushed round their centers, after Delaunay."""
    centers = rng.uniform(0, SIZE, (16, 2))
    distance, disc = cKDTree(centers).query(np.dstack([Y, X]))
    dy, dx = Y - centers[disc, 0], X - centers[disc, 1]
    quarter = np.floor((np.arctan2(dy, dx) + disc) / (np.pi / 2)).astype(int)
    colors = rgb("d7263d f46036 f9c80e 2e933c 1b998b 2b50aa 5b2a86 f7e8d0 141414")
    plan = colors[((distance // 19).astype(int) * 5 + quarter * 3 + disc * 2) % len(colors)]
    angle = np.arctan2(dx, -dy)
    coat = paint(rng, canvas(plan), angle, plan, 3000, 26, 11, 0.05)
    return light(paint(rng, coat, angle, plan, 9000, 18, 6, 0.07), 0.14)


def facets(rng):
    """A cubist still life without objects: shaded planes, each brushed in its own direction, with dark edges."""
    seeds = rng.uniform(0, SIZE, (150, 2))
    slant = np.array([[1, -0.3], [0.6, 0.7]])
    distance, near = cKDTree(seeds @ slant).query(np.dstack([Y, X]) @ slant, k=2)
    plane = near[..., 0]
    angle = rng.uniform(0, np.pi, len(seeds))[plane]
    shade = (np.cos(angle) * (Y - seeds[plane, 0]) - np.sin(angle) * (X - seeds[plane, 1])) / 60
    tone = rng.random(len(seeds))[plane] + 0.4 * shade
    plan = blend(tone, "14101a 47203a 9c3d24 dd8a35 f3d58a 7fb5a8 2f6f8a 16304f")
    coat = paint(rng, canvas(plan), angle, plan, 9000, 30, 9, 0.05)
    edge = ((distance[..., 1] - distance[..., 0]) < 3 + noise(rng, 12))[..., None]
    coat[..., :3] = np.where(edge, 0.25 * coat[..., :3], coat[..., :3])
    return light(coat, 0.14)


STYLES = (night, harvest, knife, ink, dusk, mosaic, marble, wave, discs, facets)


def main():
    """Write the named styles, or all of them, to ``styles/NAME.jpg`` beside this file."""
    folder = Path(__file__).parent / "styles"
    folder.mkdir(exist_ok=True)
    known = {style.__name__: style for style in STYLES}
    for name in sys.argv[1:] or known:
        picture = known[name](np.random.default_rng(7))
        Image.fromarray((picture.clip(0, 1) * 255).round().astype(np.uint8)).save(folder / f"{name}.jpg", quality=88)


if __name__ == "__main__":
    main()
