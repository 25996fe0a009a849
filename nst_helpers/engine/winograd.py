"""3×3 convolutions on a CPU by Winograd's minimal filtering F(4×4, 3×3): four times fewer multiplications.

Each 4×4 tile y of the output comes from the 6×6 patch d of the input around it (Lavin and Gray 2016, section 4):

    y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A,    g the 3×3 filter

so that a convolution becomes 36 matrix products over tiles and channels, one for each place in a patch. Threads take
some tiles at a time, so that all that belongs to these stays in the processor's cache, and work in the bias, the ReLU
and the pooling that follow while the values are at hand; in the gradient, these come first.

The patches are those of Cook and Toom for the points 0, ±a, ±b and ∞. The usual choice of a and b is 1 and 2; with 2/3
and 3/2 the rounding errors of bfloat16 are less than half as large.
"""

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from . import kernels
from .kernels import OPEN, PATCH, TAPS, TILE

STRIP = 128  # tiles that a thread takes at a time
FEW = 64  # tiles: too few for this to be faster than torch's convolution
ROWS = 8  # rows that a thread takes at a time in the first convolution
BITS = {torch.float32: torch.uint32, torch.bfloat16: torch.uint16, torch.uint8: torch.uint8}
NOTHING = np.empty((0, 0, 0), np.uint16)
F = np.float32


def pays(height: int, width: int) -> bool:
    """Say whether feature maps are large enough; below, most time goes into reading the transformed weights."""
    return height * width >= FEW * TILE * TILE


class Space:
    """Memory that every evaluation uses again: fresh pages would cost a tenth of its time."""

    def __init__(self):
        self._passing = [torch.empty(0, dtype=torch.uint8)] * 2
        self._kept = {}

    def begin(self) -> None:
        """Begin a pass: nothing is passing any more, and the first and largest feature maps get the larger memory."""
        self._passing.sort(key=torch.numel, reverse=True)

    def passing(self, height: int, width: int, channels: int, dtype: torch.dtype) -> Tensor:
        """Return feature maps (1, C, H, W) that hold until `passing` has been called twice more."""
        size = height * width * channels * dtype.itemsize
        memory = self._passing.pop(0)
        if memory.numel() < size:
            memory = torch.empty(size, dtype=torch.uint8)
        self._passing.append(memory)
        return memory[:size].view(dtype).view(1, height, width, channels).permute(0, 3, 1, 2)

    def kept(self, owner: object, height: int, width: int, channels: int, dtype: torch.dtype) -> Tensor:
        """Return feature maps (1, C, H, W) that hold until the same owner asks again."""
        kept = self._kept.get(owner)
        if kept is None or kept.shape != (1, channels, height, width) or kept.dtype != dtype:
            self._kept[owner] = torch.empty(1, height, width, channels, dtype=dtype).permute(0, 3, 1, 2)
        return self._kept[owner]


