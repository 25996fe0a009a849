"""The widgets of the playground, and their layout. Their behavior is in `playground`."""

import base64
import io
import math
from html import escape

import ipywidgets as W
from torch import Tensor

from ..files.reading import PROJECT
from ..files.writing import to_pil
from .controls import CONTROLS, Control, Model, balance_of, beta_of

SIZES = (128, 192, 256, 384, 512, 768, 1024)
STARTS = {"the photograph, recolored": "recolored", "the photograph": "content", "noise": "noise"}
FRAME = 512  # px: maximum of the longest side of a displayed picture
CUSTOM = "your own"  # entry of the picture list for an upload, a URL or a tensor
UPLOAD_MB = 7  # base64 adds a third, and JupyterLab's server accepts 10 MiB
HEARTBEAT_S = 2  # seconds between two heartbeats of a web app's page
FULL = "calc(100% - 12px)"
WIDE = {"description_width": "110px"}

BUTTONS = {  # method of the playground: (label, tooltip)
    "start": ("Start", "Paint at the chosen size, from the chosen start"),
    "render": ("Render", "Paint from coarse to fine, up to the chosen size"),
    "pause": ("Pause", "Stop painting until Resume or Step"),
    "resume": ("Resume", "Continue painting"),
    "step": ("Step", "Make one step, and pause"),
    "stop": ("Stop", "End the painting"),
    "back": ("Back", "Go back to the snapshot that the timeline shows, and continue from there"),
    "reset": ("Reset", "Delete the painting; the settings stay"),
}
SAVE_BUTTONS = {
    "save_image": ("Save image", "The image shown, as PNG"),
    "save_gif": ("Save GIF", "A time-lapse of the painting"),
    "save_mp4": ("Save MP4", "A time-lapse of the painting"),
    "show_code": ("Show code", "Python code that repeats this image, without the playground"),
}


class Panel:
    """All widgets of a playground, laid out in `box`.

    Args:
        sources: {"content": …, "style": …}: name of each picture.
        size, steps, alpha, beta: initial values.
        app: leave out the fields for paths and URLs, since visitors could read any file; `ticks` is the heartbeat.
        ticking: show `ticks`, a play button whose ticks make the steps.
    """

    def __init__(
        self, sources: dict[str, str], size: int, steps: int, alpha: float, beta: float, *, app: bool, ticking: bool
    ):
        self.model = Model(alpha=alpha, beta=beta)
        self.stylized = balance_slider("How stylized", self.model)
        self.controls, rows = {}, {}
        for control in CONTROLS:
            self.controls[control.key], rows[control.key] = control_row(control, self.model)
        self.start_choice = choice("Start from", STARTS, "recolored")
        self.size = choice("Size, px", sorted({*SIZES, size}), size)
        self.steps = whole_number("Steps", steps, 1, 2000)
        self.pictures, self.uploads, self.addresses = {}, {}, {}
        for name, source in sources.items():
            known = known_pictures(name)
            self.pictures[name] = choice(name.capitalize(), [CUSTOM, *known], source if source in known else CUSTOM)
            self.uploads[name] = upload(name)
            if not app:
                self.addresses[name] = text(f"{name.capitalize()} at", "address or path, then Enter")
        self.timeline, self.wipe = timeline("Timeline"), slider("Wipe", 0, 1, 0.01)
        self.zoom = slider("Zoom, ×", 1, 8, 0.1, 1)
        self.across, self.down = slider("Zoom across", 0, 1, 0.01, 0.5), slider("Zoom down", 0, 1, 0.01, 0.5)
        self.buttons = {method: button(*texts) for method, texts in (BUTTONS | SAVE_BUTTONS).items()}
        self.views = {name: view() for name in (*sources, "output")}
        self.chart, self.status, self.messages = W.HTML(), W.HTML(), W.HTML()
        self.code = W.Textarea(description="Code", rows=12, layout=W.Layout(width="100%", display="none"))
        beating = {"playing": True, "repeat": True} if app else {}
        self.ticks = W.Play(max=10**9, interval=1000 * HEARTBEAT_S if app else 50, **beating)
        self.ticks.layout.display = None if ticking else "none"
        pickers = self.pictures, self.uploads, self.addresses
        self.pickers = {name: column(*(picker[name] for picker in pickers if picker)) for name in sources}
        self.box = column(
            row(*self.pickers.values()),
            row(*(self.buttons[method] for method in BUTTONS), self.ticks),
            row(*self.views.values()),
            self.status,
            self.messages,
            row(
                column(self.stylized, *(rows[control.key] for control in CONTROLS if not control.layer)),
                column(
                    self.start_choice,
                    self.size,
                    self.steps,
                    *(rows[control.key] for control in CONTROLS if control.layer),
                ),
            ),
            row(column(self.chart), column(self.timeline, self.wipe, self.zoom, self.across, self.down)),
            row(*(self.buttons[method] for method in SAVE_BUTTONS)),
            self.code,
            width="100%",
        )

    def renew_upload(self, name: str) -> W.FileUpload:
        """Replace an upload button with a new one, and return that."""
        old, new = self.uploads[name], upload(name)
        self.uploads[name] = new
        picker = self.pickers[name]
        picker.children = [new if child is old else child for child in picker.children]
        old.close()
        return new


