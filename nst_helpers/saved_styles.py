"""A style without its picture: what a style loss keeps of it, in one small file."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import checks
from .engine import Plain
from .images import resize, scaled, written_whole
from .objective import Kinds, Problem
from .optimize import STYLE_WEIGHTS
from .style_losses import STYLE_LOSSES
from .styles import SavedStyle, Style, as_regions
from .vgg import VGG

FORMAT = "nst_helpers style 1"
PALETTE = 64  # px of the longest side of the picture's miniature, which is kept for its colors
LARGEST = 60_000.0  # of a float16


def save_style(
    path: str | Path | None,
    style: Tensor | SavedStyle,
    network: VGG | None = None,
    *,
    sizes: Sequence[int] = (),
    style_weights: Mapping[str, float] = STYLE_WEIGHTS,
    style_loss: str = "gram",
) -> SavedStyle:
    """Return what is kept of a style image, and write it to a file.

    Args:
        path: ends in .safetensors; None writes nothing. In the file numbers have half precision.
        style: an image (1, 3, H, W) in [0, 1]; or a saved style, to which the other arguments do not apply.
        network: from `load_vgg`.
        sizes: longest sides in pixels: those of the paintings to come, times the style's scale.
        style_weights: {layer: weight}, of which the layers are kept.
        style_loss: a name in `STYLE_LOSSES`, for which it is kept.
    """
    if not isinstance(style, SavedStyle):
        image = checks.picture("style_image", style)
        kinds = Kinds(style_loss=checks.one_of("style_loss", style_loss, STYLE_LOSSES))
        layers = network.check_layers(style_weights)
        problem = Problem(Plain(network), kinds, image, as_regions(image), layers[:1], layers)
        problem.check(sizes)
        summaries = {int(size): problem.at(size, False).summaries(Style(image)) for size in sizes}
        palette = resize(image, *scaled(*image.shape[2:], PALETTE))
        style = SavedStyle(summaries, palette, network.kind, style_loss)
    if path is not None:
        _write(style, path)
    return style


def _write(style: SavedStyle, path: str | Path) -> None:
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: the name must end in .safetensors")
    tensors, scales = {"palette": (style.palette * 255).round().byte()}, {}
    for size, saved in style.summaries.items():
        for layer, summary in saved.items():
            key = f"{size}/{layer}"
            values, scales[key] = _packed(summary)
            tensors[key] = values.contiguous()
    about = {"network": style.network, "style_loss": style.style_loss, "scales": scales}
    with written_whole(path) as unfinished:
        save_file(tensors, unfinished, metadata={"format": FORMAT, "about": json.dumps(about)})


def load_style(path: str | Path) -> SavedStyle:
    """Return a style that `save_style` wrote; raises FileNotFoundError, or ValueError for another kind of file."""
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise ValueError(f"{path}: not a style that save_style wrote")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: truncated or damaged ({error})") from error
    about, summaries = json.loads(about["about"]), {}
    palette = tensors.pop("palette").float() / 255
    for key, values in tensors.items():
        size, layer = key.split("/")
        summaries.setdefault(int(size), {})[layer] = _unpacked(values, about["scales"][key])
    return SavedStyle(summaries, palette, about["network"], about["style_loss"])


def _packed(summary: Tensor) -> tuple[Tensor, float]:
    """Return a summary as float16, a symmetric matrix as its lower half, and what it was divided by."""
    summary = summary.detach().float().cpu()
    scale = max(summary.abs().max().item() / LARGEST, 1e-30)
    values = (summary / scale).half()
    if summary.ndim == 3 and summary.shape[1] == summary.shape[2] and torch.equal(summary, summary.mT):
        rows, columns = torch.tril_indices(*summary.shape[1:])
        values = values[:, rows, columns]
    return values, scale


def _unpacked(values: Tensor, scale: float) -> Tensor:
    values = values.float() * scale
    if values.ndim == 3:
        return values
    side = round(((8 * values.shape[1] + 1) ** 0.5 - 1) / 2)
    rows, columns = torch.tril_indices(side, side)
    matrix = values.new_zeros(len(values), side, side)
    matrix[:, rows, columns] = values
    matrix[:, columns, rows] = values
    return matrix
