"""Figures: images side by side, and loss curves. They are returned closed, so that a notebook displays each once."""

import inspect
import textwrap
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from .files.surroundings import with_default_style
from .files.writing import to_pil


@with_default_style
def show_grid(
    content: Tensor, style: Tensor, output: Tensor, titles: Sequence[str] = ("Content", "Style", "Output")
) -> Figure:
    """Return a figure with three images side by side, scaled to the same height.

    Args:
        content, style, output: (1, 3, H, W) in [0, 1]; each may have its own size.
        titles: one for each.
    """
    pictures = [to_pil(image) for image in (content, style, output)]
    widths = [picture.width / picture.height for picture in pictures]
    figure, axes = plt.subplots(
        1, 3, figsize=(3.6 * sum(widths), 3.9), width_ratios=widths, layout="constrained", dpi=100
    )
    for ax, picture, title in zip(axes, pictures, titles, strict=True):
        ax.imshow(picture)
        ax.set_title(title)
        ax.set_axis_off()
    return figure


@with_default_style
def show_losses(history: Iterable) -> Figure:
    """Return a figure of the loss curves: total, α·content and β·style over the steps, on a logarithmic scale.

    Args:
        history: records, such as `StyleTransfer.history` or `Result.history`. A dotted line marks each change of size;
            losses at different sizes cannot be compared.
    """
    history = list(history)
    steps = [record.step for record in history]
    curves = {
        "total": [record.total for record in history],
        "α·content": [record.settings.alpha * record.content for record in history],
        "β·style": [record.settings.beta * record.style for record in history],
    }
    figure, ax = plt.subplots(figsize=(7, 3.6), layout="constrained", dpi=100)
    for (label, values), style in zip(curves.items(), ("-", "--", ":"), strict=True):
        ax.plot(steps, values, style, label=label)
    for before, record in pairwise(history):
        if record.size != before.size:
            ax.axvline(record.step, color="gray", linestyle=":")
            ax.text(record.step, 1.01, f" {record.size} px", transform=ax.get_xaxis_transform(), color="gray")
    ax.set(xlabel="step", ylabel="loss", yscale="log")
    ax.legend()
    return figure


@with_default_style
def show_images(
    images: Sequence[Tensor], titles: Sequence[str], columns: int | None = None, colors: str = "gray"
) -> Figure:
    """Return a figure with images and maps in rows. Maps and images under 64 px wide are shown without interpolation.

    Args:
        images: images, (1, 3, H, W) or (3, H, W) in [0, 1]; masks, (1, 1, H, W), black outside; or maps (H, W) of any
            values, drawn with a color map that ranges from the minimum (or 0, if that is less) to the maximum.
        titles: one for each.
        columns: number of images in a row; default all.
        colors: matplotlib's color map for maps.
    """
    columns = columns or len(images)
    rows = -(-len(images) // columns)
    tallest = max(image.shape[-2] / image.shape[-1] for image in images)
    width = min(5.0, 10 / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(columns * width, rows * (width * tallest + 0.3)), layout="constrained", squeeze=False
    )
    for ax in axes.flat[len(images) :]:
        ax.set_axis_off()
    for ax, image, title in zip(axes.flat, images, titles, strict=False):
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_color("lightgray")
        if image.ndim == 2:
            ax.imshow(image.detach().cpu(), cmap=colors, vmin=min(0.0, image.min().item()), interpolation="nearest")
        else:
            ax.imshow(to_pil(image), interpolation="nearest" if image.shape[-1] < 64 else None)
        ax.set_title(title, fontsize=10)
    return figure


class Source(str):
    """Python source code, displayed with syntax highlighting in a notebook."""

    def _repr_markdown_(self) -> str:
        return f"```python\n{self}```"


def show_source(function: Callable) -> Source:
    """Return the source code of a function or method, for display in a notebook."""
    return Source(textwrap.dedent(inspect.getsource(function)))