def known_pictures(name: str) -> list[str]:
    """Return the project's pictures for "content" or "style", as names for `find_picture`."""
    folder = PROJECT / "data" / {"content": "content", "style": "styles"}[name]
    return [path.relative_to(PROJECT).as_posix() for path in sorted(folder.glob("*.jpg"))]


def control_row(control: Control, model: Model) -> tuple[W.Widget, W.Widget]:
    """Return the widget of a control, connected to the model, and the row that contains it."""

    def read(model: Model, value) -> dict:
        return {control.key: value if control.scale == "choice" else control.clamp(value)}

    if control.scale == "choice":
        widget = row = choice(control.label, control.options, control.default)
        model.display(widget, lambda model: model.values[control.key], read)
    elif control.scale == "linear":
        widget = row = slider(control.label, control.low, control.high, control.step)
        model.display(widget, lambda model: on_grid(widget, model.values[control.key]), read)
    else:
        widget = row = number_box(control)
        model.display(widget, lambda model: three_digits(widget, control.clamp(model.values[control.key])), read)
    if control.scale == "log":
        row = W.HBox([widget, log_slider(control, model)], layout=W.Layout(width=FULL))
    return widget, row


def number_box(control: Control) -> W.BoundedFloatText:
    step, width = (None, "200px") if control.scale == "log" else (control.step, None)
    return W.BoundedFloatText(
        min=control.low,
        max=control.high,
        step=step,
        description=control.label,
        style=WIDE,
        layout=W.Layout(width=width),
    )


def three_digits(box: W.BoundedFloatText, value: float) -> float:
    """Return the value to display in a number box: rounded to three digits, or with all digits that were typed."""
    return value if box.value == value else float(f"{value:.3g}")


def log_slider(control: Control, model: Model) -> W.FloatSlider:
    """Return a slider for the logarithm to base 10 of a control's value.

    `FloatLogSlider` is not used: it rounds the values that it displays, and sends them back as inputs.
    """
    low, high = math.log10(control.low), math.log10(control.high)
    slider = W.FloatSlider(min=low, max=high, step=control.step, readout=False, layout=W.Layout(flex="1 1 90px"))
    return model.display(
        slider,
        lambda model: on_grid(slider, math.log10(control.clamp(model.values[control.key]))),
        lambda model, value: {control.key: control.clamp(10**value)},
    )


def balance_slider(label: str, model: Model) -> W.FloatSlider:
    """Return a slider that displays the balance of the values, and sets β."""
    widget = slider(label, 0, 1, 0.01)
    return model.display(
        widget,
        lambda model: on_grid(widget, balance_of(model.values["alpha"], model.values["beta"], model.unit)),
        lambda model, value: {"beta": beta_of(value, model.values["alpha"], model.unit)},
    )


def on_grid(slider: W.FloatSlider, value: float) -> float:
    """Return the slider's position nearest to a value, computed exactly as the page does (noUiSlider).

    The page would round any other value to this position, and send that back as an input.
    """
    span = slider.max - slider.min
    step = 100 * slider.step / span
    percent = math.floor(100 * (value - slider.min) / span / step + 0.5) * step
    return min(max(percent * span / 100 + slider.min, slider.min), slider.max)


def slider(label: str, low: float, high: float, step: float, value: float | None = None) -> W.FloatSlider:
    return W.FloatSlider(
        low if value is None else value,
        min=low,
        max=high,
        step=step,
        description=label,
        style=WIDE,
        layout=W.Layout(width=FULL),
    )


def upload(name: str) -> W.FileUpload:
    return W.FileUpload(
        accept="image/*",
        multiple=False,
        description=f"Upload {name}, up to {UPLOAD_MB} MB",
        layout=W.Layout(width="auto", margin="2px 2px 2px 114px"),
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
    """Return widgets side by side, wrapped into several lines if necessary."""
    return W.Box(widgets, layout=W.Layout(display="flex", flex_flow="row wrap", width="100%", align_items="flex-start"))


def column(*widgets, width: str = "300px") -> W.VBox:
    return W.VBox(widgets, layout=W.Layout(flex=f"1 1 {width}", min_width="260px"))


def figure(image: Tensor | None, caption: str, alt: str) -> str:
    """Return a picture with its caption as HTML; an empty frame for None."""
    shown = '<div style="aspect-ratio: 1; border: 1px dashed currentColor; opacity: 0.4"></div>'
    if image is not None:
        source = f"data:image/jpeg;base64,{base64.b64encode(jpeg(image)).decode()}"
        fit = "width: 100%; max-height: 260px; object-fit: contain; object-position: left"
        shown = f'<img src="{source}" alt="{escape(alt)}" style="{fit}">'
    return f'<figure style="margin: 0 4px">{shown}<figcaption>{escape(caption)}</figcaption></figure>'


def jpeg(image: Tensor) -> bytes:
    """Return an image (1, 3, H, W) as JPEG, shrunk to `FRAME`."""
    picture, file = to_pil(image), io.BytesIO()
    picture.thumbnail((FRAME, FRAME), reducing_gap=2)
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def crop(image: Tensor, zoom: float, across: float, down: float) -> Tensor:
    """Return a part of an image: its sides are 1 / zoom; `across` and `down` are its position, from 0 to 1."""
    height, width = (max(8, round(side / zoom)) for side in image.shape[2:])
    top, left = round((image.shape[2] - height) * down), round((image.shape[3] - width) * across)
    return image[:, :, top : top + height, left : left + width]
