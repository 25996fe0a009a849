"""Gestures of a real mouse and keyboard on the playground's controls, and what must have become of them."""

import json
import math
import time
from collections import Counter
from dataclasses import dataclass

from pages import within

KINDS = {  # of gestures on sliders: what is done, and how much of it
    "drag slowly": ("drag", 60, 12),  # px, moves a second
    "hold right": ("keys", "ArrowRight", 15),
    "drag back fast": ("drag", -45, 40),
    "page up": ("keys", "PageUp", 1),
    "hold left": ("keys", "ArrowLeft", 15),
    "drag far": ("drag", 700, 40),
    "home": ("keys", "Home", 1),
    "drag, wait, drag": ("drag", 110, 40),
    "end": ("keys", "End", 1),
}
COUPLED = "How stylized", "β, style"  # each moves the other
OTHERS = "α, content", "Smoothness, TV", "Step size, ×"
BOXES = {"relu2_1": "3.5", "β, style": "123.456", "α, content": "2.5", "Step size, ×": "0.75", "relu5_1": "0"}
STATES = {"resume": "painting", "pause": "paused"}  # after these orders
GESTURES = [  # on what, which, and after which order: as many while it paints as at rest
    *((label, kind, order) for kind in KINDS for order in STATES for label in COUPLED),
    *((label, kind, list(STATES)[number % 2]) for number, kind in enumerate(KINDS) for label in OTHERS),
    *((label, "type", order) for order in STATES for label in BOXES),
]
KEYS = {"β, style": "beta", "α, content": "alpha", "Smoothness, TV": "tv_weight", "Step size, ×": "learning_rate"}
LOOK = """handle => {
    const target = handle.closest('.noUi-target'), options = target.noUiSlider.options;
    const track = target.querySelector('.noUi-base').getBoundingClientRect(), box = handle.getBoundingClientRect();
    return {
        value: Number(target.noUiSlider.get(true)), low: options.range.min, high: options.range.max, step: options.step,
        left: track.left, width: track.width, x: box.left + box.width / 2, y: box.top + box.height / 2,
    };
}"""
REPORT = """
import json
with playground.panel.model._lock:
    run, model, settings = playground.painter.run, playground.panel.model, playground.painter.settings
    names = "alpha", "beta", "tv_weight", "learning_rate"
    print(json.dumps({
        "state": playground.painter.state,
        "step": playground.steps_made,
        "annotations": [[note.step, note.text] for note in playground.painter.history.annotations],
        "values": model.values,
        "unit": model.unit,
        "run": {name: getattr(run, name) for name in names} | dict(run.style_weights) | {"balance": run.balance},
        "settings": settings | settings.get("style_weights", {}),
    }))
"""


