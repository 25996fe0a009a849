"""`Playground`: connects the panel to a painter, and displays the painting."""

import base64
import os
import queue
import sys
import tempfile
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as W
import torch
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure
from torch import Tensor

from ..files.decoding import decode
from ..files.reading import PROJECT, find_picture, pixels
from ..files.sandbox import decode_in_child
from ..files.writing import offer_download, save_animation
from ..images import MIN_SIDE, load_image, resize, save_image, scaled, sides
from ..plots import show_grid
from ..schedule import coarse_to_fine
from ..settings import Settings
from ..validate import large_enough, smallest_size
from ..vgg import VGG
from .chart import loss_chart
from .controls import REST
from .history import History, Snapshot
from .painter import Painter, keep_calling
from .panel import CUSTOM, HEARTBEAT_S, SAVE_BUTTONS, SIZES, UPLOAD_MB, Panel, crop, figure

SKETCH, SKETCH_STEPS = 128, 25  # size in px and steps of the sketch after a change of pictures
PAUSE = 0.2  # minimum seconds between two frames
STEM_BYTES = 100  # of each picture's name in the name of a saved file, which may have 255
UPLOAD_PIXELS = 40_000_000
PAGE_TIMEOUT_S = 20  # seconds without a heartbeat of a web app's page, after which the painting pauses


