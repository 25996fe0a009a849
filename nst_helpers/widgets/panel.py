"""The playground's controls and views, each with its label; what they do is the playground's business."""

import base64
import io
import math
from html import escape

import ipywidgets as W
from torch import Tensor

from ..images import PROJECT, to_pil
from ..losses import STYLE_WEIGHTS
from ..optimizers import OPTIMIZERS

SIZES = (128, 192, 256, 384, 512, 768, 1024)
STARTS = {"the photograph, recolored": "recolored", "the photograph": "content", "noise": "noise"}

FRAME = 512  # px of the longest side of a picture as shown, at most
OWN = "your own"
BEAT = 2  # seconds between the signs of life of a web app's page
FULL = "calc(100% - 12px)"
WIDE = {"description_width": "110px"}

BUTTONS = {
    "Start": "Paint at the size chosen, from the start chosen",
    "Render": "Paint from coarse to fine, up to the size chosen",
    "Pause": "Stop painting until Resume or Step",
    "Resume": "Paint on",
    "Step": "Make one step, and pause",
    "Stop": "End the painting",
    "Back": "Go back to the snapshot that the timeline shows, and paint on from there",
    "Reset": "Forget the painting; the settings stay",
}
KEEP = {
    "Save image": "The image shown, as PNG",
    "Save GIF": "A time-lapse of the painting",
    "Save MP4": "A time-lapse of the painting",
    "Show code": "Python that paints this image again, without the playground",
}


class Panel:
    """All widgets of a playground, laid out in `box`; what they do is the playground's business.

    Args:
        sources: what the content and the style are, by name.
        app: leaves out what a stranger must not do: naming a path or an address. Its `ticks` beat by themselves.
        ticking: shows `ticks`, which the reader starts, and whose every beat is a step.
    """

    def __init__(
        self, sources: dict[str, str], size: int, steps: int, alpha: float, beta: float, *, app: bool, ticking: bool
    ):
        self.stylized = slider("How stylized", stylized(alpha, beta), 0, 1, 0.01)
        self.alpha, alpha_row = log_slider("α, content", alpha, 1e-3, 1e3)
        self.beta, beta_row = log_slider("β, style", beta, 1e-3, 1e5)
        self.tv_weight = slider("Smoothness, TV", 0, 0, 200, 1)
        self.step_size, step_row = log_slider("Step size, ×", 1, 0.1, 10)
        self.weights = layer_weights()
        self.optimizer = choice("Optimizer", optimizers(), "lbfgs")
        self.start_choice = choice("Start from", STARTS, "recolored")
        self.size = choice("Size, px", sorted({*SIZES, size}), size)
        self.steps = whole_number("Steps", steps, 1, 2000)
        self.pictures, self.uploads, self.addresses = {}, {}, {}
        for name, source in sources.items():
            known = known_pictures(name)
            self.pictures[name] = choice(name.capitalize(), [OWN, *known], source if source in known else OWN)
            self.uploads[name] = W.FileUpload(
                accept="image/*",
                multiple=False,
                description=f"Upload {name}",
                layout=W.Layout(width="auto", margin="2px 2px 2px 114px"),
            )
            self.addresses[name] = text(f"{name.capitalize()} at", "address or path, then Enter")
        self.timeline, self.wipe = timeline("Timeline"), slider("Wipe", 0, 0, 1, 0.01)
        self.zoom = slider("Zoom, ×", 1, 1, 8, 0.1)
        self.across, self.down = slider("Zoom across", 0.5, 0, 1, 0.01), slider("Zoom down", 0.5, 0, 1, 0.01)
        self.buttons = {label: button(label, tip) for label, tip in (BUTTONS | KEEP).items()}
        self.views = {name: view() for name in (*sources, "output")}
        self.chart, self.status, self.trouble = W.HTML(), W.HTML(), W.HTML()
        self.code = W.Textarea(description="Code", rows=12, layout=W.Layout(width="100%", display="none"))
        beating = {"playing": True, "repeat": True} if app else {}
        self.ticks = W.Play(max=10**9, interval=1000 * BEAT if app else 50, **beating)
        self.ticks.layout.display = None if ticking else "none"
        pickers = [self.pictures, self.uploads] if app else [self.pictures, self.uploads, self.addresses]
        self.box = column(
            row(*(column(*(picker[name] for picker in pickers)) for name in sources)),
            row(*(self.buttons[label] for label in BUTTONS), self.ticks),
            row(*self.views.values()),
            self.status,
            self.trouble,
            row(
                column(self.stylized, alpha_row, beta_row, self.tv_weight, step_row, self.optimizer),
                column(self.start_choice, self.size, self.steps, *self.weights.values()),
            ),
            row(column(self.chart), column(self.timeline, self.wipe, self.zoom, self.across, self.down)),
            row(*(self.buttons[label] for label in KEEP)),
            self.code,
            width="100%",
        )


