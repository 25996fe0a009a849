"""The least time that an evaluation takes on a device: its work, counted, and the device's peaks, measured."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from nst_helpers import STYLE_WEIGHTS, VGG

ITEMSIZE = {"float32": 4, "tfloat32": 4, "float16": 2, "bfloat16": 2}  # in bytes, of the formats of products


def seconds_a_call(job: Callable, calls: int, device: torch.device) -> float:
    """Return the seconds of a call, from several calls without a pause."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    for _ in range(calls):
        job()
    wait()
    return (time.perf_counter() - began) / calls


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Products of float32 values, rounded to TF32 or exact. By default only those of convolutions are rounded."""
    settings = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [setting.allow_tf32 for setting in settings]
    try:
        for setting in settings:
            setting.allow_tf32 = allowed
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.allow_tf32 = value


def peaks(device: torch.device) -> dict[str, float]:
    """Return the FLOP/s of large products in each format, and the bytes/s of a large copy ("bandwidth")."""
    large, found = device.type == "cuda", {}
    n = 8192 if large else 1024
    for name in ITEMSIZE:
        dtype = getattr(torch, name.replace("tfloat", "float"))
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        with tf32(name == "tfloat32"):
            found[name] = 2 * n**3 / min(seconds_a_call(partial(torch.matmul, a, b), 3, device) for _ in range(4))
    x = torch.zeros(2 ** (28 if large else 22), device=device)
    copy = partial(torch.empty_like(x).copy_, x)
    return found | {"bandwidth": 2 * x.nbytes / min(seconds_a_call(copy, 5, device) for _ in range(4))}


def work(network: VGG, size: int) -> dict[str, tuple[float, float]]:
    """Return {pass: (FLOPs, elements read and written)} of an evaluation of a square, with all style layers.

    Each operation (convolution with ReLU, pooling, Gram matrix, and their gradients) reads and writes whole feature
    maps. The gradient of a Gram matrix is a single product, since the matrix is symmetric.
    """
    flops, forward, backward, inputs = 0.0, 0.0, 0.0, 3
    for stage in network.stages:
        outputs, pixels = network.channels(stage.conv), (size // network.stride(stage.conv)) ** 2
        maps, weights = outputs * pixels, 9 * inputs * outputs
        flops += 2 * weights * pixels
        forward += inputs * pixels + weights + maps
        backward += 2 * maps + weights + inputs * pixels  # the gradient, and the mask of the ReLU
        if stage.relu in STYLE_WEIGHTS:
            flops += 2 * outputs * maps
            forward += maps
            backward += 3 * maps  # the features, and the gradient before and after
        if stage.relu == list(STYLE_WEIGHTS)[-1]:
            break
        if stage.pool:
            forward += 1.25 * maps
            backward += 1.5 * maps  # a quarter each for the gradient and the indices of the maxima
        inputs = outputs
    return {"forward": (flops, forward), "backward": (flops, backward)}


def roofline(network: VGG, size: int, formats: tuple[str, str], peaks: dict[str, float]) -> dict:
    """Return the least milliseconds of an evaluation whose two passes have these formats, and its work."""
    seconds, found = 0.0, {}
    for (name, (flops, elements)), form in zip(work(network, size).items(), formats, strict=True):
        moved = elements * ITEMSIZE[form]
        seconds += max(flops / peaks[form], moved / peaks["bandwidth"])
        found |= {f"{name} GFLOP": flops / 1e9, f"{name} GB": moved / 1e9}
    return {"roofline ms": 1000 * seconds} | found
