"""History of a painting: losses, snapshots, changes of settings, and code that repeats the painting."""

from collections import deque
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from torch import Tensor

from ..settings import STEERABLE, Settings
from ..transfer import Record, StyleTransfer
from .controls import CONTROLS

SNAPSHOTS, SNAPSHOT_BYTES = 60, 100_000_000  # maximum; beyond it, every second snapshot is deleted
LOSS_POINTS = 600  # maximum number of points of the loss curves; beyond it, every second one is deleted
ANNOTATIONS = 40  # maximum number of changes on the chart; the latest are shown


@dataclass(frozen=True, eq=False)
class Snapshot:
    """An intermediate image with its loss; `step` counts the painting's steps from 1.

    Both stay on the device of the run until they are read: a painting does not wait for its history.
    """

    step: int
    size: int
    record: Record = field(repr=False)

    @property
    def loss(self) -> float:
        """The total loss."""
        return self.record.total

    @cached_property
    def image(self) -> Tensor:
        """The image, (1, 3, H, W) in [0, 1] on the CPU."""
        image = self.record.image
        assert image is not None  # a record from `StyleTransfer.step`
        return image


class LossPoint(NamedTuple):
    """The losses of a step: total, α·content and β·style."""

    step: int
    total: float
    content: float
    style: float


class Annotation(NamedTuple):
    """A text on the chart at a step: the changes just before it, and later ones of the same gesture."""

    step: int
    text: str


@dataclass(frozen=True)
class Segment:
    """One run in the history of a painting.

    before: number of steps of the painting before this run.
    settings: of the run, after its latest step.
    start: its starting image; None is the last image of the previous segment.
    made: number of steps of this run.
    changes: settings that were changed before a step of this run: ((step, {name: value}), …), counted from 1.
    """

    before: int
    settings: Settings
    start: str | None
    made: int = 0
    changes: tuple[tuple[int, dict], ...] = ()


