"""How the defaults were chosen: candidates painted on several pairs, measured, and laid side by side for the eye.

    python -m benchmarks.defaults paint                 # every candidate on every pair; existing paintings are kept
    python -m benchmarks.defaults measure               # a table of measures that no loss optimizes
    python -m benchmarks.defaults sheet old crowson     # a sheet: one row for each pair, with these candidates
    python -m benchmarks.defaults blind old crowson     # the same in random order, with the key in another file

Paintings and sheets are in outputs/defaults/.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import avg_pool2d, cosine_similarity, interpolate, normalize, pad

import nst_helpers as nst

ROOT = Path(__file__).resolve().parents[1]
OUTPUTS = ROOT / "outputs" / "defaults"
PAIRS = (
    "hopper+night", "astronaut+harvest", "chelsea+discs", "rocket+dusk", "coffee+mosaic",
    "chelsea+facets", "hopper+wave", "rocket+knife", "coffee+marble", "astronaut+ink",
)  # fmt: skip


def layer_weights(*weights: float) -> dict[str, float]:
    """Return the style layers' weights, scaled to add up to 1."""
    return {layer: weight / sum(weights) for layer, weight in zip(nst.STYLE_WEIGHTS, weights, strict=True)}


FORMER = {"style_loss": "gram", "sizes": (128, 256, 512), "steps": (50, 50, 75)}
DEEP = {"style_weights": layer_weights(0.4, 0.25, 0.2, 0.1, 0.05)}
CANDIDATES: dict[str, dict] = {  # sizes are for --size 512
    "old": {  # the former defaults
        "network": "vgg16",
        "relative_losses": False,
        "beta": 10.0,
        "style_weights": dict(zip(nst.STYLE_WEIGHTS, (20, 1, 0.25, 1, 5), strict=True)),
        **FORMER,
    },
    "default": {},
    "beta16": {"beta": 16.0},
    "small": {
        "beta": 20.0,
        "style_weights": layer_weights(0.3, 0.3, 0.2, 0.2, 0.002),
        "sizes": (128, 256, 512),
        "steps": (30, 30, 50),
    },
    "deep": {"beta": 40.0, **DEEP, "sizes": (128, 256, 512), "steps": (30, 30, 50)},
    "deep_256": {"beta": 20.0, **DEEP, "sizes": (256, 512), "steps": (40, 55)},
    "gram": {"beta": 80.0, "style_weights": layer_weights(0.3, 0.3, 0.2, 0.198, 0.002), **FORMER},
    "gram_deep": {"beta": 50.0, **DEEP, **FORMER},
    "crowson": {"preset": "crowson", "share": 0.16},  # of its evaluations; takes 2.5 times our seconds
    "crowson_short": {"preset": "crowson", "share": 0.065},  # this and the next three: 1.3 to 1.4 times our seconds
    "jc": {"preset": "jc", "share": 0.09},
    "gatys_pytorch": {"preset": "gatys_pytorch", "share": 0.2},
    "pytorch_tutorial": {"preset": "pytorch_tutorial", "share": 0.25},
    "draft": {"quality": "draft"},
    "best": {"quality": "best"},
}


def paint(name: str, pair: str, size: int) -> None:
    """Paint a candidate, and note its seconds, unless this was done before."""
    path = OUTPUTS / str(size) / name / f"{pair}.png"
    if path.exists():
        return
    settings = dict(CANDIDATES[name])
    content, style = pictures(pair, size)
    if "preset" in settings:  # on the network of all candidates
        share, settings = settings["share"], nst.presets[settings["preset"]].settings(content, "vgg19", size)
        settings["steps"] = tuple(round(share * steps) for steps in settings["steps"])
    began = time.process_time()
    result = nst.transfer(content, style, progress=False, **settings)
    recipe = {"cpu_seconds": time.process_time() - began, "evaluations": len(result.history), **result.recipe}
    nst.save_image(result.image, path, recipe=recipe)


def pictures(pair: str, size: int) -> tuple[Tensor, Tensor]:
    """Return content and style of a pair, whose names are files in data/ without their suffix."""
    content, style = pair.split("+")
    paths = ROOT / "data" / "content" / f"{content}.jpg", ROOT / "data" / "styles" / f"{style}.jpg"
    return nst.load_image(paths[0], size), nst.load_image(paths[1], size)


# ----------------------------------------------------------------------------------------------------------- measures


def sliced_distance(found: Tensor, wanted: Tensor) -> float:
    """Return the sliced Wasserstein distance of two sets of vectors (C, n), divided by the variance of the second."""
    directions = normalize(torch.randn(128, len(found), generator=torch.Generator().manual_seed(1)))
    a, b = (
        interpolate((directions @ rows).sort(1).values[None], size=512, mode="linear")[0] for rows in (found, wanted)
    )
    return ((a - b).square().mean() / b.var(1).mean()).item()


