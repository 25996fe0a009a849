"""How feature maps, Gram matrices and their gradient are computed: plainly, or by hand and several times faster."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, cosine_similarity, interpolate, max_pool2d, max_unpool2d, pad

from .images import preprocess
from .losses import gram_matrix
from .vgg import VGG, get_features

OPEN, RELU, MAX, AVERAGE = range(4)  # what a gate does: see `kernels`
ROWS = 4096  # positions that a Gram matrix sums in one product, before it goes on in float32

FORWARD = {torch.bfloat16: torch.float32}  # the format of the forward pass, where it is not that of the gradient:
# bfloat16's eight bits cost a gradient nothing, but after 300 evaluations a painting ends 3 % worse by them
ROUGH_FROM = 3  # the block from which on a rough forward pass is in the gradient's format all the same

Maps = dict[str, Tensor]


class Plain:
    """Autograd through torch's own layers in float32: the reference that every other engine is tested against."""

    name, has_rough = "plain", False

    def __init__(self, network: VGG):
        self.network = network

    def __call__(
        self, image: Tensor, layers: Sequence[str], gram_layers: Sequence[str], rough: bool = False
    ) -> tuple[Maps, Maps]:
        """Return {layer: feature maps (1, C, H', W')} and {layer: Gram matrix (1, C, C)} of an image (1, 3, H, W).

        All float32, and differentiable by the image. `rough` allows an engine that `has_rough` to be in bfloat16 from
        the third block on, which is faster; then losses are right within 0.5 %.
        """
        maps = get_features(image, self.network, [*layers, *gram_layers])
        return {layer: maps[layer] for layer in layers}, {layer: gram_matrix(maps[layer]) for layer in gram_layers}


class Stage(NamedTuple):
    """A convolution with its ReLU and, at the end of a block, its pooling."""

    conv: str
    relu: str
    pool: str | None


@dataclass
class Trace:
    """What the gradient needs of a stage."""

    stage: Stage
    convolution: object
    shape: torch.Size  # height and width of its input
    gate: Tensor | None = None
    mode: int = RELU
    pooled: bool = False
    places: Tensor | None = None  # of the maxima, where ReLU and pooling were not one


@dataclass
class Tape:
    """What the gradient needs of a pass."""

    traces: list[Trace] = field(default_factory=list)
    rows: Maps = field(default_factory=dict)  # {layer: feature maps (H'·W', C)} that Gram matrices were made of


