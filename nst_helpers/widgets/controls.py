"""`CONTROLS`, the table of the settings that can be changed while painting, and `Model`, which holds their values."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import ipywidgets as W

from ..losses import STYLE_WEIGHTS
from ..optimizers import OPTIMIZERS

REST = 0.45  # seconds without a change, after which the reader's hand has left a control
CROSSING = 5  # seconds within which a message from the page and one to it may have crossed
UNIT = 0.1  # β/α at balance 0, until a run says what it is there: see `StyleTransfer.balance_unit`


@dataclass(frozen=True)
class Control:
    """A setting of `StyleTransfer` that the reader can change while it paints.

    Each row of `CONTROLS` is one. Its widgets, its place in the settings and its text on the chart follow from it.

    Args:
        name: the setting.
        symbol: shown before the value on the chart.
        scale: "log" (a number box and a slider), "linear" (a slider), "number" (a number box) or "choice" (a list).
        step: of the slider or the number box; on a logarithmic scale in powers of ten.
        options: {label: value} of a choice.
        layer: the key in the setting, where that is a dictionary.
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
    Control("beta", "β, style", "β", 10.0, "log", 1e-4, 1e6),  # all that "How stylized" leads to, with any α
    Control("tv_weight", "Smoothness, TV", "TV", 0.0, "linear", 0, 200, 1),
    Control("optimizer", "Optimizer", "", "lbfgs", "choice", options={"L-BFGS": "lbfgs", "Adam": "adam"}),
    Control("learning_rate", "Step size, ×", "rate", 1.0, "log", 0.1, 10),  # times the optimizer's default
    *(
        Control("style_weights", layer, layer, weight, "number", 0, 1000, 0.25, layer=layer)
        for layer, weight in STYLE_WEIGHTS.items()
    ),
)


def settings_of(values: Mapping[str, float | str]) -> dict:
    """Return the settings of `StyleTransfer` that the values of all controls amount to."""
    settings = {}
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
    by Python, is a *wish* that sets values, and the other widgets then show what follows from these. Nothing is
    written to the widget that the wish came from, so that a slider never moves under the reader's hand.

    A message from the page and one to it can cross. So `settle`, called again and again, repeats the values to the
    widgets concerned as soon as the hand has rested for `REST`.

    `changed` is called with the settings of `StyleTransfer` that a wish changed.
    """

    def __init__(self, **values: float | str):
        self.values = {control.key: control.default for control in CONTROLS} | values
        self.unit = UNIT
        self.changed: Callable[[dict], None] = lambda settings: None
        self._displays: dict[W.Widget, Callable[[Model], float | str]] = {}
        self._lock, self._showing = threading.RLock(), False
        self._wished: dict[W.Widget, float] = {}  # since the last `settle`, and when
        self._shown: dict[W.Widget, float] = {}  # when it was last written to

    def display(self, widget: W.Widget, show: Callable, wish: Callable) -> W.Widget:
        """Let a widget show `show(model)`, and its changes set the values `wish(model, value)`."""
        self._displays[widget] = show
        widget.value = show(self)
        widget.observe(lambda change: self._take(widget, wish, change["new"]), "value")
        return widget

    def show(self, hand: W.Widget | None = None) -> None:
        """Show the values in all widgets but the one in the reader's hand."""
        with self._lock:
            self._showing = True
            try:
                for widget, show in self._displays.items():
                    if widget is not hand and widget.value != (value := show(self)):
                        widget.value, self._shown[widget] = value, time.monotonic()
            finally:
                self._showing = False

    def calibrate(self, unit: float | None) -> None:
        """Set the run's `balance_unit`, unless the reader's hand is on a control."""
        with self._lock:
            if unit not in (None, self.unit) and not self._wished:
                self.unit = unit
                self.show()

    def settle(self) -> bool:
        """Repeat the values to the page if the reader's hand is at rest; return whether nothing is left to do."""
        with self._lock:
            now = time.monotonic()
            if self._wished and now - max(self._wished.values()) > REST:
                self.show()
                for widget in self._wished:
                    if now - self._shown.get(widget, -math.inf) < CROSSING:
                        widget.send_state("value")
                self._wished.clear()
            return not self._wished

    def _take(self, widget: W.Widget, wish: Callable, value) -> None:
        with self._lock:  # another thread may be showing values; this one may be, too, and then it is no wish
            if not self._showing:
                self._wished[widget] = time.monotonic()
                before = settings_of(self.values)
                self.values = self.values | wish(self, value)
                after = settings_of(self.values)
                if changed := {name: after[name] for name in after if after[name] != before[name]}:
                    self.changed(changed)
                self.show(hand=widget)