class Convolution:
    """A frozen 3×3 convolution, zero padded, with the ReLU and max pooling behind it, and its gradient.

    Feature maps are (1, C, H, W) in channels_last. dtype, float32 or bfloat16, is that of gradients, and of what is
    kept for them. The weights' transforms, four times their size, are made when first used.
    """

    fuses_pooling = True

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype):
        self.weight, self.bias, self.dtype = weight, bias.numpy(), dtype
        self._known = {}

    def _filters(self, key: torch.dtype | str) -> Tensor:
        if key not in self._known:
            turned = key == "gradient"
            weight = self.weight.flip(2, 3).transpose(0, 1) if turned else self.weight
            self._known[key] = filters(weight).to(self.dtype if turned else key)
        return self._known[key]

    def forward(self, x: Tensor, space: Space, dtype: torch.dtype, relu: bool) -> tuple[Tensor, Tensor]:
        """Return the convolution of x, its products in dtype, rectified if told to, and what the gradient needs."""
        y, kept, into = self._room(x, space)
        lowest = F(0 if relu else -np.inf)

        def write(M: np.ndarray, *at: int) -> None:
            kernels.outputs(M, self.bias, lowest, *into, *at)

        convolve(x, None, OPEN, x.shape[2:], self._filters(dtype), write)
        return y, kept

    def forward_pooled(self, x: Tensor, space: Space, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the 2×2 maxima of the rectified convolution of x, and the places where they stood."""
        size = x.shape[2] // 2, x.shape[3] // 2, len(self.bias)
        y, places = space.passing(*size, torch.float32), space.kept(self, *size, torch.uint8)
        into = _bits(y), _bits(places)

        def write(M: np.ndarray, *at: int) -> None:
            kernels.pooled_outputs(M, self.bias, *into, *at)

        convolve(x, None, OPEN, x.shape[2:], self._filters(dtype), write)
        return y, places

    def backward(self, g: Tensor, gate: Tensor | None, mode: int, shape: tuple[int, int], space: Space) -> Tensor:
        """Return the gradient of the input, (1, C, *shape), from g behind its gate: see `kernels`."""
        channels = self.weight.shape[1]
        y, zero = space.passing(*shape, channels, self.dtype), np.zeros(channels, F)
        into = _bits(y)

        def write(M: np.ndarray, *at: int) -> None:
            kernels.outputs(M, zero, F(-np.inf), into, NOTHING, *at)

        convolve(g, gate, mode, shape, self._filters("gradient"), write)
        return y

    def _room(self, x: Tensor, space: Space) -> tuple[Tensor, Tensor, tuple[np.ndarray, np.ndarray]]:
        size = *x.shape[2:], len(self.bias)
        kept = space.kept(self, *size, self.dtype)
        if self.dtype == torch.float32:
            return kept, kept, (_bits(kept), NOTHING)
        y = space.passing(*size, torch.float32)
        return y, kept, (_bits(y), _bits(kept))


class FirstConvolution(Convolution):
    """The same of an image, with three channels; it takes and gives float32."""

    def forward(self, x: Tensor, space: Space, dtype: torch.dtype, relu: bool) -> tuple[Tensor, Tensor]:
        space.begin()
        y, kept, into = self._room(x, space)
        image = pad(x, (1, 4, 1, 1))[0].permute(1, 2, 0).flatten(1).contiguous().numpy()
        weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous().numpy()
        lowest = F(0 if relu else -np.inf)
        _in_threads(
            x.shape[2], ROWS, lambda *rows: kernels.first_outputs(image, weight, self.bias, lowest, *into, *rows)
        )
        return y, kept

    def backward(self, g: Tensor, gate: Tensor | None, mode: int, shape: tuple[int, int], space: Space) -> Tensor:
        out = np.empty((*shape, 3), F)
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        weight = pad(weight, (0, TAPS - weight.shape[1])).numpy()
        g, gate = _bits(g), _bits(g if gate is None else gate)
        _in_threads(shape[0], ROWS, lambda *rows: kernels.first_gradient(g, gate, mode, weight, out, *rows))
        return torch.from_numpy(out).permute(2, 0, 1)[None]


def filters(weight: Tensor) -> Tensor:
    """Return G g Gᵀ, (36, C_in, C_out), of a weight (C_out, C_in, 3, 3)."""
    p = torch.tensor([0, 2 / 3, -2 / 3, 3 / 2, -3 / 2], dtype=torch.float64)
    N = (p[:, None] - p + torch.eye(5)).prod(1)
    G = torch.cat([torch.stack([p**0, p, p**2], 1) / N[:, None], torch.tensor([[0.0, 0.0, 1.0]])])
    return torch.einsum("iy,dcyx,jx->ijcd", G, weight.double(), G).flatten(0, 1).float()


def convolve(
    x: Tensor, gate: Tensor | None, mode: int, shape: tuple[int, int], filters: Tensor, write: Callable
) -> None:
    """Convolve what passes x's gate, and hand the products of some tiles at a time to `write(M, first, across)`."""
    down, across = -(-shape[0] // TILE), -(-shape[1] // TILE)
    x, gate = _bits(x), _bits(x if gate is None else gate)

    def work(first: int, stop: int) -> None:
        V, M = _scratch(stop - first, filters)
        kernels.patches(x, gate, mode, _bits(V), first, across)
        torch.bmm(V, filters, out=M)
        write(_bits(M), first, across)

    _in_threads(down * across, STRIP, work)


def _in_threads(n: int, most: int, work: Callable[[int, int], None]) -> None:
    """Call `work(start, stop)` for the whole of 0 … n, `most` or fewer at a time, in as many threads as torch uses."""
    threads = torch.get_num_threads()
    step = min(most, -(-n // threads))
    starts = iter(range(0, n, step))

    def worker(_) -> None:
        for start in starts:
            work(start, min(start + step, n))

    list(_pool(threads, os.getpid()).map(worker, range(threads)))


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return workers in which torch uses one thread each; `process` since threads do not survive a fork."""
    pool = ThreadPoolExecutor(threads, "winograd", initializer=torch.set_num_threads, initargs=(1,))
    started = threading.Barrier(threads + 1)
    for _ in range(threads):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(threads)  # for threads to come: the workers' call set that, too
    return pool


_own = threading.local()


def _scratch(tiles: int, filters: Tensor) -> Iterator[Tensor]:
    """Return a thread's own room for V (36, tiles, C_in) and M (36, tiles, C_out)."""
    places, channels_in, channels_out = filters.shape
    size = places * tiles * (channels_in + channels_out) * filters.itemsize
    if not hasattr(_own, "memory") or _own.memory.numel() < size:
        _own.memory = torch.empty(size, dtype=torch.uint8)
    numbers = _own.memory[:size].view(filters.dtype)
    V, M = numbers.split([places * tiles * channels_in, places * tiles * channels_out])
    return V.view(places, tiles, channels_in), M.view(places, tiles, channels_out)


def _bits(tensor: Tensor) -> np.ndarray:
    """Return the bits of feature maps (1, C, H, W) as (H, W, C), of patches (36, tiles, C) as (6, 6, tiles, C)."""
    tensor = tensor[0].permute(1, 2, 0) if tensor.ndim == 4 else tensor.unflatten(0, (PATCH, PATCH))
    return tensor.view(BITS[tensor.dtype]).numpy()