class ByHand:
    """The passes of a frozen network written out, forward and backward: nothing is computed or kept without need.

    Since the weights are frozen, going back takes no more than where each ReLU and each pooling let values through.
    Gram matrices are made, and their gradient is added, on the spot.

    Args:
        name: how the engine is called where it is said which one ran.
        dtype: of gradients, and of what is kept for them.
        convolution: returns that of a layer, for feature maps of a height and a width.
        space: what convolutions may keep for themselves between evaluations.
    """

    def __init__(self, name: str, network: VGG, dtype: torch.dtype, convolution: Callable, space=None):
        self.name, self.network, self.dtype, self.convolution, self.space = name, network, dtype, convolution, space
        self.has_rough = dtype == torch.bfloat16
        names = [*network._modules, ""]
        self._depth = {layer: depth for depth, layer in enumerate(names)}
        self._stages = [
            Stage(*names[i : i + 2], names[i + 2] if names[i + 2].startswith("pool") else None)
            for i in range(len(names) - 2)
            if names[i].startswith("conv")
        ]
        self._passes = 0

    def __call__(
        self, image: Tensor, layers: Sequence[str], gram_layers: Sequence[str], rough: bool = False
    ) -> tuple[Maps, Maps]:
        """As `Plain`; the gradient is to be taken before the next call."""
        layers, gram_layers = self.network.check_layers(layers), self.network.check_layers(gram_layers)
        results = _Pass.apply(preprocess(image.to(self.network.device)), self, layers, gram_layers, rough)
        return _paired(layers, gram_layers, results)

    def forward(
        self, x: Tensor, layers: Sequence[str], gram_layers: Sequence[str], rough: bool
    ) -> tuple[Maps, Maps, Tape]:
        """Return what was asked for, and the tape that `backward` goes back on; x is the normalised image."""
        wanted = {*layers, *gram_layers}
        deepest = max(self._depth[layer] for layer in wanted)
        maps, grams, tape = {}, {}, Tape()
        x = x.contiguous(memory_format=torch.channels_last)

        def take(layer: str, y: Tensor, kept: Tensor | None = None) -> None:
            if layer in layers:
                maps[layer] = y.to(torch.float32, copy=True)
            if layer in gram_layers:
                rows = tape.rows[layer] = _rows(y.to(self.dtype, copy=True) if kept is None else kept)
                grams[layer] = _gram(rows)

        for stage in self._stages:
            if self._depth[stage.conv] > deepest:
                break
            convolution = self.convolution(stage.conv, *x.shape[2:])
            dtype = self.dtype if rough and int(stage.conv[4]) >= ROUGH_FROM else FORWARD.get(self.dtype, self.dtype)
            pooled = stage.pool is not None and self._depth[stage.pool] <= deepest
            trace = Trace(stage, convolution, x.shape[2:], pooled=pooled)
            tape.traces.append(trace)
            both = not wanted & {stage.conv, stage.relu} and convolution.fuses_pooling
            if pooled and both and self.network.pooling == "max":
                x, trace.gate = convolution.forward_pooled(x, self.space, dtype)
                trace.mode = MAX
            else:
                x, trace.gate = convolution.forward(x, self.space, dtype, stage.conv not in wanted)
                if stage.conv in wanted:
                    take(stage.conv, x)
                    x.relu_(), trace.gate.relu_()
                take(stage.relu, x, trace.gate)
                if pooled and self.network.pooling == "max":
                    x, trace.places = max_pool2d(x, 2, return_indices=True)
                elif pooled:
                    x = avg_pool2d(x, 2)
                    trace.mode = AVERAGE if both else RELU
            if pooled:
                take(stage.pool, x)
        return maps, grams, tape

    def backward(self, tape: Tape, maps: Maps, grams: Maps) -> Tensor:
        """Return the gradient of the normalised image from those of feature maps and Gram matrices."""
        grams = {layer: (D[0] + D[0].T) / len(tape.rows[layer]) for layer, D in grams.items()}
        scale = 1.0
        if self.dtype == torch.float16:  # which ends at 65504 and at 6e-8
            scale = 0.1 / max(given.abs().max().clamp_min(1e-30) for given in (*maps.values(), *grams.values()))
        maps = {layer: (given * scale).to(self.dtype) for layer, given in maps.items()}
        grams = {layer: (given * scale).to(self.dtype) for layer, given in grams.items()}

        def added(g: Tensor | None, layer: str, height: int, width: int) -> Tensor | None:
            """Return g with what the losses gave to a layer."""
            if layer in maps:
                g = maps[layer].contiguous(memory_format=torch.channels_last) if g is None else g.add_(maps[layer])
            if layer in grams and g is None:
                g = (tape.rows[layer] @ grams[layer]).view(1, height, width, -1).permute(0, 3, 1, 2)
            elif layer in grams:
                _rows(g).addmm_(tape.rows[layer], grams[layer])
            return g

        g = None
        for trace in reversed(tape.traces):
            stage, mode, gate, (height, width) = trace.stage, trace.mode, trace.gate, trace.shape
            if trace.pooled:
                g = added(g, stage.pool, height // 2, width // 2)
                if g is not None and trace.places is not None:
                    g = max_unpool2d(g, trace.places, 2, output_size=(height, width))
                elif g is not None and mode == RELU:
                    g = pad(interpolate(g / 4, scale_factor=2), (0, width % 2, 0, height % 2))
            g = added(g, stage.relu, height, width)
            if stage.conv in maps or stage.conv in grams:
                g = added(None if g is None else g * (gate > 0), stage.conv, height, width)
                mode, gate = OPEN, None
            if g is not None:
                g = trace.convolution.backward(g, gate, mode, (height, width), self.space)
        return g / scale


class _Pass(torch.autograd.Function):
    """`ByHand` as one step of autograd."""

    @staticmethod
    def forward(ctx, x, engine, layers, gram_layers, rough):
        ctx.set_materialize_grads(False)
        engine._passes += 1
        maps, grams, tape = engine.forward(x, layers, gram_layers, rough)
        ctx.engine, ctx.passes, ctx.tape, ctx.layers = engine, engine._passes, tape, (layers, gram_layers)
        return *(maps[layer] for layer in layers), *(grams[layer] for layer in gram_layers)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        if ctx.passes != ctx.engine._passes:
            raise RuntimeError("the engine has made another pass since: take the gradient first")
        maps, grams = (
            {layer: given for layer, given in part.items() if given is not None}
            for part in _paired(*ctx.layers, gradients)
        )
        return ctx.engine.backward(ctx.tape, maps, grams), None, None, None, None


def _paired(layers: Sequence[str], gram_layers: Sequence[str], tensors: Sequence[Tensor]) -> tuple[Maps, Maps]:
    """Return {layer: tensor} of the first and of the second layers."""
    n = len(layers)
    return dict(zip(layers, tensors[:n], strict=True)), dict(zip(gram_layers, tensors[n:], strict=True))


def _rows(feature_maps: Tensor) -> Tensor:
    """Return (1, C, H, W) in channels_last as (H·W, C), the same memory."""
    return feature_maps[0].permute(1, 2, 0).flatten(0, 1)


def _gram(rows: Tensor) -> Tensor:
    """Return the Gram matrix (1, C, C) of rows (H·W, C), divided by H·W; beyond ROWS positions summed in float32."""
    rows = rows.float() if rows.dtype == torch.float16 else rows  # whose largest number is 65504
    whole = len(rows) - len(rows) % ROWS
    parts, rest = rows[:whole].view(-1, ROWS, rows.shape[1]), rows[whole:]
    total = torch.bmm(parts.transpose(1, 2), parts).sum(0, dtype=torch.float32) + (rest.T @ rest)
    return total[None] / len(rows)


class DirectConvolution:
    """A frozen 3×3 convolution, zero padded, with the ReLU behind it, and its gradient, by torch on any device.

    dtype: of gradients, and of what is kept for them.
    """

    fuses_pooling = False

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype):
        self.dtype = dtype
        self._weights = {
            dtype: weight.to(dtype, copy=True, memory_format=torch.channels_last)
            for dtype in {dtype, FORWARD.get(dtype, dtype)}
        }
        self._biases = {dtype: bias.to(dtype) for dtype in self._weights}
        self._transposed = weight.flip(2, 3).transpose(0, 1).to(dtype, copy=True, memory_format=torch.channels_last)

    def forward(self, x: Tensor, space: object, dtype: torch.dtype, relu: bool) -> tuple[Tensor, Tensor]:
        """Return the convolution of x, computed in dtype and rectified if told to, and what the gradient needs."""
        y = _convolve(x.to(dtype), self._weights[dtype], self._biases[dtype], relu)
        return y, y.to(self.dtype)

    def backward(self, g: Tensor, gate: Tensor | None, mode: int, shape: tuple[int, int], space: object) -> Tensor:
        """Return the gradient of the input from g behind its gate."""
        if mode == RELU:
            g = torch.ops.aten.threshold_backward(g, gate, 0)
        g = _convolve(g, self._transposed, None, relu=False)
        return g.float() if g.shape[1] == 3 else g


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    if x.device.type == "cpu" and fused_convolution_works():
        ones = [1, 1]
        return torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, ones, ones, ones, 1, "relu" if relu else "none", [], ""
        )
    y = conv2d(x, weight, bias, padding=1)
    return y.relu_() if relu else y