@dataclass
class Hand:
    """A hand at the controls of a page, and an eye on its kernel."""

    page: object
    panel: object  # a locator
    kernel: object

    def handle(self, label):
        labeled = self.page.locator("label", has_text=label)
        return self.panel.locator(".widget-hbox, .widget-hslider", has=labeled).last.locator(".noUi-handle")

    def box(self, label):
        return self.panel.get_by_label(label, exact=True).and_(self.page.locator("input"))

    def look(self, label):
        return self.handle(label).evaluate(LOOK)

    def report(self):
        return json.loads(self.kernel(REPORT))

    def center(self):
        """Put "How stylized" and β in the middle, by code, so that every gesture moves them; the page shows it."""
        self.kernel("playground.panel.stylized.value = 0.4")
        within(10, lambda: abs(self.look("How stylized")["value"] - 0.4) < 1e-9, "a slider that follows Python")
        time.sleep(1)  # else the gesture that follows is one with this
        then = self.report()
        if then["state"] != "painting":
            self.kernel("playground.step(); playground.painter.wait(60)")
        within(30, lambda: self.report()["step"] > then["step"], "a step")

    def make(self, label, kind):
        """Make a gesture; raise AssertionError unless the page, the model, the painter and the chart follow it."""
        if label in COUPLED:
            self.center()
        before = self.report()
        key = "beta" if label == "How stylized" else KEYS.get(label, label)
        if kind == "type":
            box = self.box(label)
            box.click(click_count=3)
            self.page.keyboard.type(BOXES[label])
            self.page.keyboard.press("Enter")

            def ends():
                assert float(box.input_value()) == float(BOXES[label]), f"the box shows {box.input_value()}"
                return float(BOXES[label])
        else:
            what, amount, number = KINDS[kind]
            handle = self.handle(label)
            handle.scroll_into_view_if_needed()
            start = handle.evaluate(LOOK)
            if what == "drag":
                target = self.drag(start, amount, number, kind == "drag, wait, drag", before, key)
                tolerance = 1.01 * start["step"]
            else:
                target, tolerance = self.press(handle, start, amount, number), 1e-9

            def ends():
                now = handle.evaluate(LOOK)
                assert abs(now["value"] - target) <= tolerance, f"the page shows {now['value']}, the hand: {target}"
                place = now["left"] + now["width"] * (now["value"] - now["low"]) / (now["high"] - now["low"])
                assert abs(now["x"] - place) < 1.5, "the handle stands elsewhere"
                return now["value"]

        shown = patiently(ends)
        patiently(lambda: self.compare(label, kind, key, shown))
        time.sleep(1)
        assert ends() == shown, "the page does not come to rest"
        after = self.compare(label, kind, key, shown)
        if after["state"] != "painting":
            self.kernel("playground.step(); playground.painter.wait(60)")
        expected = int(after["values"][key] != before["values"][key])
        if kind == "drag, wait, drag" and before["state"] == "painting":
            expected *= 2  # it was painted with the value in the middle, too
        assert expected or label not in COUPLED, "nothing has moved"
        within(30, lambda: len(self.notes_since(before["step"])) >= expected, "an annotation")
        notes = self.notes_since(before["step"])
        assert len(notes) == expected, f"annotations: {notes}"

    def notes_since(self, step):
        return [note for note in self.report()["annotations"] if note[0] > step and "px" not in note[1]]

    def drag(self, start, distance, rate, waits, before, key):
        """Drag a handle by some pixels; return the value at which the pointer is let go."""
        mouse, moves = self.page.mouse, 12
        mouse.move(start["x"], start["y"])
        mouse.down()
        for move in range(1, moves + 1):
            began = time.monotonic()
            mouse.move(start["x"] + distance * move / moves, start["y"] + move % 2)
            time.sleep(max(0, 1 / rate - (time.monotonic() - began)))
        span = start["high"] - start["low"]
        target = start["value"] + span * distance / start["width"]
        target = min(max(target, start["low"]), start["high"])
        if abs(target - start["value"]) > start["step"]:  # it takes effect before the button is released
            within(10, lambda: self.report()["run"][key] != before["run"][key], "an effect during the drag")
        if waits:
            then = self.report()
            time.sleep(1)
            if then["state"] == "painting":
                within(30, lambda: self.report()["step"] >= then["step"] + 2, "steps while the hand rests")
            for back in range(1, 6):
                mouse.move(start["x"] + distance - 4 * back, start["y"])
                time.sleep(1 / rate)
            target = start["value"] + span * (distance - 20) / start["width"]
            target = min(max(target, start["low"]), start["high"])
        mouse.up()
        return target

    def press(self, handle, start, key, times):
        """Hold a key until it has repeated so often; return the value to which that leads."""
        handle.focus()
        for _ in range(times):
            self.page.keyboard.down(key)
            time.sleep(0.03)
        self.page.keyboard.up(key)
        steps = {"ArrowRight": times, "ArrowLeft": -times, "PageUp": 5, "Home": -1e9, "End": 1e9}[key]
        return min(max(start["value"] + steps * start["step"], start["low"]), start["high"])

    def compare(self, label, kind, key, shown):
        """Return the kernel's report, and assert that the model and the painter have what the page shows."""
        now = self.report()
        values, value = now["values"], shown
        if label == "How stylized":
            assert math.isclose(now["run"]["balance"], shown, abs_tol=1e-9), f"the run's is {now['run']['balance']}"
            value = 10 ** (4 * shown) * values["alpha"] * now["unit"]
        elif kind != "type" and label != "Smoothness, TV":
            value = 10**shown
        assert math.isclose(values[key], value), f"the model has {values[key]}, not {value}"
        value = values[key]
        if key == "learning_rate":
            value *= {"lbfgs": 1, "adam": 0.02}[values["optimizer"]]
        assert (now["run"][key], now["settings"].get(key, value)) == (value, value), "the painter has another value"
        return now


def patiently(check, seconds=8):
    """Return what a check returns once it raises no AssertionError; raise the last one otherwise."""
    end = time.monotonic() + seconds
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def make_all(hand, gestures):
    """Make gestures; print how many of each kind came out right, and return the others."""
    wrong, right, made = [], Counter(), Counter()
    for label, kind, order in gestures:
        case = f"{label if label in COUPLED else 'others'}, {STATES[order]}"
        made[case] += 1
        hand.kernel(f"playground.{order}()")
        within(20, lambda order=order: hand.report()["state"] == STATES[order])
        try:
            hand.make(label, kind)
            right[case] += 1
        except AssertionError as error:
            wrong.append(f"{label}, {kind}, {STATES[order]}: {error}")
    print(f"\n{right.total()} of {made.total()} gestures end where the hand ended", *wrong, sep="\n  ")
    print(*(f"  {case}: {right[case]} of {number}" for case, number in made.items()), sep="\n", flush=True)
    return wrong
