"""A `StyleTransfer` in a background thread, with a queue of commands."""

import contextlib
import queue
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ..settings import STEERABLE, Settings
from ..transfer import StyleTransfer
from ..vgg import VGG, load_vgg
from .history import History, Snapshot

EXTRA_STEPS = 30  # steps added when a setting is changed after the last step
GESTURE = 0.5  # seconds: changes of the same settings at shorter intervals belong to one gesture


class Painter:
    """A `StyleTransfer` in a background thread. Commands are queued and executed between two steps.

    All methods but `wait` return at once, and may be called from any thread.

    Args:
        content_image, style_image: see `StyleTransfer`.
        network: a name for `load_vgg`, or a `VGG`.
        changed: called after each step and each change of `state`.
        threaded: if False, there is no thread, and the caller must call `turn` repeatedly.
        **settings: other arguments of `StyleTransfer`; those in `STEERABLE` may be changed later.

    `state` is "idle", "painting", "paused", "stopped", "done", "failed" or "closed"; `note` contains the warnings of
    the current run. The thread ends with `close`, or when there are no more references to the painter.
    """

    def __init__(
        self,
        content_image: Tensor,
        style_image: Tensor,
        *,
        network: str | VGG = "vgg19",
        changed: Callable[[], None] = lambda: None,
        threaded: bool = True,
        **settings,
    ):
        Settings(**{name: value for name, value in settings.items() if name != "device"})  # raises errors here
        self.content_image, self.style_image = content_image, style_image
        self.network, self.settings, self.changed = network, settings, changed
        self.run: StyleTransfer | None = None
        self.history = History()
        self.state, self.note, self.seconds_a_step = "idle", "", 0.0
        self.error: Exception | None = None
        self.balance_unit: float | None = None  # of the run: see `StyleTransfer.balance_unit`
        self._single = False
        self._gesture, self._steered_at = 0, 0.0  # number of the current gesture, and the time of its latest change
        self._steered: set[str] = set()  # the settings that it changed
        self._commands: queue.SimpleQueue[tuple] = queue.SimpleQueue()
        self._at_rest, self._wake = threading.Event(), threading.Event()
        self._at_rest.set()
        if threaded:
            keep_calling(self.turn, self._wake, "painter")

    # Commands

    def steer(self, **controls) -> None:
        """Set some of `settings.STEERABLE` for the next step. If the painting is done, make `EXTRA_STEPS` more.

        Raises ValueError, and sets nothing, for other names and for values that are invalid for the current run.
        """
        Settings().changed(**controls)  # raises errors here
        if "optimizer" in controls:  # setting it also sets its learning rate
            controls = {"learning_rate": None} | controls
        now = time.monotonic()
        if set(controls) != self._steered or now - self._steered_at > GESTURE:
            self._gesture += 1  # before the run gets the new values, because a step reads the number first
        self._steered, self._steered_at = set(controls), now
        if self.run is not None:
            self.run.steer(**controls)
        self.settings = self.settings | controls
        if self.state == "done":
            self.resume()

    def paint(self, sizes: Sequence[int], steps: int | Sequence[int], start: str) -> None:
        """Begin a new painting; `sizes`, `steps` and `start`: see `Settings`."""
        self._command(self._paint, tuple(sizes), steps, start)

    def start(self, sizes: Sequence[int], steps: int | Sequence[int], start: str) -> None:
        """Continue a paused painting; if there is none, begin a new one, see `paint`."""
        self._command(self._start, tuple(sizes), steps, start)

    def take_pictures(self, content_image: Tensor, style_image: Tensor) -> None:
        """Delete the painting, and use other pictures for the next one."""
        self._command(self._take_pictures, content_image, style_image)

    def continue_at(self, size: int | None, steps: int, start: str | None = None) -> None:
        """Continue at another size (None: the current one), from the current image or another starting image."""
        self._command(self._continue_at, size, steps, start)

    def pause(self) -> None:
        """Stop painting until `resume` or `step`."""
        self._command(self._pause)

    def resume(self) -> None:
        """Continue painting; after the last step, with `EXTRA_STEPS` more."""
        self._command(self._resume)

    def step(self) -> None:
        """Make one step, and pause."""
        self._command(self._resume, True)

    def stop(self) -> None:
        """End the painting; its image stays."""
        self._command(self._rest, "stopped")

    def back(self, snapshot: Snapshot, steps: int) -> None:
        """Go back to a snapshot, delete everything after it, and continue from it with `steps` steps."""
        self._command(self._back, snapshot, steps)

    def reset(self) -> None:
        """Delete the painting; the settings stay."""
        self._command(self._reset)

    def close(self) -> None:
        """End the thread, after the current step."""
        self._command(self._rest, "closed")

    def wait(self, timeout: float | None = None) -> None:
        """Block until nothing is being painted, and raise the error that ended the painting.

        Raises TimeoutError; and KeyboardInterrupt, after which the painting stops.
        """
        try:
            if not self._at_rest.wait(timeout):
                raise TimeoutError(f"still painting after {timeout} s")
        except KeyboardInterrupt:
            self.stop()
            raise
        if self.error is not None:
            raise self.error

    @property
    def failure(self) -> str:
        """The traceback of the error that ended the painting, or an empty text."""
        return "" if self.error is None else "".join(traceback.format_exception(self.error))

    # Between steps

    def turn(self) -> bool | None:
        """Execute the queued commands, make a step if painting, and return whether to call again; None if closed."""
        try:
            while not self._commands.empty():
                command, *arguments = self._commands.get()
                command(*arguments)
            if self.state == "painting":
                self._step()
        except Exception as error:
            self.error = error
            self._rest("failed")
        if self.state != "painting" and self._commands.empty():
            self._at_rest.set()
        return None if self.state == "closed" else self.state == "painting"

    def _command(self, *command) -> None:
        if self.state != "closed":
            self._at_rest.clear()
            self._commands.put(command)
            self._wake.set()

    def _step(self) -> None:
        began, gesture, run = time.perf_counter(), self._gesture, self.run
        assert run is not None  # while painting
        record = run.step()
        took = time.perf_counter() - began
        self.seconds_a_step = took if record.size_step <= 2 else 0.8 * self.seconds_a_step + 0.2 * took
        self.history.add(run, record, gesture)
        if run.done or self._single:
            self._rest("done" if run.done else "paused")
        else:
            self.changed()

    def _rest(self, state: str) -> None:
        self.state, self._single = state, False
        if state == "closed":
            self.run = None
        self.changed()

    def _paint(self, sizes: tuple[int, ...], steps: int | Sequence[int], start: str) -> None:
        self._reset()
        self._begin(sizes, steps, start)

    def _start(self, *plan) -> None:
        if self.state == "paused":
            self._resume()
        elif self.state != "painting":
            self._paint(*plan)

    def _begin(self, sizes: tuple[int, ...], steps: int | Sequence[int], start: str | None) -> None:
        """Begin a segment with the current settings, from a start, or from the current image if it is None."""
        if not isinstance(self.network, VGG):
            self.network = load_vgg(self.network, device=self.settings.get("device"))
        self.error, latest = None, self.history.latest
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.run = StyleTransfer(
                self.content_image,
                self.style_image,
                network=self.network,
                sizes=sizes,
                steps=steps,
                start=latest.image if start is None and latest is not None else start,
                **self.settings,
            )
        self.note = "; ".join(dict.fromkeys(str(warning.message) for warning in caught))
        changed_meanwhile = {name: value for name, value in self.settings.items() if name in STEERABLE}
        self.run.steer(**changed_meanwhile)
        with contextlib.suppress(ValueError):  # balance is undefined if a loss has no gradient
            self.balance_unit = self.run.balance_unit
        self.history.begin(self.run, start)
        self.state = "painting"
        self.changed()

    def _continue_at(self, size: int | None, steps: int, start: str | None) -> None:
        if self.history.latest is not None:
            paused = self.state == "paused"
            self._begin((size or self.history.latest.size,), steps, start)
            self._single = paused

    def _back(self, snapshot: Snapshot, steps: int) -> None:
        painting = self.state == "painting"
        self.history.cut(snapshot)
        self._begin((snapshot.size,), steps, None)
        if not painting:
            self._rest("paused")

    def _pause(self) -> None:
        if self.state == "painting":
            self._rest("paused")

    def _resume(self, single: bool = False) -> None:
        if self.run is not None and self.state in ("painting", "paused", "done"):
            if self.run.done:
                self.run.extend(1 if single else EXTRA_STEPS)
            self.state, self._single = "painting", single

    def _take_pictures(self, content_image: Tensor, style_image: Tensor) -> None:
        self._reset()
        self.content_image, self.style_image = content_image, style_image

    def _reset(self) -> None:
        self.run, self.history, self.error, self.note = None, History(), None, ""
        self._rest("idle")


def keep_calling(method: Any, wake: threading.Event, name: str) -> None:
    """Call a bound method repeatedly in a thread: immediately if it returned True, after `wake` if False; None ends it.

    The thread has a weak reference to the method's object. It also ends when that is deleted, and when Python exits.
    """
    weak, ended = weakref.WeakMethod(method), threading.Event()

    def work() -> None:
        again: bool | None = True
        while again is not None and not ended.is_set():
            if not again:
                wake.wait()
                wake.clear()
            call = weak()
            again = None if call is None else call()
            del call

    def end() -> None:
        ended.set()
        wake.set()
        if threading.current_thread() is not thread:
            thread.join(10)  # at exit, no operation of torch may be running

    thread = threading.Thread(target=work, daemon=True, name=name)
    weakref.finalize(method.__self__, end)
    thread.start()
