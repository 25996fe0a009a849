"""What happened in a painting: its losses, the images to go back to, and the code that paints it again."""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor

from ..transfer import Record, StyleTransfer
from .controls import CONTROLS, STEERED

SNAPSHOTS, SNAPSHOT_BYTES = 60, 100_000_000  # at most; beyond, every second one goes
POINTS = 600  # of the loss curves at most; beyond, every second one goes
MARKS = 40  # changes shown on the chart: the latest


@dataclass(frozen=True)
class Snapshot:
    """An image on the way, (1, 3, H, W) on the CPU, with its loss; `step` counts the painting's steps from 1."""

    step: int
    size: int
    loss: float
    image: Tensor = field(repr=False, compare=False)


class Point(NamedTuple):
    """A step's losses: the total, and its weighted parts."""

    step: int
    total: float
    content: float
    style: float


class Mark(NamedTuple):
    """What was changed just before a step, and by the rest of the same gesture."""

    step: int
    text: str


@dataclass(frozen=True)
class Act:
    """What one `StyleTransfer` painted: `changes` says what was set before which of its `made` steps.

    A `start` of None is the last image of the act before.
    """

    before: int  # the painting's steps before this act
    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    start: str | None
    made: int = 0
    changes: tuple[tuple[int, dict], ...] = ()


@dataclass
class Story:
    """All of a painting so far. Images and curves are thinned as it goes on; changes are all kept, for the code."""

    acts: list[Act] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    marks: deque[Mark] = field(default_factory=lambda: deque(maxlen=MARKS))
    snapshots: list[Snapshot] = field(default_factory=list)
    latest: Snapshot | None = None
    _every: int = 1  # steps from one snapshot to the next
    _points_every: int = 1
    _settings: dict = field(default_factory=dict)  # of the last step
    _gesture: tuple[int | None, dict[str, str]] = (None, {})  # of the last mark, and its texts by control

    @property
    def steps(self) -> int:
        """How many steps were made."""
        return self.latest.step if self.latest else 0

    def begin(self, run: StyleTransfer, start: str | None) -> None:
        """Begin an act with a run that has made no step yet."""
        self.acts.append(Act(self.steps, run.sizes, run.steps, start))

    def add(self, run: StyleTransfer, record: Record, gesture: int | None = None) -> None:
        """Take down a step of the present act's run.

        Changes with the same number of a gesture, such as those while a slider is dragged, share a mark, which says
        what they led to.
        """
        step, act = self.steps + 1, self.acts[-1]
        then, now = self._settings, _settings(record)
        changes = {name: value for name, value in now.items() if then.get(name) != value}
        if "optimizer" in changes:
            changes["learning_rate"] = now["learning_rate"]  # setting the one sets the other
        self._settings = now
        new = changes if act.made else now
        noted = ((record.iteration, new),) if new else ()
        self.acts[-1] = replace(act, steps=run.steps, made=act.made + 1, changes=act.changes + noted)
        texts = _texts(then, changes)
        events = [f"{record.size} px"] if record.level_step == 0 else []
        if step > 1 and not act.made and act.start is not None:
            events.append(f"from {act.start}")
        if texts and not events and gesture is not None and gesture == self._gesture[0]:
            texts, step_marked = self._gesture[1] | texts, self.marks.pop().step
        else:
            step_marked = step
        if texts or events:
            self.marks.append(Mark(step_marked, ", ".join([*texts.values(), *events])))
            self._gesture = gesture, texts
        weighted = record.settings.alpha * record.content, record.settings.beta * record.style
        self.latest = Snapshot(step, record.size, record.total, record.image)
        if step % self._points_every == 0 or record.level_step == 0:
            self.points.append(Point(step, record.total, *weighted))
        if step % self._every == 0:
            self.snapshots.append(self.latest)
        self._thin()

    def cut(self, snapshot: Snapshot) -> None:
        """Forget what came after a snapshot."""
        step = snapshot.step
        self.acts = _until(self.acts, step)
        self.points = [point for point in self.points if point.step <= step]
        self.marks = deque((mark for mark in self.marks if mark.step <= step), MARKS)
        self.snapshots = [earlier for earlier in self.snapshots if earlier.step <= step]
        self.latest = snapshot
        self._settings, self._gesture = {}, (None, {})
        for _, change in self.acts[-1].changes:
            self._settings |= change

    def _thin(self) -> None:
        while len(self.points) > POINTS:
            self.points, self._points_every = self.points[::2], 2 * self._points_every
        while len(self.snapshots) > SNAPSHOTS or self._bytes() > SNAPSHOT_BYTES:
            self.snapshots, self._every = self.snapshots[1::2], 2 * self._every

    def _bytes(self) -> int:
        return sum(snapshot.image.nbytes for snapshot in self.snapshots[:-1])

    def code(self, content: str, style: str, settings: dict, step: int | None = None) -> str:
        """Return Python that paints the image of a step, by default the latest, again, bit by bit on the same machine.

        Args:
            content, style: expressions for the two images.
            settings: further arguments of `StyleTransfer`, as `network`.
        """
        acts = "".join(
            f"    ({act.sizes}, {act.steps}, {act.start!r}, {act.made}, {{\n"
            + "".join(f"        {iteration}: {change},\n" for iteration, change in act.changes)
            + "    }),\n"
            for act in _until(self.acts, self.steps if step is None else step)
        )
        return _CODE.format(content=content, style=style, acts=acts, settings=settings)


_CODE = """\
import nst_helpers as nst

content_image = {content}
style_image = {style}
image = None
for sizes, steps, start, made, changes in [  # changes: {{step: what was set before it}}
{acts}]:
    run = nst.StyleTransfer(
        content_image, style_image, sizes=sizes, steps=steps, start=start or image, **{settings}
    )
    for step in range(made):
        for name, value in changes.get(step, {{}}).items():
            setattr(run, name, value)
        image = run.step().image
nst.save_image(image, "painting.png")
"""


def _until(acts: list[Act], step: int) -> list[Act]:
    """Return the acts up to a step."""
    kept = []
    for act in acts:
        made = min(act.made, step - act.before)
        if made > 0:
            changes = tuple(change for change in act.changes if change[0] < made)
            kept.append(replace(act, made=made, changes=changes))
    return kept


def _settings(record: Record) -> dict:
    found = {name: getattr(record if hasattr(record, name) else record.settings, name) for name in STEERED}
    return found | {"style_weights": dict(found["style_weights"])}


def _texts(then: dict, changes: dict) -> dict[str, str]:
    """Return the changes as they stand on the chart, by control; none at the beginning, when everything is new."""
    texts = {}
    for control in CONTROLS if then else ():
        if control.name in changes:
            value = control.part(changes[control.name])
            if value not in (None, control.part(then[control.name])):
                texts[control.key] = control.text(value)
    if "optimizer" in texts:  # which brings its learning rate along
        texts.pop("learning_rate", None)
    return texts