def color_noise(image: Tensor) -> float:
    """Return the root mean square of the chroma (Cb, Cr) minus its mean over 3 × 3 pixels."""
    red, green, blue = image[0]
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = torch.stack([0.564 * (blue - luma), 0.713 * (red - luma)])[None]
    return (chroma - avg_pool2d(pad(chroma, (1, 1, 1, 1), mode="replicate"), 3, 1)).square().mean().sqrt().item()


def measures(image: Tensor, content: Tensor, style: Tensor, judge: nst.VGG) -> dict[str, float]:
    """Return the measures of a painting, by the features of another network than the one that painted it.

    style: `sliced_distance` of feature maps, in the mean of four layers; colors: the same of pixels; subject: cosine of
    the centered relu4_2 maps with the photograph's; noise: `color_noise`, divided by the style's own.
    """
    layers = ["relu1_1", "relu2_1", "relu3_1", "relu4_1"]
    F, S = (nst.get_features(x, judge, [*layers, "relu4_2"]) for x in (image, style))
    P = nst.get_features(content, judge, ["relu4_2"])["relu4_2"]
    distances = [sliced_distance(F[layer][0].flatten(1), S[layer][0].flatten(1)) for layer in layers]
    maps = [x - x.mean((2, 3), keepdim=True) for x in (F["relu4_2"], P)]
    return {
        "style": sum(distances) / len(distances),
        "colors": sliced_distance(image[0].flatten(1), style[0].flatten(1)),
        "subject": cosine_similarity(maps[0].flatten(), maps[1].flatten(), 0).item(),
        "noise": color_noise(image) / color_noise(style),
    }


def table(size: int) -> dict:
    """Return {candidate: {measure: its median over the pairs}} of all paintings."""
    judge, found = nst.load_vgg("vgg16", device="cpu"), {}
    for name in CANDIDATES:
        paths = sorted((OUTPUTS / str(size) / name).glob("*.png"))
        rows = [measures(nst.load_image(path, None), *pictures(path.stem, size), judge) for path in paths]
        recipes = [nst.recipe_from_png(path) for path in paths]
        for row, recipe in zip(rows, recipes, strict=True):
            row |= {"cpu_seconds": recipe["cpu_seconds"]}
        if rows:
            found[name] = {key: torch.tensor([row[key] for row in rows]).median().item() for key in rows[0]}
            found[name]["pairs"] = len(rows)
    return found


# ------------------------------------------------------------------------------------------------------------- sheets


def sheet(names: list[str], size: int, path: Path, shuffle: bool = False, width: int = 360) -> None:
    """Write a sheet with a row for each pair: content, style, candidates; `shuffle`: as letters in random order."""
    rows, key, order = [], {}, random.Random(0)
    for pair in PAIRS:
        given = order.sample(names, len(names)) if shuffle else names
        files = [OUTPUTS / str(size) / name / f"{pair}.png" for name in given]
        if not all(file.exists() for file in files):
            continue
        key[pair] = given
        titles = [f"{pair}: {chr(65 + i)}" for i in range(len(given))] if shuffle else given
        images = [nst.to_pil(x) for x in pictures(pair, size)] + [Image.open(file).convert("RGB") for file in files]
        images = [x.resize((width, round(x.height * width / x.width)), Image.Resampling.LANCZOS) for x in images]
        row = Image.new("RGB", (len(images) * (width + 6), max(x.height for x in images) + 20), "white")
        for i, (x, title) in enumerate(zip(images, ["content", "style", *titles], strict=True)):
            ImageDraw.Draw(row).text((i * (width + 6), 3), title, fill="black")
            row.paste(x, (i * (width + 6), 18))
        rows.append(row)
    whole = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    for i, row in enumerate(rows):
        whole.paste(row, (0, sum(other.height for other in rows[:i])))
    whole.save(path, quality=85)
    if shuffle:
        path.with_suffix(".key.json").write_text(json.dumps(key, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("paint", "measure", "sheet", "blind"))
    parser.add_argument("candidates", nargs="*", metavar="candidate", help=f"default: all of {', '.join(CANDIDATES)}")
    parser.add_argument("--size", type=int, default=512, help="longest side in pixels")
    parser.add_argument("--pairs", nargs="*", default=PAIRS)
    given = parser.parse_args()
    names = given.candidates or list(CANDIDATES)
    if given.what == "paint":
        for pair in given.pairs:
            for name in names:
                print(name, pair, flush=True)
                paint(name, pair, given.size)
    elif given.what == "measure":
        print(json.dumps(table(given.size), indent=1))
    else:
        sheet(names, given.size, OUTPUTS / f"{given.what}_{given.size}.jpg", shuffle=given.what == "blind")


if __name__ == "__main__":
    main()
