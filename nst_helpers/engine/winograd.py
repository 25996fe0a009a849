"""3×3 convolutions on a CPU with Winograd's minimal filtering F(4×4, 3×3), with a quarter of the multiplications.

Each 4×4 tile y of the output is computed from the 6×6 patch d of the input around it (Lavin and Gray 2016, section 4):

    y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A,    g the 3×3 filter

A convolution becomes 36 matrix products over tiles and channels, one for each position in a patch. A thread processes
a few tiles at a time, so that their data stays in the processor's cache. Bias, ReLU and pooling are applied to the
output in the same pass; the gradient applies their masks to its input.

The transforms are those of Cook and Toom for the points 0, ±a, ±b and ∞. Usually a = 1 and b = 2. With a = 2/3 and
b = 3/2, the rounding errors of bfloat16 are less than half as large.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from ..images import sides
from . import kernels
from .kernels import OPEN, PATCH, TAPS, TILE

STRIP = 128  # tiles that a thread processes at a time
MIN_TILES = 64  # with fewer tiles, torch's convolution is faster
ROWS = 8  # rows that a thread processes at a time in the first convolution
BITS = {torch.float32: torch.uint32, torch.bfloat16: torch.uint16, torch.uint8: torch.uint8}
NOTHING = np.empty((0, 0, 0), np.uint16)
F = np.float32


def is_faster(height: int, width: int) -> bool:
    """Return whether Winograd convolution is faster than torch's for feature maps of this size.

    For small ones, reading the transformed weights takes most of the time.
    """
    return height * width >= MIN_TILES * TILE * TILE


def check() -> None:
    """Raise an error if the kernels cannot be compiled here, or if their result differs from torch's."""
    weight, bias, x = (torch.linspace(-1, 1, n, dtype=torch.float32) for n in (16 * 16 * 9, 16, 16 * 8 * 8))
    weight, x = weight.view(16, 16, 3, 3), x.view(1, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    y, _ = Convolution(weight, bias, x.dtype).forward(x, BufferPool(), x.dtype, relu=False)
    torch.testing.assert_close(y, conv2d(x, weight, bias, padding=1), rtol=1e-3, atol=1e-3)


class BufferPool:
    """Buffers that all evaluations reuse: allocating new memory would take a tenth of an evaluation's time."""

    def __init__(self):
        self._scratch = [torch.empty(0, dtype=torch.uint8)] * 2
        self._persistent: dict[object, Tensor] = {}

    def start_pass(self) -> None:
        """Start a forward pass with two free scratch buffers; the first and largest feature maps get the larger one."""
        self._scratch.sort(key=torch.numel, reverse=True)

    def scratch(self, height: int, width: int, channels: int, dtype: torch.dtype) -> Tensor:
        """Return feature maps (1, C, H, W) in a scratch buffer, valid until the second call after this one."""
        size = height * width * channels * dtype.itemsize
        memory = self._scratch.pop(0)
        if memory.numel() < size:
            memory = torch.empty(size, dtype=torch.uint8)
        self._scratch.append(memory)
        return memory[:size].view(dtype).view(1, height, width, channels).permute(0, 3, 1, 2)

    def persistent(self, owner: object, height: int, width: int, channels: int, dtype: torch.dtype) -> Tensor:
        """Return feature maps (1, C, H, W) in a buffer, which are valid until the next call with the same owner."""
        buffer = self._persistent.get(owner)
        if buffer is None or buffer.shape != (1, channels, height, width) or buffer.dtype != dtype:
            self._persistent[owner] = torch.empty(1, height, width, channels, dtype=dtype).permute(0, 3, 1, 2)
        return self._persistent[owner]


class Convolution:
    """A frozen, zero-padded 3×3 convolution followed by ReLU and optionally max pooling, and its gradient.

    Feature maps are (1, C, H, W) in channels_last. dtype, float32 or bfloat16, is the format of gradients and of the
    activations stored for them. The transformed weights, four times the size of the weights, are computed at first use.
    """

    fuses_pooling = True

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype):
        self.weight, self.bias, self.dtype = weight, bias.numpy(), dtype
        self._known: dict[torch.dtype | str, Tensor] = {}

    def _filters(self, key: torch.dtype | str) -> Tensor:
        if key not in self._known:
            turned = key == "gradient"
            weight = self.weight.flip(2, 3).transpose(0, 1) if turned else self.weight
            self._known[key] = filters(weight).to(self.dtype if turned else key)
        return self._known[key]

    def forward(self, x: Tensor, buffers: BufferPool, dtype: torch.dtype, relu: bool) -> tuple[Tensor, Tensor]:
        """Return the convolution of x, computed in dtype, with ReLU if `relu`, and a copy to store for the gradient."""
        y, kept, into = self._outputs(x, buffers)
        lowest = F(0 if relu else -np.inf)

        def write(M: np.ndarray, *at: int) -> None:
            kernels.outputs(M, self.bias, lowest, *into, *at)

        convolve(x, None, OPEN, sides(x), self._filters(dtype), write)
        return y, kept

    def forward_pooled(self, x: Tensor, buffers: BufferPool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the 2×2 max pooling of the convolution of x with ReLU, and the positions of the maxima."""
        size = x.shape[2] // 2, x.shape[3] // 2, len(self.bias)
        y, argmax = buffers.scratch(*size, torch.float32), buffers.persistent(self, *size, torch.uint8)
        into = _bits(y), _bits(argmax)

        def write(M: np.ndarray, *at: int) -> None:
            kernels.pooled_outputs(M, self.bias, *into, *at)

        convolve(x, None, OPEN, sides(x), self._filters(dtype), write)
        return y, argmax

    def backward(
        self, g: Tensor, mask: Tensor | None, mode: int, shape: tuple[int, int], buffers: BufferPool
    ) -> Tensor:
        """Return the gradient with respect to the input, (1, C, *shape), from g, masked by `mode`: see `kernels`."""
        channels = self.weight.shape[1]
        y, zero = buffers.scratch(*shape, channels, self.dtype), np.zeros(channels, F)
        into = _bits(y)

        def write(M: np.ndarray, *at: int) -> None:
            kernels.outputs(M, zero, F(-np.inf), into, NOTHING, *at)

        convolve(g, mask, mode, shape, self._filters("gradient"), write)
        return y

    def _outputs(self, x: Tensor, buffers: BufferPool) -> tuple[Tensor, Tensor, tuple[np.ndarray, np.ndarray]]:
        """Return buffers for the output in float32 and for the copy in `dtype`, and both as arrays for `kernels`."""
        size = x.shape[2], x.shape[3], len(self.bias)
        kept = buffers.persistent(self, *size, self.dtype)
        if self.dtype == torch.float32:
            return kept, kept, (_bits(kept), NOTHING)
        y = buffers.scratch(*size, torch.float32)
        return y, kept, (_bits(y), _bits(kept))


class FirstConvolution(Convolution):
    """The first convolution, whose input is a float32 image with three channels."""

    def forward(self, x: Tensor, buffers: BufferPool, dtype: torch.dtype, relu: bool) -> tuple[Tensor, Tensor]:
        buffers.start_pass()
        y, kept, into = self._outputs(x, buffers)
        image = pad(x, (1, 4, 1, 1))[0].permute(1, 2, 0).flatten(1).contiguous().numpy()
        weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous().numpy()
        lowest = F(0 if relu else -np.inf)
        _in_threads(
            x.shape[2], ROWS, lambda *rows: kernels.first_outputs(image, weight, self.bias, lowest, *into, *rows)
        )
        return y, kept

    def backward(
        self, g: Tensor, mask: Tensor | None, mode: int, shape: tuple[int, int], buffers: BufferPool
    ) -> Tensor:
        out = np.empty((*shape, 3), F)
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)
        padded = pad(weight, (0, TAPS - weight.shape[1])).numpy()
        bits = _bits(g), _bits(g if mask is None else mask)
        _in_threads(shape[0], ROWS, lambda *rows: kernels.first_gradient(*bits, mode, padded, out, *rows))
        return torch.from_numpy(out).permute(2, 0, 1)[None]


def filters(weight: Tensor) -> Tensor:
    """Return the transformed filters G g Gᵀ, (36, C_in, C_out), of a weight (C_out, C_in, 3, 3)."""
    p = torch.tensor([0, 2 / 3, -2 / 3, 3 / 2, -3 / 2], dtype=torch.float64)
    N = (p[:, None] - p + torch.eye(5, dtype=p.dtype)).prod(1)
    G = torch.cat([torch.stack([p**0, p, p**2], 1) / N[:, None], torch.tensor([[0.0, 0.0, 1.0]], dtype=p.dtype)])
    return torch.einsum("iy,dcyx,jx->ijcd", G, weight.double(), G).flatten(0, 1).float()


def convolve(
    x: Tensor, mask: Tensor | None, mode: int, shape: tuple[int, int], filters: Tensor, write: Callable
) -> None:
    """Convolve x, masked according to `mode`, and call `write(M, first, across)` with the products of some tiles."""
    down, across = -(-shape[0] // TILE), -(-shape[1] // TILE)
    bits = _bits(x), _bits(x if mask is None else mask)

    def work(first: int, stop: int) -> None:
        V, M = _scratch(stop - first, filters)
        kernels.patches(*bits, mode, _bits(V), first, across)
        torch.bmm(V, filters, out=M)
        write(_bits(M), first, across)

    _in_threads(down * across, STRIP, work)


def _in_threads(n: int, most: int, work: Callable[[int, int], None]) -> None:
    """Call `work(start, stop)` for chunks of the range 0 … n of at most `most`, in as many threads as torch uses."""
    threads = torch.get_num_threads()
    step = min(most, -(-n // threads))
    starts = iter(range(0, n, step))

    def worker(_) -> None:
        for start in starts:
            work(start, min(start + step, n))

    list(_pool(threads, os.getpid()).map(worker, range(threads)))


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return a thread pool whose workers limit torch to one thread; one a process: threads do not survive a fork."""
    pool = ThreadPoolExecutor(threads, "winograd", initializer=torch.set_num_threads, initargs=(1,))
    started = threading.Barrier(threads + 1)
    for _ in range(threads):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(threads)  # restores the default for new threads, which the workers' calls have changed
    return pool


_own = threading.local()


def _scratch(tiles: int, filters: Tensor) -> tuple[Tensor, Tensor]:
    """Return the thread's scratch memory for V (36, tiles, C_in) and M (36, tiles, C_out)."""
    elements, channels_in, channels_out = filters.shape
    size = elements * tiles * (channels_in + channels_out) * filters.itemsize
    if not hasattr(_own, "memory") or _own.memory.numel() < size:
        _own.memory = torch.empty(size, dtype=torch.uint8)
    numbers = _own.memory[:size].view(filters.dtype)
    V, M = numbers.split([elements * tiles * channels_in, elements * tiles * channels_out])
    return V.view(elements, tiles, channels_in), M.view(elements, tiles, channels_out)


def _bits(tensor: Tensor) -> np.ndarray:
    """Return the bits of feature maps (1, C, H, W) as (H, W, C), or of patches (36, tiles, C) as (6, 6, tiles, C)."""
    tensor = tensor[0].permute(1, 2, 0) if tensor.ndim == 4 else tensor.unflatten(0, (PATCH, PATCH))
    return tensor.view(BITS[tensor.dtype]).numpy()