@dataclass
class History:
    """All steps of a painting. Snapshots and losses are thinned out; all changes are kept, to repeat the painting."""

    segments: list[Segment] = field(default_factory=list)
    records: list[tuple[int, Record]] = field(default_factory=list)  # steps of the painting whose losses are kept
    annotations: deque[Annotation] = field(default_factory=lambda: deque(maxlen=ANNOTATIONS))
    snapshots: list[Snapshot] = field(default_factory=list)
    latest: Snapshot | None = None
    _every: int = 1  # steps from one snapshot to the next
    _losses_every: int = 1
    _settings: dict = field(default_factory=dict)  # of the last step
    _gesture: tuple[int | None, dict[str, str]] = (None, {})  # of the last annotation, and its texts by control

    @property
    def steps(self) -> int:
        """Number of steps made."""
        return self.latest.step if self.latest else 0

    @property
    def losses(self) -> list[LossPoint]:
        """The points of the loss curves."""
        return [
            LossPoint(step, one.total, one.settings.alpha * one.content, one.settings.beta * one.style)
            for step, one in list(self.records)
        ]

    def begin(self, run: StyleTransfer, start: str | None) -> None:
        """Begin a segment with a run that has not made any step."""
        self.segments.append(Segment(self.steps, run.settings, start))

    def add(self, run: StyleTransfer, record: Record, gesture: int | None = None) -> None:
        """Record a step of the current segment's run.

        Changes with the same gesture number, such as those while a slider is dragged, share one annotation, which shows
        the latest values.
        """
        step, segment = self.steps + 1, self.segments[-1]
        then, now = self._settings, _settings(record)
        changes = {name: value for name, value in now.items() if then.get(name) != value}
        if "optimizer" in changes:
            changes["learning_rate"] = now["learning_rate"]  # setting the optimizer also sets its learning rate
        self._settings = now
        new = changes if segment.made else now
        noted = ((record.step, new),) if new else ()
        self.segments[-1] = replace(
            segment, settings=run.settings, made=segment.made + 1, changes=segment.changes + noted
        )
        texts = _texts(then, changes)
        events = [f"{record.size} px"] if record.size_step == 1 else []
        if step > 1 and not segment.made and segment.start is not None:
            events.append(f"from {segment.start}")
        if texts and not events and gesture is not None and gesture == self._gesture[0]:
            texts, annotated = self._gesture[1] | texts, self.annotations.pop().step
        else:
            annotated = step
        if texts or events:
            self.annotations.append(Annotation(annotated, ", ".join([*texts.values(), *events])))
            self._gesture = None if events else gesture, texts  # nothing is added to the annotation of a new size
        self.latest = Snapshot(step, record.size, record)
        if step % self._losses_every == 0 or record.size_step == 1:
            self.records.append((step, run.state.history[-1]))  # without the image
        if step % self._every == 0:
            self.snapshots.append(self.latest)
        self._thin()

    def cut(self, snapshot: Snapshot) -> None:
        """Delete everything after a snapshot."""
        step = snapshot.step
        self.segments = _until(self.segments, step)
        self.records = [(number, record) for number, record in self.records if number <= step]
        self.annotations = deque((note for note in self.annotations if note.step <= step), ANNOTATIONS)
        self.snapshots = [earlier for earlier in self.snapshots if earlier.step <= step]
        self.latest = snapshot
        self._settings, self._gesture = {}, (None, {})
        for _, change in self.segments[-1].changes:
            self._settings |= change

    def _thin(self) -> None:
        while len(self.records) > LOSS_POINTS:
            self.records, self._losses_every = self.records[::2], 2 * self._losses_every
        while len(self.snapshots) > SNAPSHOTS or self._bytes() > SNAPSHOT_BYTES:
            self.snapshots, self._every = self.snapshots[1::2], 2 * self._every

    def _bytes(self) -> int:
        return sum(snapshot.record.nbytes for snapshot in self.snapshots[:-1])

    def code(self, content: str, style: str, step: int | None = None) -> str:
        """Return Python code that repeats the image of a step, bit for bit on the same machine.

        Args:
            content, style: Python expressions for the two images.
            step: default: the latest.
        """
        segments = _until(self.segments, self.steps if step is None else step)
        lines = "".join(
            f"    ({segment.settings.sizes}, {segment.settings.steps}, {segment.start!r}, {segment.made}, {{\n"
            + "".join(f"        {step}: {change},\n" for step, change in segment.changes)
            + "    }),\n"
            for segment in segments
        )
        settings = segments[0].settings.arguments() if segments else {}
        defaults = Settings().arguments()
        fixed = {  # the same in all segments
            name: value
            for name, value in settings.items()
            if name not in (*STEERABLE, "sizes", "steps", "start") and value != defaults[name]
        }
        return _CODE.format(content=content, style=style, segments=lines, settings=fixed)


_CODE = """\
import nst_helpers as nst

content_image = {content}
style_image = {style}
image = None
for sizes, steps, start, made, changes in [  # changes: {{step: what was set before it}}
{segments}]:
    run = nst.StyleTransfer(
        content_image, style_image, sizes=sizes, steps=steps, start=start or image, **{settings}
    )
    for step in range(1, made + 1):
        for name, value in changes.get(step, {{}}).items():
            setattr(run, name, value)
        image = run.step().image
nst.save_image(image, "painting.png")
"""


def _until(segments: list[Segment], step: int) -> list[Segment]:
    """Return the segments up to a step."""
    kept = []
    for segment in segments:
        made = min(segment.made, step - segment.before)
        if made > 0:
            changes = tuple(change for change in segment.changes if change[0] <= made)
            kept.append(replace(segment, made=made, changes=changes))
    return kept


def _settings(record: Record) -> dict:
    arguments = record.settings.arguments()
    return {name: arguments[name] for name in STEERABLE}


def _texts(then: dict, changes: dict) -> dict[str, str]:
    """Return the texts of changes on the chart, by control; none for the first step."""
    texts = {}
    for control in CONTROLS if then else ():
        if control.name in changes:
            value = control.part(changes[control.name])
            if value not in (None, control.part(then[control.name])):
                texts[control.key] = control.text(value)
    if "optimizer" in texts:  # setting it also set its learning rate
        texts.pop("learning_rate", None)
    return texts