class Playground:
    """A painting with its controls, displayed as the value of a cell. Every button is also a method.

    Args:
        content, style: paths (in the project or your own), http(s) URLs, or images (1, 3, H, W) in [0, 1].
        size: longest side in pixels of the paintings of `start` and `render`.
        steps: number of steps at that size.
        network: a name for `load_vgg`, or a `VGG`.
        alpha, beta: initial weights of the content and style losses.
        color, content_loss, style_loss: see `Settings`; they cannot be changed later.
        app: for a web app: no paths or URLs, downloads instead of files, a pause when the page is closed.

    It begins with a sketch of 128 px. A kernel has one playground: a new one closes the previous one. `close` ends its
    threads. Raises the errors of `load_image`. Later errors are shown in the panel, and raised by `wait`.
    """

    _current: Callable[[], "Playground | None"] = staticmethod(lambda: None)

    def __init__(
        self,
        content: str | Path | Tensor = "data/content/rocket.jpg",
        style: str | Path | Tensor = "data/styles/night.jpg",
        *,
        size: int = 256,
        steps: int = 150,
        network: str | VGG = "vgg19",
        alpha: float = 1.0,
        beta: float = Settings.beta,
        color: str = Settings.color,
        content_loss: str = Settings.content_loss,
        style_loss: str = Settings.style_loss,
        app: bool = False,
    ):
        sources = {"content": content, "style": style}
        self._images = {name: _load(source) for name, source in sources.items()}
        self._names = {
            name: "tensor" if isinstance(source, Tensor) else str(source) for name, source in sources.items()
        }
        if (earlier := Playground._current()) is not None:
            earlier.close()
        Playground._current = weakref.ref(self)
        self.app, self._threaded = app, "google.colab" not in sys.modules
        self._jobs: queue.SimpleQueue[tuple[Callable, tuple]] = queue.SimpleQueue()
        self._fresh, self._drawing = threading.Event(), threading.RLock()
        self._uploaded: set[str] = set()  # names of the images that were uploaded
        self._chosen: Snapshot | None = None  # selected with the timeline; None is the latest
        self._places: tuple[Snapshot, ...] = ()  # the snapshots at the timeline's positions
        self._timeline_used: float | None = None  # time of the latest input; None once the page shows its effect
        self._drawn: dict[W.Widget, object] = {}  # {widget: what its content was made from}
        self._message = ""
        self._last_beat = self._last_call = time.monotonic()  # heartbeat of an app's page, and request to begin one
        self._left = False  # whether the page was closed during a painting
        changed = weakref.WeakMethod(self._changed)
        self.painter = Painter(
            *self._images.values(),
            network=network,
            changed=lambda: (call := changed()) and call(),
            threaded=self._threaded,
            alpha=alpha,
            beta=beta,
            color=color,
            content_loss=content_loss,
            style_loss=style_loss,
        )
        self.panel = Panel(self._names, size, steps, alpha, beta, app=app, ticking=not self._threaded)
        weakref.finalize(self, _close, self.panel.box).atexit = False
        self._connect()
        if self._threaded:
            _when_a_page_connects(self._weakly(lambda self, _: self._later(self._renew_uploads)))
            keep_calling(self._refresh_at_leisure, self._fresh, "playground")
        else:
            self._message = "Press the small play button to paint."
            self._refresh()
        self.sketch()

    def _ipython_display_(self) -> None:
        display(self.panel.box)

    # Buttons

    def sketch(self) -> None:
        """Paint a small draft."""
        size = min(SKETCH, *(max(sides(image)) for image in self._images.values()))
        size = max(size, *(smallest_size(*sides(image), MIN_SIDE) for image in self._images.values()))
        self.painter.paint((size,), SKETCH_STEPS, self.panel.start_choice.value)

    def start(self) -> None:
        """Begin a painting, or continue one that is paused."""
        self.painter.start((self.panel.size.value,), self.panel.steps.value, self.panel.start_choice.value)

    def render(self) -> None:
        """Begin a painting from coarse to fine."""
        last = self.panel.size.value
        least = smallest_size(*sides(self._images["style"]), MIN_SIDE)
        planned = coarse_to_fine(*scaled(*sides(self._images["content"]), last))
        sizes = sorted({min(max(size, least), last) for size in planned})
        self.painter.paint(sizes, self.panel.steps.value, self.panel.start_choice.value)

    def pause(self) -> None:
        """Stop painting until `resume` or `step`."""
        self.painter.pause()

    def resume(self) -> None:
        """Continue painting."""
        self.painter.resume()

    def step(self) -> None:
        """Make one step, and pause."""
        if self.painter.run is None:
            self.start()
        self.painter.step()

    def stop(self) -> None:
        """End the painting; its image stays."""
        self.painter.stop()

    def back(self) -> None:
        """Continue from the timeline's snapshot, or from the second-to-last one; delete everything after it."""
        snapshot = self._chosen or next(iter(self.painter.history.snapshots[-2:]), None)
        if snapshot is not None:
            self._chosen = None
            self.painter.back(snapshot, self.panel.steps.value)

    def reset(self) -> None:
        """Delete the painting; the settings stay."""
        self._chosen = None
        self.painter.reset()

    def save_image(self) -> Path | None:
        """Save the displayed image as PNG, with its recipe and code embedded; return None if there is none."""

        def write(path: Path, history: History, shown: Snapshot) -> Path:
            run = self.painter.run  # None after `close`
            recipe = {"code": self._code(shown), "step": shown.step} | (run.recipe if run else {})
            return save_image(shown.image, path, recipe=recipe)

        return self._save(".png", write)

    def save_gif(self) -> Path | None:
        """Save a time-lapse of the snapshots as GIF."""
        return self._save(".gif", _time_lapse)

    def save_mp4(self) -> Path | None:
        """Save a time-lapse of the snapshots as MP4."""
        return self._save(".mp4", _time_lapse)

    def show_code(self) -> str:
        """Display and return Python code that repeats the displayed image without the playground."""
        if self.shown is not None:
            self.panel.code.value = self._code(self.shown)
            self.panel.code.layout.display = None
        return self.panel.code.value

    def close(self) -> None:
        """End the threads and remove the widgets. After that, the image can be saved, and nothing is painted."""
        self.painter.close()
        self._fresh.set()
        _close(self.panel.box)

    def wait(self, block: bool | None = None, timeout: float | None = None) -> Figure | None:
        """Block until nothing is being painted; return a figure of content, style and painting.

        By default it blocks only if no page can send inputs (papermill, nbval, nbconvert), and otherwise returns None.
        Raises the error that ended the painting; TimeoutError; and KeyboardInterrupt, after which the painting stops.
        """
        if not (block if block is not None else not _page_can_steer()):
            return None
        self._refresh()  # a queued job may begin a painting
        while not self._threaded and self.painter.turn():
            pass
        self.painter.wait(timeout)
        self._refresh()
        shown = self.shown
        return None if shown is None else show_grid(self._images["content"], self._images["style"], shown.image)

    @property
    def shown(self) -> Snapshot | None:
        """The displayed snapshot: the one chosen with the timeline, or the latest."""
        return self._chosen or self.painter.history.latest

    @property
    def steps_made(self) -> int:
        """Number of steps of the painting."""
        return self.painter.history.steps

    # Connections

    def _connect(self) -> None:
        for method, widget in self.panel.buttons.items():
            self._on(widget, lambda self, _, method=method: self._press(method))
        self.panel.model.changed = self._weakly(lambda self, settings: self.painter.steer(**settings))
        self._on(self.panel.size, lambda self, size: self.painter.continue_at(size, self.panel.steps.value))
        self._on(
            self.panel.start_choice, lambda self, start: self.painter.continue_at(None, self.panel.steps.value, start)
        )
        for name in self._images:
            self._on(self.panel.pictures[name], lambda self, path, name=name: self._pick(name, path))
            self._take_uploads(name, self.panel.uploads[name])
        for name, widget in self.panel.addresses.items():
            self._on(widget, lambda self, where, name=name: where and self._later(self._take, name, where))
        self._on(self.panel.timeline, Playground._choose)
        self._on(self.panel.ticks, Playground._tick)
        for widget in (self.panel.wipe, self.panel.zoom, self.panel.across, self.panel.down):
            self._on(widget, lambda self, _: None)  # redraws, as every input does

    def _on(self, widget: W.Widget, do: Callable) -> None:
        """Call `do(playground, value)` when a widget changes or is clicked."""
        call = self._weakly(do)
        if isinstance(widget, W.Button):
            widget.on_click(lambda _: call(None))
        else:
            widget.observe(lambda change: call(change["new"]), "value")

    def _weakly(self, do: Callable) -> Callable[[Any], None]:
        """Return a function that calls `do(playground, value)`, with a weak reference to the playground."""
        weak = weakref.ref(self)

        def call(value) -> None:
            if (playground := weak()) is not None:
                try:
                    do(playground, value)
                except ValueError as error:
                    playground._message = _problem(error)
                playground._changed()

        return call

    def _press(self, method: str) -> None:
        self._message = ""
        if method in SAVE_BUTTONS:
            self._later(getattr(self, method))
        else:
            getattr(self, method)()

    def _choose(self, place: int) -> None:
        if place != self._place():
            self._timeline_used = time.monotonic()
            self._chosen = self._places[place] if place < len(self._places) else None

    def _tick(self, _) -> None:
        self._last_beat = time.monotonic()
        if self._left:  # the page was closed, and is open again
            self._left = False
            self.painter.resume()
        if not self._threaded:
            self.painter.turn()
            self.panel.model.settle()

    # Pictures

    def _pick(self, name: str, path: str) -> None:
        if path not in (CUSTOM, self._names[name]):
            self._later(self._take, name, path)

    def _take_uploads(self, name: str, widget: W.FileUpload) -> None:
        self._on(widget, lambda self, files: self._later(self._upload, name, files))

    def _renew_uploads(self) -> None:
        """Replace the upload buttons: they no longer work in a page that lost its connection during an upload."""
        for name in self._images:
            self._take_uploads(name, self.panel.renew_upload(name))

    def _upload(self, name: str, files) -> None:
        if not files:
            return
        file = next(iter(files.values())) | {"name": next(iter(files))} if isinstance(files, dict) else files[0]
        content = bytes(file["content"])
        if len(content) > UPLOAD_MB * 10**6:
            raise ValueError(f"{file['name']}: expected at most {UPLOAD_MB} MB, got {len(content) / 1e6:.1f} MB")
        self._take(name, content, file["name"])

    def _take(self, name: str, source: str | bytes, file_name: str | None = None) -> None:
        """Load another content or style image, and sketch."""
        self._images[name] = _load(source, file_name)
        self._names[name] = file_name or str(source)
        (self._uploaded.add if file_name else self._uploaded.discard)(name)
        self.panel.pictures[name].value = source if source in self.panel.pictures[name].options else CUSTOM
        self._chosen = None
        self.painter.take_pictures(*self._images.values())
        self.sketch()

    # Drawing

    def _changed(self) -> None:
        self._fresh.set()
        if not self._threaded:
            self._refresh()

    def _later(self, job: Callable, *arguments) -> None:
        """Queue a slow job for the thread that draws."""
        self._jobs.put((job, arguments))

    def _refresh_at_leisure(self) -> bool | None:
        self._refresh()
        time.sleep(PAUSE)
        if self.painter.state == "closed":
            return None
        settled = self.panel.model.settle()
        return not settled or self._timeline_used is not None

    def _refresh(self) -> None:
        """Run the queued jobs, and redraw what has changed."""
        with self._drawing:
            while not self._jobs.empty():
                job, arguments = self._jobs.get()
                self._message = ""
                try:
                    job(*arguments)
                except Exception as error:
                    self._message = _problem(error)
            if self.painter.state == "closed":
                return
            if self.app and self.painter.state == "painting":
                self._listen()
            try:
                self.panel.model.calibrate(self.painter.balance_unit)
                status = self._status()  # read first: if it is "done", the data read afterwards is complete
                self._draw(status, self.painter.history, self.shown)
            except Exception:  # nobody would see it, and the thread would end
                self.panel.messages.value = f'<pre role="alert">{escape(traceback.format_exc())}</pre>'

    def _listen(self) -> None:
        """Pause after `PAGE_TIMEOUT_S` without a heartbeat, and let a new page begin its heartbeat."""
        now = time.monotonic()
        if now - self._last_beat > PAGE_TIMEOUT_S:
            self._left = True
            self.painter.pause()
        elif now - max(self._last_beat, self._last_call) > 2 * HEARTBEAT_S:
            self._last_call = now
            self.panel.ticks.playing = False
            self.panel.ticks.playing = True

    def _draw(self, status: str, history: History, shown: Snapshot | None) -> None:
        part = self.panel.zoom.value, self.panel.across.value, self.panel.down.value
        for name in self._images:
            self._put(self.panel.views[name], (id(self._images[name]), part), partial(self._picture, name, part))
        caption = f"Output: step {shown.step}, {shown.size} px" if shown else "Output: not begun"
        alt = f"{caption}, loss {shown.loss:.3g}" if shown else caption
        wiped = (shown, id(history), part, self.panel.wipe.value)
        self._put(
            self.panel.views["output"],
            wiped,
            lambda: figure(crop(self._wiped(shown), *part) if shown else None, caption, alt),
        )
        self._put(
            self.panel.chart,
            (shown, history.steps, id(history)),
            lambda: loss_chart(history.losses, history.annotations),
        )
        self._put(self.panel.status, status, lambda: status)
        parts = self._message, escape(self.painter.note), f"<pre>{escape(self.painter.failure)}</pre>"
        messages = "<br>".join(part for part in parts if part not in ("", "<pre></pre>"))
        self._put(self.panel.messages, messages, lambda: f'<div role="alert" style="overflow: auto">{messages}</div>')
        self._draw_timeline(history)

    def _draw_timeline(self, history: History) -> None:
        """Update the timeline to all snapshots, unless a gesture on it is in progress."""
        used = self._timeline_used
        if used is None or time.monotonic() - used > REST:
            self._places = tuple(history.snapshots)
            self.panel.timeline.max = len(self._places)
            self.panel.timeline.value = self._place()
            if used is not None:  # messages to and from the page may have crossed
                self._timeline_used = None
                self.panel.timeline.send_state("value")

    def _picture(self, name: str, part: tuple[float, float, float]) -> str:
        caption = f"{name.capitalize()}: {Path(self._names[name]).stem}"
        return figure(crop(self._images[name], *part), caption, caption)

    def _put(self, widget: W.HTML, key, make: Callable[[], str]) -> None:
        if self._drawn.get(widget) != key:
            self._drawn[widget] = key
            widget.value = make()

    def _place(self) -> int:
        """Return the timeline's position: that of the chosen snapshot, or the last one."""
        if self._chosen is None:
            return len(self._places)
        return sum(snapshot.step < self._chosen.step for snapshot in self._places)

    def _wiped(self, shown: Snapshot) -> Tensor:
        """Return the image with its left part replaced by the content image, for the wipe."""
        width = round(self.panel.wipe.value * shown.image.shape[3])
        if not width:
            return shown.image
        content = resize(self._images["content"], *shown.image.shape[2:])
        return torch.cat([content[..., :width], shown.image[..., width:]], 3)

    def _status(self) -> str:
        painter = self.painter
        if painter.run is None:
            return f"{painter.state}; loading the network" if painter.state == "painting" else painter.state
        speed = f"{painter.seconds_a_step:.2f} s a step"
        where = f"{painter.run.network.note}, on {painter.run.device}, engine: {painter.run.engine.name}"
        return escape(f"{painter.state} · step {self.steps_made} · {speed} · {where}")

    # Saving

    def _code(self, shown: Snapshot) -> str:
        content, style = (
            _expression(name, self._names[name], image, name in self._uploaded) for name, image in self._images.items()
        )
        return self.painter.history.code(content, style, shown.step)

    def _save(self, suffix: str, write: Callable[[Path, History, Snapshot], Path]) -> Path | None:
        """Write a new file and show its path; offer it for download in Colab, and in the app instead."""
        history, shown = self.painter.history, self.shown
        if shown is None:
            self._message = "Nothing is painted yet."
            return None
        stems = (os.fsencode(Path(name).stem)[:STEM_BYTES].decode(errors="ignore") for name in self._names.values())
        name = f"{'_'.join(stems)}_{shown.step:04}"
        if self.app:
            with tempfile.TemporaryDirectory() as temporary:
                path = write(Path(temporary) / f"painting{suffix}", history, shown)
                data = base64.b64encode(path.read_bytes()).decode()
            kind = {".png": "image/png", ".gif": "image/gif", ".mp4": "video/mp4"}[suffix]
            self._message = (
                f'<a download="{escape(name)}{suffix}" href="data:{kind};base64,{data}">Download {suffix}</a>'
            )
            return None
        folder = PROJECT / "outputs" if (PROJECT / "notebooks").exists() else Path("outputs")
        folder.mkdir(parents=True, exist_ok=True)
        path, number = folder / f"{name}{suffix}", 1
        while not _claimed(path):
            number += 1
            path = folder / f"{name}_{number}{suffix}"
        try:
            write(path, history, shown)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._message = f"Saved {escape(str(path))}"
        offer_download(path)
        return path


