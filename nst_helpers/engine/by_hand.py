"""Manual forward and backward passes of a frozen VGG, several times faster than autograd."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d, pad

from ..files.surroundings import exact
from ..masks import Part
from ..vgg import VGG, Stage
from .moments import add_gradient, factor, moments, rows_of
from .plain import Maps, Request

# Modes of an activation mask, see `kernels`. That module defines them again: numba's cache ignores imported files.
OPEN, RELU, MAX, AVERAGE = range(4)
FORWARD = {torch.bfloat16: torch.float32}  # {format of the gradient: format of the forward pass}, if they differ.
# A bfloat16 gradient gives as good a result as float32; a bfloat16 forward pass, a loss that is 3 % higher at the end.
LOW_PRECISION_STEPS = 60  # evaluations at each size whose forward pass may be in low precision: the result is as good
LOW_PRECISION_FROM = 3  # first block whose forward pass is in the gradient's format then


@dataclass
class Trace:
    """Data of a stage that the backward pass needs."""

    stage: Stage
    convolution: Any  # a `DirectConvolution`, or one of `winograd`
    shape: torch.Size  # height and width of the input
    mask: Tensor
    mode: int
    pooled: bool
    argmax: Tensor | None  # indices of the maxima, if pooling was not fused with ReLU
    output: Tensor | None  # of L2 pooling


@dataclass
class Tape:
    """Data of a forward pass that the backward pass needs."""

    request: Request
    number: int  # of the forward pass
    traces: list[Trace] = field(default_factory=list)
    rows: Maps = field(default_factory=dict)  # {layer: feature maps (H'·W', C)} for the gradient of Gram matrices
    grams: Maps = field(default_factory=dict)  # {layer: Gram matrices}


class ByHand:
    """Manual forward and backward passes of a frozen network.

    With frozen weights, the backward pass needs only the masks of ReLU and pooling, and the feature maps of layers with
    Gram matrices. Gram matrices are computed during the forward pass, and their gradient during the backward pass, so
    that no other feature maps are stored.

    Args:
        kind: name in `pick_engine`: "direct" or "winograd".
        dtype: format of gradients, and of the activations stored for them. With bfloat16, the first
            `LOW_PRECISION_STEPS` evaluations at a size may be in low precision, with losses accurate to 0.5 %.
        convolution: function of a layer, a height and a width that returns the layer's convolution.
        buffers: buffers that convolutions reuse between evaluations.
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

    @exact
    @torch.no_grad()
    def forward(self, image: Tensor, request: Request) -> tuple[Maps, Maps, Tape]:
        """See `engine.Engine`. The gradient must be taken before the next forward pass, which reuses the buffers."""
        if image.ndim != 4 or image.shape[0] != 1:
            raise ValueError(f"expected one image (1, 3, H, W), got {tuple(image.shape)}")
        wanted = {*request.layers, *request.gram_layers}
        deepest = max((self._depth[layer] for layer in wanted), default=-1)
        self._passes += 1
        maps: Maps = {}
        grams: Maps = {}
        tape = Tape(request, self._passes)
        x = self.network.normalize(image.to(self.network.device)).contiguous(memory_format=torch.channels_last)

        def take(layer: str, y: Tensor, kept: Tensor | None = None) -> None:
            if layer in request.layers:
                reused = self.buffers is not None or layer == stage.conv  # the next convolution or ReLU writes there
                maps[layer] = y.to(torch.float32, copy=reused)
            if layer in request.gram_layers:
                rows = tape.rows[layer] = rows_of(y.to(self.dtype, copy=True) if kept is None else kept)
                grams[layer] = tape.grams[layer] = moments(rows, request, layer)

        for stage in self._stages:
            if self._depth[stage.conv] > deepest:
                break
            convolution = self.convolution(stage.conv, *x.shape[2:])
            low = self.low_precision and self.network.block(stage.conv) >= LOW_PRECISION_FROM
            dtype = self.dtype if low else FORWARD.get(self.dtype, self.dtype)
            pooled = stage.pool != "" and self._depth[stage.pool] <= deepest
            if pooled and min(x.shape[2:]) < 2:
                raise ValueError(f"expected a larger picture for {stage.pool}, whose input is {tuple(x.shape[2:])}")
            shape, mode, argmax, output = x.shape[2:], RELU, None, None
            both = not wanted & {stage.conv, stage.relu} and convolution.fuses_pooling
            if pooled and both and self.network.pooling == "max":
                x, mask = convolution.forward_pooled(x, self.buffers, dtype)
                mode = MAX
            else:
                x, mask = convolution.forward(x, self.buffers, dtype, stage.conv not in wanted)
                if stage.conv in wanted:
                    take(stage.conv, x)
                    x.relu_(), mask.relu_()
                take(stage.relu, x, mask)
                if pooled and self.network.pooling == "max":
                    x, argmax = max_pool2d(x, 2, return_indices=True)
                elif pooled and self.network.pooling == "average":
                    x = avg_pool2d(x, 2)
                    mode = AVERAGE if both else RELU
                elif pooled:
                    x = output = getattr(self.network, stage.pool)(x)
            tape.traces.append(Trace(stage, convolution, shape, mask, mode, pooled, argmax, output))
            if pooled:
                take(stage.pool, x)
        return maps, grams, tape

    @exact
    @torch.no_grad()
    def backward(self, tape: Tape, maps: Maps, grams: Maps) -> Tensor:
        """See `engine.Engine`."""
        if tape.number != self._passes:
            raise RuntimeError("expected the gradient before another pass of this engine: take it after each pass")
        parts_of = (tape.request.parts or {}).get
        scale: Tensor | None = None
        shares: dict[int, list[Tensor]] = {}
        if self.dtype == torch.float16:
            grams = {layer: _doubled(D, tape.rows[layer], parts_of(layer)) for layer, D in grams.items()}
            shares = self._shares(tape, maps, grams)

        def added(g: Tensor | None, layer: str, height: int, width: int) -> Tensor | None:
            """Return g plus the gradient of the losses in a layer."""
            if layer in maps:
                given = (maps[layer] if scale is None else maps[layer] * scale).to(self.dtype)
                g = given.contiguous(memory_format=torch.channels_last) if g is None else g.add_(given)
            if layer in grams:
                D = (grams[layer] if scale is None else grams[layer] * scale).to(self.dtype)
                before = None if g is None else rows_of(g)
                rows = add_gradient(before, tape.rows[layer], D, parts_of(layer), scale is None)
                g = rows.view(1, height, width, -1).permute(0, 3, 1, 2)
            return g

        g: Tensor | None = None
        for trace in reversed(tape.traces):
            stage, mode, mask, (height, width) = trace.stage, trace.mode, trace.mask, trace.shape
            if self.dtype == torch.float16 and (g is None or stage.pool):
                g, scale = _rescaled(g, scale, shares.pop(self.network.block(stage.conv), []))
            if trace.pooled:
                g = added(g, stage.pool, height // 2, width // 2)
                if g is not None and trace.argmax is not None:
                    g = _unpooled(g, trace.argmax, height, width)
                elif g is not None and mode == RELU:
                    g = g / 4 if trace.output is None else (g / (4 * trace.output)).to(self.dtype)
                    g = pad(interpolate(g, scale_factor=2), (0, width % 2, 0, height % 2))
                    g = g if trace.output is None else g * mask
                g = None if g is None else g.contiguous(memory_format=torch.channels_last)
            g = added(g, stage.relu, height, width)
            last = stage.conv in maps or stage.conv in grams
            if last:
                g = added(None if g is None else g * (mask > 0), stage.conv, height, width)
            if g is not None:
                passing = (None, OPEN) if last else (mask, mode)
                g = trace.convolution.backward(g, *passing, (height, width), self.buffers)
        assert g is not None  # there is at least one layer
        g = g / self.network.std
        return g if scale is None else g / scale

    def _shares(self, tape: Tape, maps: Maps, grams: Maps) -> dict[int, list[Tensor]]:
        """Return {block: root mean squares of the gradients that the losses in its layers contribute}."""
        shares = defaultdict(list)
        for layer, given in maps.items():
            shares[self.network.block(layer)].append(_root_mean_square(given))
        for layer, D in grams.items():  # ‖F·D‖² = tr(Dᵀ·G·D), where G is the Gram matrix of F
            channels = tape.rows[layer].shape[1]
            D = D[..., :channels]
            square = (tape.grams[layer] @ D * D).sum() / channels
            shares[self.network.block(layer)].append(square.clamp(min=0).sqrt())
        return shares


def _doubled(D: Tensor, rows: Tensor, parts: Sequence[Part] | None) -> Tensor:
    """Return gradients of a layer's `moments` multiplied by each part's `factor`."""
    if parts is None:
        return D * factor(rows, None)
    return torch.stack([one * factor(rows, part) for one, part in zip(D, parts, strict=True)])


def _unpooled(g: Tensor, argmax: Tensor, height: int, width: int) -> Tensor:
    """Return the gradient (1, C, height, width) of max pooling, in channels_last, from the indices of the maxima.

    Unlike `max_unpool2d`, `scatter` is known to torch as deterministic.
    """
    rows = rows_of(g)
    unpooled = rows.new_zeros(height * width, rows.shape[1]).scatter_(0, rows_of(argmax), rows)
    return unpooled.view(1, height, width, -1).permute(0, 3, 1, 2)


def _rescaled(g: Tensor | None, scale: Tensor | None, shares: list[Tensor]) -> tuple[Tensor | None, Tensor | None]:
    """Rescale g so that the largest root mean square among g and the next block's shares is 1; return g and its scale.

    float16 ranges from 6e-8 to 65504. A single scale for the whole backward pass would leave this range: gradients grow
    by a factor of about 100 from block to block, and the contributions of the losses may differ by a factor of 10⁶.
    """
    if g is None or scale is None:
        return g, 1 / torch.stack(shares).max().clamp(min=1e-30) if shares else None
    new = 1 / torch.stack([*shares, _root_mean_square(g) / scale]).max().clamp(min=1e-30)
    ratio = (new / scale).clamp(max=32768.0)
    return g.mul_(ratio), scale * ratio


def _root_mean_square(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dtype=torch.float32) / x.numel() ** 0.5