def stylized(alpha: float, beta: float) -> float:
    """Return how stylized, from 0 (β = 0.1 α) to 1 (β = 1000 α), on a logarithmic scale."""
    return min(1.0, max(0.0, (math.log10(beta / alpha) + 1) / 4))


def known_pictures(name: str) -> list[str]:
    """Return the project's pictures for the content or the style, as `find_picture` knows them."""
    folder = PROJECT / "data" / {"content": "content", "style": "styles"}[name]
    return [path.relative_to(PROJECT).as_posix() for path in sorted(folder.glob("*.jpg"))]


def log_slider(label: str, value: float, low: float, high: float) -> tuple[W.BoundedFloatText, W.HBox]:
    """Return a number, and the row that shows it with a slider on a logarithmic scale, which gives three digits."""
    number = W.BoundedFloatText(
        value, min=low, max=high, step=None, description=label, style=WIDE, layout=W.Layout(width="200px")
    )
    slider = W.FloatLogSlider(
        value, min=math.log10(low), max=math.log10(high), step=0.02, readout=False, layout=W.Layout(flex="1 1 90px")
    )
    W.link((slider, "value"), (number, "value"), transform=(lambda value: float(f"{value:.3g}"), lambda value: value))
    return number, W.HBox([number, slider], layout=W.Layout(width=FULL))


def slider(label: str, value: float, low: float, high: float, step: float) -> W.FloatSlider:
    return W.FloatSlider(
        value, min=low, max=high, step=step, description=label, style=WIDE, layout=W.Layout(width=FULL)
    )


def choice(label: str, options, value) -> W.Dropdown:
    return W.Dropdown(options=options, value=value, description=label, style=WIDE, layout=W.Layout(width=FULL))


def whole_number(label: str, value: int, low: int, high: int) -> W.BoundedIntText:
    return W.BoundedIntText(value, min=low, max=high, description=label, style=WIDE, layout=W.Layout(width="200px"))


def text(label: str, placeholder: str) -> W.Text:
    return W.Text(placeholder=placeholder, description=label, continuous_update=False, style=WIDE)


def timeline(label: str) -> W.IntSlider:
    return W.IntSlider(0, min=0, max=0, description=label, readout=False, style=WIDE, layout=W.Layout(width=FULL))


def view() -> W.HTML:
    return W.HTML(layout=W.Layout(flex="1 1 30%", min_width="150px", margin="0"))


def button(label: str, tip: str) -> W.Button:
    return W.Button(description=label, tooltip=tip, layout=W.Layout(width="auto", min_width="64px"))


def row(*widgets) -> W.Box:
    """Return widgets side by side, in several lines where there is no room."""
    return W.Box(widgets, layout=W.Layout(display="flex", flex_flow="row wrap", width="100%", align_items="flex-start"))


def column(*widgets, width: str = "300px") -> W.VBox:
    return W.VBox(widgets, layout=W.Layout(flex=f"1 1 {width}", min_width="260px"))


def optimizers() -> dict[str, str]:
    return {{"lbfgs": "L-BFGS", "adam": "Adam"}[name]: name for name in OPTIMIZERS}


def layer_weights() -> dict[str, W.BoundedFloatText]:
    """Return a number for each style layer."""
    return {
        layer: W.BoundedFloatText(weight, min=0, max=1000, step=0.25, description=layer, style=WIDE)
        for layer, weight in STYLE_WEIGHTS.items()
    }


def figure(image: Tensor | None, caption: str, alt: str) -> str:
    """Return HTML of a picture with its caption, or of an empty frame."""
    shown = '<div style="aspect-ratio: 1; border: 1px dashed currentColor; opacity: 0.4"></div>'
    if image is not None:
        source = f"data:image/jpeg;base64,{base64.b64encode(jpeg(image)).decode()}"
        fit = "width: 100%; max-height: 260px; object-fit: contain; object-position: left"
        shown = f'<img src="{source}" alt="{escape(alt)}" style="{fit}">'
    return f'<figure style="margin: 0 4px">{shown}<figcaption>{escape(caption)}</figcaption></figure>'


def jpeg(image: Tensor) -> bytes:
    """Return an image, (1, 3, H, W), as JPEG, shrunk to `FRAME`."""
    picture, file = to_pil(image), io.BytesIO()
    picture.thumbnail((FRAME, FRAME), reducing_gap=2)
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def crop(image: Tensor, zoom: float, across: float, down: float) -> Tensor:
    """Return a part of an image, 1 / zoom of its sides, from the left (0) to the right (1), from the top to below."""
    height, width = (max(8, round(side / zoom)) for side in image.shape[2:])
    top, left = round((image.shape[2] - height) * down), round((image.shape[3] - width) * across)
    return image[:, :, top : top + height, left : left + width]