def _claimed(path: Path) -> bool:
    """Create an empty file; return False if there is anything at its path, such as a file of another process."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _time_lapse(path: Path, history: History, shown: Snapshot) -> Path:
    last = [history.latest.image] if history.latest else []
    return save_animation([snapshot.image for snapshot in history.snapshots] + last, path)


def _load(source: str | Path | bytes | Tensor, file_name: str | None = None) -> Tensor:
    """Return a picture, shrunk to the largest of `SIZES`, or as far as its shortest side permits.

    Untrusted files, which are uploads and those from URLs, are decoded in a child process.
    """
    if isinstance(source, Tensor):
        return source
    where = source if isinstance(source, bytes) else find_picture(source)
    untrusted = isinstance(source, bytes) or "://" in str(where)

    def in_child(content: bytes, name: str) -> tuple:
        return decode_in_child(content, file_name or name, UPLOAD_PIXELS)

    name, array = pixels(where, in_child if untrusted else decode)
    height, width = array.shape[:2]
    large_enough(file_name or name, height, width, MIN_SIDE)
    return load_image(array, min(max(height, width), max(*SIZES, smallest_size(height, width, MIN_SIDE))))


def _expression(name: str, source: str, image: Tensor, uploaded: bool) -> str:
    """Return a Python expression for an image: a variable for a tensor, `load_image` for a picture."""
    if source == "tensor":
        return f"{name}_image  # your own"
    own = "  # your own file" if uploaded else ""
    return f"nst.load_image(nst.find_picture({source!r}), {max(image.shape[2:])}){own}"


def _problem(error: Exception) -> str:
    return f"{type(error).__name__}: {escape(str(error))}"


def _when_a_page_connects(call: Callable[[None], None]) -> None:
    """Call a function whenever a page connects to the kernel, which is when it requests all widgets."""

    def opened(comm, message) -> None:
        W.Widget.handle_control_comm_opened(comm, message)
        call(None)

    if kernel := getattr(get_ipython(), "kernel", None):
        kernel.comm_manager.register_target("jupyter.widget.control", opened)


def _close(widget: W.Widget) -> None:
    """Close a widget and its children."""
    for child in getattr(widget, "children", ()):
        _close(child)
    widget.close()


def _page_can_steer() -> bool:
    """Return whether the running cell comes from a page: papermill, nbval and nbconvert allow no standard input."""
    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and kernel.get_parent().get("content", {}).get("allow_stdin", False)
