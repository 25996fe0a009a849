"""What happened in a painting: its losses, the images to go back to, and the code that paints it again."""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor

from ..transfer import Record, StyleTransfer

SNAPSHOTS, SNAPSHOT_BYTES = 60, 100_000_000  # at most; beyond, every second one goes
POINTS = 600  # of the loss curves at most; beyond, every second one goes
MARKS = 40  # changes shown on the chart: the latest
SYMBOLS = {"alpha": "α", "beta": "β", "tv_weight": "TV", "learning_rate": "rate", "optimizer": "", "style_weights": ""}


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
    """What was changed just before a step."""

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

    @property
    def steps(self) -> int:
        """How many steps were made."""
        return self.latest.step if self.latest else 0

    def begin(self, run: StyleTransfer, start: str | None) -> None:
        """Begin an act with a run that has made no step yet."""
        self.acts.append(Act(self.steps, run.sizes, run.steps, start))

    def add(self, run: StyleTransfer, record: Record) -> None:
        """Take down a step of the present act's run."""
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
        if record.level_step == 0:
            texts.append(f"{record.size} px")
        if step > 1 and not act.made and act.start is not None:
            texts.append(f"from {act.start}")
        if texts:
            self.marks.append(Mark(step, ", ".join(texts)))
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
        self._settings = {}
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
    settings = record.settings
    return {
        "alpha": settings.alpha,
        "beta": settings.beta,
        "tv_weight": settings.tv_weight,
        "style_weights": dict(settings.style_weights),
        "optimizer": record.optimizer,  # before the learning rate, which it sets
        "learning_rate": record.learning_rate,
    }


def _texts(then: dict, changes: dict) -> list[str]:
    """Return the changes as they stand on the chart; none at the beginning, when everything is new."""
    if not then:
        return []
    texts = []
    for name, value in changes.items():
        if name == "style_weights":
            texts += [f"{layer} {value[layer]:g}" for layer in value if value[layer] != then[name].get(layer)]
        elif name == "optimizer":
            texts.append({"lbfgs": "L-BFGS", "adam": "Adam"}[value])
        elif not (name == "learning_rate" and "optimizer" in changes):
            texts.append(f"{SYMBOLS[name]} {value:.3g}")
    return texts
