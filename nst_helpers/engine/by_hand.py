"""The passes of a frozen VGG written out, forward and backward, for several times the speed of autograd."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, max_unpool2d, pad

from ..masks import Part
from ..vgg import VGG, Stage
from .plain import Maps, augmented

# What an activation mask does: see `kernels`, which has these numbers too, since its compiled code is cached by file.
OPEN, RELU, MAX, AVERAGE = range(4)
ROWS = 4096  # positions that a Gram matrix sums in one product, before it goes on in float32
FORWARD = {torch.bfloat16: torch.float32}  # the format of the forward pass, where it is not that of the gradient:
# bfloat16's eight bits cost a gradient nothing, but after 300 evaluations a painting ends 3 % worse by them
LOW_PRECISION_STEPS = 60  # first evaluations at a size that may be in low precision throughout: the result is as good
LOW_PRECISION_FROM = 3  # the block from which on the forward pass then is in the gradient's format, too


class Request(NamedTuple):
    """The arguments of a call: see `engine.Engine`."""

    layers: Sequence[str]
    gram_layers: Sequence[str]
    means: bool = False
    parts: Mapping[str, Sequence[Part]] | None = None


@dataclass
class Trace:
    """What the gradient needs of a stage."""

    stage: Stage
    convolution: object
    shape: torch.Size  # height and width of its input
    mask: Tensor | None = None
    mode: int = RELU
    pooled: bool = False
    argmax: Tensor | None = None  # indices of the maxima, where ReLU and pooling were not one
    output: Tensor | None = None  # of L2 pooling


@dataclass
class Tape:
    """What the gradient needs of a pass."""

    request: Request
    traces: list[Trace] = field(default_factory=list)
    rows: Maps = field(default_factory=dict)  # {layer: feature maps (H'·W', C)} that Gram matrices were made of


class ByHand:
    """The passes of a frozen network written out, forward and backward: nothing is computed or kept without need.

    Since the weights are frozen, going back takes no more than where each ReLU and each pooling let values through.
    Gram matrices are made, and their gradient is added, on the spot.

    Args:
        kind: what it is called in `pick_engine`: "direct" or "winograd".
        dtype: of gradients, and of what is kept for them. With bfloat16 the first `LOW_PRECISION_STEPS` evaluations at
            a size may be in low precision: then losses are right within 0.5 %.
        convolution: returns that of a layer, for feature maps of a height and a width.
        buffers: what convolutions may keep for themselves between evaluations.
    """

    def __init__(self, kind: str, network: VGG, dtype: torch.dtype, convolution: Callable, buffers=None):
        self.kind, self.network, self.dtype, self.convolution, self.buffers = kind, network, dtype, convolution, buffers
        self.precision = str(dtype).removeprefix("torch.")
        self.name = f"{kind}, {self.precision}"
        self.low_precision_steps = LOW_PRECISION_STEPS if dtype == torch.bfloat16 else 0
        self.low_precision = False
        self._depth = {layer: depth for depth, layer in enumerate([*network._modules, ""])}
        self._stages = network.stages
        self._passes = 0

    def __call__(
        self,
        image: Tensor,
        layers: Sequence[str],
        gram_layers: Sequence[str],
        means: bool = False,
        parts: Mapping[str, Sequence[Part]] | None = None,
    ) -> tuple[Maps, Maps]:
        """See `engine.Engine`. Takes one image; its gradient must be taken before the next call."""
        if image.ndim != 4 or image.shape[0] != 1:
            raise ValueError(f"expected one image (1, 3, H, W), got {tuple(image.shape)}")
        check = self.network.check_layers
        request = Request(check(layers), check(gram_layers), means, parts)
        if not layers and not gram_layers:
            return {}, {}
        return _paired(request, _Pass.apply(self.network.normalize(image.to(self.network.device)), self, request))

    def forward(self, x: Tensor, request: Request) -> tuple[Maps, Maps, Tape]:
        """Return what was asked for, and the tape that `backward` goes back on; x is the normalized image."""
        wanted = {*request.layers, *request.gram_layers}
        deepest = max(self._depth[layer] for layer in wanted)
        maps, grams, tape = {}, {}, Tape(request)
        x = x.contiguous(memory_format=torch.channels_last)

        def take(layer: str, y: Tensor, kept: Tensor | None = None) -> None:
            if layer in request.layers:
                maps[layer] = y.to(torch.float32, copy=True)
            if layer in request.gram_layers:
                rows = tape.rows[layer] = _rows(y.to(self.dtype, copy=True) if kept is None else kept)
                grams[layer] = _moments(rows, request, layer)

        for stage in self._stages:
            if self._depth[stage.conv] > deepest:
                break
            convolution = self.convolution(stage.conv, *x.shape[2:])
            low = self.low_precision and self.network.block(stage.conv) >= LOW_PRECISION_FROM
            dtype = self.dtype if low else FORWARD.get(self.dtype, self.dtype)
            pooled = stage.pool is not None and self._depth[stage.pool] <= deepest
            if pooled and min(x.shape[2:]) < 2:
                raise ValueError(f"the picture is too small for {stage.pool}")
            trace = Trace(stage, convolution, x.shape[2:], pooled=pooled)
            tape.traces.append(trace)
            both = not wanted & {stage.conv, stage.relu} and convolution.fuses_pooling
            if pooled and both and self.network.pooling == "max":
                x, trace.mask = convolution.forward_pooled(x, self.buffers, dtype)
                trace.mode = MAX
            else:
                x, trace.mask = convolution.forward(x, self.buffers, dtype, stage.conv not in wanted)
                if stage.conv in wanted:
                    take(stage.conv, x)
                    x.relu_(), trace.mask.relu_()
                take(stage.relu, x, trace.mask)
                if pooled and self.network.pooling == "max":
                    x, trace.argmax = max_pool2d(x, 2, return_indices=True)
                elif pooled and self.network.pooling == "average":
                    x = avg_pool2d(x, 2)
                    trace.mode = AVERAGE if both else RELU
                elif pooled:
                    x = trace.output = getattr(self.network, stage.pool)(x)
            if pooled:
                take(stage.pool, x)
        return maps, grams, tape

    def backward(self, tape: Tape, maps: Maps, grams: Maps) -> Tensor:
        """Return the gradient of the normalized image from those of feature maps and Gram matrices."""
        grams = {layer: (D + D.mT) / _positions(tape, layer) for layer, D in grams.items()}
        scale = 1.0
        if self.dtype == torch.float16:  # which ends at 65504 and at 6e-8
            scale = 0.1 / torch.stack([given.abs().max() for given in (*maps.values(), *grams.values())]).max()
        maps = {layer: (given * scale).to(self.dtype) for layer, given in maps.items()}
        grams = {layer: (given * scale).to(self.dtype) for layer, given in grams.items()}

        def added(g: Tensor | None, layer: str, height: int, width: int) -> Tensor | None:
            """Return g with what the losses gave to a layer."""
            if layer in maps:
                g = maps[layer].contiguous(memory_format=torch.channels_last) if g is None else g.add_(maps[layer])
            if layer in grams and g is None:
                g = tape.rows[layer].new_zeros(1, height, width, tape.rows[layer].shape[1]).permute(0, 3, 1, 2)
            if layer in grams:
                _add_gradient(_rows(g), tape.rows[layer], grams[layer], tape.request, layer)
            return g

        g = None
        for trace in reversed(tape.traces):
            stage, mode, mask, (height, width) = trace.stage, trace.mode, trace.mask, trace.shape
            if trace.pooled:
                g = added(g, stage.pool, height // 2, width // 2)
                if g is not None and trace.argmax is not None:
                    g = max_unpool2d(g, trace.argmax, 2, output_size=(height, width))
                elif g is not None and mode == RELU:
                    g = g / 4 if trace.output is None else (g / (4 * trace.output)).to(self.dtype)
                    g = pad(interpolate(g, scale_factor=2), (0, width % 2, 0, height % 2))
                    g = g if trace.output is None else g * mask
                g = None if g is None else g.contiguous(memory_format=torch.channels_last)
            g = added(g, stage.relu, height, width)
            if stage.conv in maps or stage.conv in grams:
                g = added(None if g is None else g * (mask > 0), stage.conv, height, width)
                mode, mask = OPEN, None
            if g is not None:
                g = trace.convolution.backward(g, mask, mode, (height, width), self.buffers)
        return g / scale


class _Pass(torch.autograd.Function):
    """`ByHand` as one step of autograd."""

    @staticmethod
    def forward(ctx, x, engine, request):
        ctx.set_materialize_grads(False)
        engine._passes += 1
        maps, grams, tape = engine.forward(x, request)
        ctx.engine, ctx.passes, ctx.tape = engine, engine._passes, tape
        return *(maps[layer] for layer in request.layers), *(grams[layer] for layer in request.gram_layers)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        if ctx.passes != ctx.engine._passes:
            raise RuntimeError("the engine has made another pass since: take the gradient first")
        maps, grams = (
            {layer: given for layer, given in part.items() if given is not None}
            for part in _paired(ctx.tape.request, gradients)
        )
        return ctx.engine.backward(ctx.tape, maps, grams), None, None


def _paired(request: Request, tensors: Sequence[Tensor]) -> tuple[Maps, Maps]:
    """Return {layer: tensor} of the feature maps and of the Gram matrices."""
    n = len(request.layers)
    return dict(zip(request.layers, tensors[:n], strict=True)), dict(zip(request.gram_layers, tensors[n:], strict=True))


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


def _moments(rows: Tensor, request: Request, layer: str) -> Tensor:
    """Return the Gram matrices (R, C, C) of the layer's parts, with a row and a column for the mean where requested."""
    if request.parts is None and not request.means:
        return _gram(rows)
    moments = []
    for part in [None] if request.parts is None else request.parts[layer]:
        root = None if part is None else part.weights.sqrt().to(rows.dtype)[:, None]
        chosen = rows if part is None else rows[part.positions] * root
        gram = _gram(chosen)
        if request.means:
            total = (chosen if part is None else chosen * root).sum(0, dtype=torch.float32)
            gram = augmented(gram, total[None] / len(chosen))
        moments.append(gram)
    return torch.cat(moments)


def _positions(tape: Tape, layer: str) -> Tensor | int:
    """Return how many positions each Gram matrix is divided by: a number, or (R, 1, 1)."""
    if tape.request.parts is None:
        return len(tape.rows[layer])
    counts = [len(part.positions) for part in tape.request.parts[layer]]
    return torch.tensor(counts, device=tape.rows[layer].device)[:, None, None]


def _add_gradient(g: Tensor, rows: Tensor, D: Tensor, request: Request, layer: str) -> None:
    """Add to g, (H·W, C), what the gradients D of `_moments` come to; they are symmetric, and divided."""
    channels = rows.shape[1]
    if request.parts is None:
        g.addmm_(rows, D[0, :channels, :channels])
        if request.means:
            g += D[0, :channels, channels]
        return
    for part, given in zip(request.parts[layer], D, strict=True):
        change = rows[part.positions] @ given[:channels, :channels]
        if request.means:
            change += given[:channels, channels]
        g.index_add_(0, part.positions, change * part.weights.to(rows.dtype)[:, None])
