"""`CONTROLS`, the table of settings that can be changed during a run, and `Model`, which holds their values."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import ipywidgets as W

from ..losses.gatys import STYLE_WEIGHTS
from ..optimizers import OPTIMIZERS
from ..settings import Settings

REST = 0.45  # seconds without a change, after which a gesture on a control has ended
CROSSING = 5  # seconds during which messages to and from the page may cross
UNIT = 2.0  # β/α at balance 0, until a run has computed it: see `StyleTransfer.balance_unit`


@dataclass(frozen=True)
class Control:
    """A setting of `StyleTransfer` that can be changed during a run: a row of `CONTROLS`.

    Its widgets, its value in the settings and its text on the chart are derived from the row. Widgets for anything else
    (size, steps, start, zoom, …) are in `Panel`.

    Args:
        name: the setting.
        label: description of the widget.
        symbol: shown before the value on the chart.
        default: initial value.
        scale: "log" (a number box and a slider), "linear" (a slider), "number" (a number box) or "choice" (a list).
        low, high: range of a number.
        step: of the slider or the number box; on a logarithmic scale in powers of ten.
        options: {label: value} of a choice.
        layer: key in the setting, if that is a dictionary.
    """

    name: str
    label: str
    symbol: str
    default: float | str
    scale: str
    low: float = 0.0
    high: float = 0.0
    step: float = 0.02
    options: Mapping[str, str] = field(default_factory=dict)
    layer: str = ""

    @property
    def key(self) -> str:
        """The name of its value in `Model.values`."""
        return self.layer or self.name

    def part(self, setting):
        """Return this control's part of the setting; None if it has none."""
        return setting.get(self.layer) if self.layer else setting

    def text(self, value: float | str) -> str:
        """Return a value as the chart shows it."""
        if self.scale == "choice":
            return next(label for label, option in self.options.items() if option == value)
        return f"{self.symbol} {value:.3g}"

    def clamp(self, value: float) -> float:
        """Return the nearest number in range; the lowest for NaN."""
        return min(self.high, value) if value >= self.low else self.low


CONTROLS = (
    Control("alpha", "α, content", "α", 1.0, "log", 1e-3, 1e3),
    Control("beta", "β, style", "β", Settings.beta, "log", 1e-4, 1e8),  # all that "How stylized" can set, with any α
    Control("tv_weight", "Smoothness, TV", "TV", 0.0, "linear", 0, 50, 0.5),
    Control("optimizer", "Optimizer", "", "lbfgs", "choice", options={"L-BFGS": "lbfgs", "Adam": "adam"}),
    Control("learning_rate", "Step size, ×", "rate", 1.0, "log", 0.1, 10),  # times the optimizer's default
    *(
        Control("style_weights", layer, layer, weight, "number", 0, 100, 0.05, layer=layer)
        for layer, weight in STYLE_WEIGHTS.items()
    ),
)


def settings_of_controls(values: Mapping[str, float | str]) -> dict:
    """Return the settings of `StyleTransfer` for the values of all controls."""
    settings: dict[str, Any] = {}
    for control in CONTROLS:
        if control.layer:
            settings.setdefault(control.name, {})[control.layer] = values[control.key]
        else:
            settings[control.name] = values[control.key]
    settings["learning_rate"] *= OPTIMIZERS[settings["optimizer"]].learning_rate
    return settings


def balance_of(alpha: float, beta: float, unit: float) -> float:
    """Return the balance, "How stylized", from 0 (β = unit·α) to 1 (β = 10⁴·unit·α): the inverse of `beta_of`."""
    ratio = beta / max(alpha * unit, 1e-30)
    return min(1.0, max(0.0, math.log10(max(ratio, 1e-30)) / 4))


def beta_of(balance: float, alpha: float, unit: float) -> float:
    """Return the β of a balance: 10^(4·balance)·α·unit."""
    return 10 ** (4 * balance) * alpha * unit


class Model:
    """Values of the controls, and the widgets that display them.

    The values are the single source of truth, and changes flow in one direction: a change of a widget, by the page or
    by Python, is an *input* that sets values, and the other widgets then display the new values. Nothing is written to
    the widget that the input came from, so that a slider never moves while it is dragged.

    Messages to and from the page can cross. Therefore `settle`, which is called repeatedly, sends the values to the
    widgets concerned again when no input has come for `REST`.

    `changed` is called with the settings of `StyleTransfer` that an input changed.
    """

    def __init__(self, **values: float | str):
        self.values = {control.key: control.default for control in CONTROLS} | values
        self.unit = UNIT
        self.changed: Callable[[dict], None] = lambda settings: None
        self._displays: dict[W.Widget, Callable[[Model], float | str]] = {}
        self._lock, self._showing = threading.RLock(), False
        self._inputs: dict[W.Widget, float] = {}  # {widget: time of its latest input} since the last `settle`
        self._shown: dict[W.Widget, float] = {}  # {widget: time when it was last written to}

    def display(self, widget: W.Widget, show: Callable, read: Callable) -> W.Widget:
        """Connect a widget: it displays `show(self)`, and its inputs set the values `read(self, value)`."""
        self._displays[widget] = show
        widget.value = show(self)
        widget.observe(lambda change: self._input(widget, read, change["new"]), "value")
        return widget

    def show(self, source: W.Widget | None = None) -> None:
        """Display the values in all widgets except the source of an input."""
        with self._lock:
            self._showing = True
            try:
                for widget, show in self._displays.items():
                    if widget is not source and widget.value != (value := show(self)):
                        widget.value, self._shown[widget] = value, time.monotonic()
            finally:
                self._showing = False

    def calibrate(self, unit: float | None) -> None:
        """Set the run's `balance_unit`, unless a gesture is in progress."""
        with self._lock:
            if unit not in (None, self.unit) and not self._inputs:
                self.unit = unit
                self.show()

    def settle(self) -> bool:
        """Send the values to the page again if the last gesture has ended; return whether nothing is left to do."""
        with self._lock:
            now = time.monotonic()
            if self._inputs and now - max(self._inputs.values()) > REST:
                self.show()
                for widget in self._inputs:
                    if now - self._shown.get(widget, -math.inf) < CROSSING:
                        widget.send_state("value")
                self._inputs.clear()
            return not self._inputs

    def _input(self, widget: W.Widget, read: Callable, value) -> None:
        with self._lock:  # if another thread is in `show`, wait; if this one is, the change is not an input
            if not self._showing:
                self._inputs[widget] = time.monotonic()
                before = settings_of_controls(self.values)
                self.values = self.values | read(self, value)
                after = settings_of_controls(self.values)
                if changed := {name: after[name] for name in after if after[name] != before[name]}:
                    self.changed(changed)
                self.show(source=widget)
