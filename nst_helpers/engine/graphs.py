"""CUDA graphs: a step is captured once, and then replayed by a single launch instead of some hundred."""

from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from ..validate import warn

WARM_UP = 3  # steps before a capture: libraries choose algorithms and allocate memory
AHEAD = 2  # steps that the host may be ahead of the device: more would delay commands and progress bars


class Graph:
    """Runs a function of no arguments, on CUDA as a graph. `run` is called for each step.

    The function changes tensors in place, which stay at the same addresses while the key is the same, and returns
    tensors. On other devices, and if the capture fails, it is simply called.
    """

    def __init__(self, device: torch.device):
        self._on_cuda, self._works = device.type == "cuda", device.index in (None, 0)  # captured on the current card
        self._key: Hashable = None
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._outputs: tuple[Tensor, ...] = ()
        self._events: deque[Any] = deque()

    def run(self, key: Hashable, function: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Return the results of the function, called or replayed.

        key: what the function depends on, except for the values of tensors. Its first `WARM_UP` calls with a key are
            ordinary ones.
        """
        if not self._on_cuda:
            return function()
        if key != self._key:
            self.clear()
            self._key = key
        self._calls += 1
        if self._graph is None and self._works and self._calls > WARM_UP:
            self._capture(function)
        if self._graph is None:
            outputs = function()
        else:
            self._graph.replay()
            outputs = tuple(output.clone() for output in self._outputs)  # the next replay overwrites them
        self._keep_pace()
        return outputs

    def clear(self) -> None:
        """Forget the graph, and release its memory."""
        self._key, self._calls, self._graph, self._outputs = None, 0, None, ()

    def _capture(self, function: Callable[[], tuple[Tensor, ...]]) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may use the device
                self._outputs = function()
            self._graph = graph
        except RuntimeError as error:
            self._works = False
            warn(f"a step cannot be captured as a CUDA graph, so that it may be slower: {str(error).splitlines()[0]}")

    def _keep_pace(self) -> None:
        """Wait until the device has made all but the last `AHEAD` steps."""
        event = torch.cuda.Event()
        event.record()
        self._events.append(event)
        if len(self._events) > AHEAD:
            self._events.popleft().synchronize()