@cache
def fused_convolution_works() -> bool:
    """Say whether torch's own operation for convolution and ReLU in one is there, and does what is expected of it.

    It is private to torch, so that a release may drop or change it; `conv2d` and `relu` take its place then.
    """
    x = torch.linspace(-1, 1, 2 * 16 * 5 * 6).view(2, 16, 5, 6).contiguous(memory_format=torch.channels_last)
    weight = torch.linspace(1, -1, 16 * 16 * 9).view(16, 16, 3, 3).contiguous(memory_format=torch.channels_last)
    bias, ones = torch.linspace(-1, 1, 16), [1, 1]
    try:
        y = torch.ops.mkldnn._convolution_pointwise(x, weight, bias, ones, ones, ones, 1, "relu", [], "")
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(y, conv2d(x, weight, bias, padding=1).relu(), rtol=1e-4, atol=1e-4)


@cache
def bfloat16_is_faster(threads: int) -> bool:
    """Say whether this processor multiplies matrices clearly faster in bfloat16 than in float32, by trying."""

    def seconds(dtype: torch.dtype) -> float:
        x, y = torch.ones(36, 64, 256, dtype=dtype), torch.ones(36, 256, 256, dtype=dtype)
        times = []
        for _ in range(5):
            began = time.perf_counter()
            torch.bmm(x, y)
            times.append(time.perf_counter() - began)
        return min(times)

    return seconds(torch.bfloat16) < 0.75 * seconds(torch.float32)


# ---------------------------------------------------------------------------------------------- which engine

ENGINES = ("auto", "plain", "direct", "winograd")
_convolutions = WeakKeyDictionary()  # {network: {(kind, dtype): its convolutions}}: large, and so shared by runs


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
