"""Which engine computes feature maps, Gram matrices and their gradient: autograd, or passes written by hand."""

import time
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from ..vgg import VGG
from .by_hand import ByHand
from .direct import DirectConvolution
from .plain import Plain

ENGINES = ("auto", "plain", "direct", "winograd")
_convolutions = WeakKeyDictionary()  # {network: {(layer, dtype, …): its convolution}}: large, and so shared by runs


class Choice(NamedTuple):
    """An engine, and the format of its gradients."""

    kind: str
    dtype: torch.dtype


def pick_engine(network: VGG, engine: str = "auto", dtype: torch.dtype | None = None) -> Plain | ByHand:
    """Return how a network is evaluated.

    Args:
        network: from `load_vgg`; what is possible depends on where it is.
        engine: "plain" is autograd; "direct" is by hand with torch's convolutions; "winograd", on a CPU, by hand with
            our own. "auto" takes "winograd" on a CPU, and elsewhere what a short trial finds to be the fastest.
        dtype: of the gradient. Default for "direct" and "winograd": bfloat16 where a CPU, and float16 where a GPU is
            fast at it; with float16, the forward pass is in it, too.

    Raises ValueError for an unknown name, and for "winograd" where it cannot be had.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is one of {', '.join(ENGINES)}, not {engine!r}")
    if network.padding != "zeros":
        if engine in ("auto", "plain"):
            return Plain(network, f", since the padding is {network.padding}")
        raise ValueError(f"engine={engine!r} pads with zeros; the network's padding is {network.padding}")
    choices = [choice for choice in _choices(network.device) if engine in ("auto", choice.kind)]
    if dtype is not None and engine != "plain":
        choices = list(dict.fromkeys(choice._replace(dtype=dtype) for choice in choices if choice.kind != "plain"))
    if not choices:
        raise ValueError(f'engine="winograd" takes a CPU and numba; the network is on {network.device}')
    if len(choices) > 1 and network.device.type == "cpu":
        choices = choices[:1]
    elif len(choices) > 1:
        choices = [_fastest(network, tuple(choices))]
    return _build(network, choices[0])


def _choices(device: torch.device) -> list[Choice]:
    """Return what can run on a device; on a CPU, the fastest first."""
    plain = Choice("plain", torch.float32)
    if device.type == "cpu":
        dtype = torch.bfloat16 if bfloat16_is_faster(torch.get_num_threads()) else torch.float32
        winograd = [Choice("winograd", dtype)] if find_spec("numba") else []
        return [*winograd, Choice("direct", dtype), plain]
    half = [Choice("direct", torch.float16)] if device.type == "cuda" else []
    return [*half, Choice("direct", torch.float32), plain]


def _build(network: VGG, choice: Choice) -> Plain | ByHand:
    if choice.kind == "plain":
        return Plain(network)
    known = _convolutions.setdefault(network, {})

    def direct(layer: str, height: int, width: int) -> DirectConvolution:
        key = layer, choice.dtype, network.device
        if key not in known:
            convolution = getattr(network, layer)
            known[key] = DirectConvolution(convolution.weight.detach(), convolution.bias.detach(), choice.dtype)
        return known[key]

    name = f"{choice.kind}, {str(choice.dtype).removeprefix('torch.')}"
    if choice.kind == "direct":
        return ByHand(name, network, choice.dtype, direct)
    from . import winograd  # numba takes a second to import

    def convolution(layer: str, height: int, width: int):
        if not winograd.pays(height, width):
            return direct(layer, height, width)
        key = layer, choice.dtype
        if key not in known:
            kind = winograd.FirstConvolution if layer == "conv1_1" else winograd.Convolution
            convolution = getattr(network, layer)
            known[key] = kind(convolution.weight.detach(), convolution.bias.detach(), choice.dtype)
        return known[key]

    return ByHand(name, network, choice.dtype, convolution, winograd.Space())


_fastest_known = {}


def _fastest(network: VGG, choices: tuple[Choice, ...]) -> Choice:
    """Return the engine that takes a trial picture through in the least time, among those that get it right."""
    key = network.device, network.name, choices
    if key not in _fastest_known:
        image = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)).to(network.device)
        _, right = _trial(Plain(network), image)
        seconds = {}
        for choice in choices:
            try:
                seconds[choice], gradient = _trial(_build(network, choice), image)
            except RuntimeError:
                continue
            if not cosine_similarity(gradient.flatten(), right.flatten(), 0) > 0.99:
                del seconds[choice]
        _fastest_known[key] = min(seconds, key=seconds.get)
    return _fastest_known[key]


def _trial(engine: Plain | ByHand, image: Tensor) -> tuple[float, Tensor]:
    """Return the seconds of an evaluation and its gradient."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        image = image.detach().requires_grad_()
        maps, grams = engine(image, ["relu4_2"], ["relu1_1", "relu3_1", "relu5_1"])
        loss = maps["relu4_2"].square().mean() + sum(gram.square().mean() for gram in grams.values())
        (gradient,) = torch.autograd.grad(loss, image)
        gradient.sum().item()  # waits for the device
        times.append(time.perf_counter() - began)
    return min(times), gradient


@cache
def bfloat16_is_faster(threads: int) -> bool:
    """Say whether this processor multiplies matrices clearly faster in bfloat16 than in float32, by trying."""

    def seconds(dtype: torch.dtype) -> float:
        x, y = torch.ones(36, 64, 256, dtype=dtype), torch.ones(36, 256, 256, dtype=dtype)
        times = []
        for _ in range(20):  # other programs may take the processor for most of them
            began = time.perf_counter()
            torch.bmm(x, y)
            times.append(time.perf_counter() - began)
        return min(times)

    return seconds(torch.bfloat16) < 0.75 * seconds(torch.float32)
