"""Isolation from the caller's settings of torch and matplotlib: a call returns the same bits wherever it is made.

Gradient mode, inference mode, autocast and the default device belong to a thread. They are set for the duration of a
call, and restored afterwards. The precision of products of float32 matrices belongs to the process: it is full while
any thread computes. The default dtype belongs to the process too, but other threads would notice a change of it.
Therefore it is left alone, and every call in this package that creates a tensor of floats names a dtype (a test checks
this).
"""

import inspect
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

T = TypeVar("T", bound=Callable)
FULL = ("none", "ieee", "highest")  # torch's names for full precision; "none" is its default


def isolated(thing: T) -> T:
    """Return a function that computes with gradients enabled and full precision, whatever the caller has set.

    Tensors that it creates are not inference tensors. Of a class, all methods and properties become such functions.
    """
    if not inspect.isclass(thing):
        return _within(thing, gradients=True)
    for name, member in list(vars(thing).items()):
        if inspect.isfunction(member):
            setattr(thing, name, isolated(member))
        elif isinstance(member, property):
            read, write = member.fget and isolated(member.fget), member.fset and isolated(member.fset)
            setattr(thing, name, property(read, write, doc=member.__doc__))
    return thing


def exact(function: T) -> T:
    """Return a function that computes in full precision; whether its result has a gradient is left to the caller."""
    return _within(function, gradients=False)


_drawing = threading.RLock()  # matplotlib's settings belong to the process


@contextmanager
def _default_style() -> Iterator[None]:
    with _drawing, plt.style.context("default"):
        yield


class DefaultFigure(Figure):
    """A figure that is drawn and saved, whenever that is, with matplotlib's default settings."""

    def draw(self, renderer) -> None:
        with _default_style():
            super().draw(renderer)

    def savefig(self, *args, **kwargs) -> None:
        with _default_style():
            super().savefig(*args, **kwargs)


def with_default_style(draw: T) -> T:
    """Return a function that draws a `DefaultFigure` with matplotlib's default settings, and returns it closed."""

    @wraps(draw)
    def call(*args, **kwargs):
        with _default_style():
            figure = draw(*args, **kwargs)
        figure.__class__ = DefaultFigure
        plt.close(figure)
        return figure

    return cast(T, call)


def pick_device() -> torch.device:
    """Return CUDA if it is available, else MPS (Apple), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _within(function: Any, gradients: bool) -> Any:
    @wraps(function)
    def call(*args, **kwargs):
        if getattr(_own, "isolated", False):  # torch.no_grad() inside an isolated function stays
            return function(*args, **kwargs)
        with _isolation(gradients):
            return function(*args, **kwargs)

    return call


_own = threading.local()


@contextmanager
def _isolation(gradients: bool) -> Iterator[None]:
    with ExitStack() as stack:
        for device in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(_full_precision)
        if gradients:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            _own.isolated = True
            stack.callback(setattr, _own, "isolated", False)
        yield


class _FullPrecision:
    """Products of float32 matrices in full precision while at least one thread is inside."""

    def __init__(self):
        self._lock, self._inside = threading.Lock(), 0
        self._saved: dict[Any, str] = {}

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            for setting in _settings():
                if setting.fp32_precision not in FULL:
                    self._saved.setdefault(setting, _own_value(setting))
                    setting.fp32_precision = "ieee"

    def __exit__(self, *error) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._restore()

    def _restore(self) -> None:
        for setting, precision in self._saved.items():
            if setting.fp32_precision in FULL:  # else, another thread has changed it in the meantime
                setting.fp32_precision = precision
        self._saved = {}

    def reset(self) -> None:
        """Restore the settings in a forked child, where no thread is inside."""
        self._restore()
        self.__init__()  # type: ignore[misc]


class _Legacy:
    """The setting of torch before 2.9, as an attribute like that of later versions."""

    @property
    def fp32_precision(self) -> str:
        return torch.get_float32_matmul_precision()

    @fp32_precision.setter
    def fp32_precision(self, precision: str) -> None:
        torch.set_float32_matmul_precision("highest" if precision == "ieee" else precision)


_legacy = _Legacy()
_full_precision = _FullPrecision()


def _after_fork() -> None:
    """Compute with one thread: OpenMP's threads do not survive a fork, and the first wait for them would not end."""
    torch.set_num_threads(1)
    _full_precision.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _own_value(setting: Any) -> str:
    """Return a setting's own value: "none" if its value is that of a more general setting."""
    value = setting.fp32_precision
    if setting is not _legacy:
        setting.fp32_precision = "none"
        if setting.fp32_precision == value:
            return "none"
    return value


def _settings() -> list[Any]:
    mkldnn: Any = torch.backends.mkldnn
    if not hasattr(mkldnn, "matmul"):
        return [_legacy]
    return [mkldnn.matmul, mkldnn.conv, torch.backends.cuda.matmul]
