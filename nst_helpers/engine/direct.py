"""3×3 convolutions with torch's operations, on any device, for `by_hand`."""

from functools import cache, partial

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from .by_hand import RELU


class DirectConvolution:
    """A frozen, zero-padded 3×3 convolution followed by ReLU, and its gradient.

    dtype: format of gradients, and of the activations that are stored for them.
    """

    fuses_pooling = False

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype):
        self.weight, self.bias, self.dtype = weight, bias, dtype
        self._known: dict[tuple[torch.dtype, bool], tuple[Tensor, Tensor | None]] = {}

    def _constants(self, dtype: torch.dtype, transposed: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the convolution, or of its gradient, in a format."""
        if (dtype, transposed) not in self._known:
            weight = self.weight.flip(2, 3).transpose(0, 1) if transposed else self.weight
            weight = weight.to(dtype, copy=True, memory_format=torch.channels_last)
            self._known[dtype, transposed] = weight, None if transposed else self.bias.to(dtype)
        return self._known[dtype, transposed]

    def forward(self, x: Tensor, buffers: object, dtype: torch.dtype, relu: bool) -> tuple[Tensor, Tensor]:
        """Return the convolution of x, computed in dtype, with ReLU if `relu`, and a copy to store for the gradient."""
        y = _convolve(x.to(dtype), *self._constants(dtype), relu)
        return y, y.to(self.dtype)

    def backward(self, g: Tensor, mask: Tensor | None, mode: int, shape: tuple[int, int], buffers: object) -> Tensor:
        """Return the gradient with respect to the input, from that for the output, g, masked according to `mode`."""
        if mode == RELU:
            g = torch.ops.aten.threshold_backward(g, mask, 0)
        g = _convolve(g, *self._constants(self.dtype, transposed=True), relu=False)
        return g.float() if g.shape[1] == 3 else g


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    kind = x.device.type
    if kind in FUSED and (relu or kind == "cpu") and fused_convolution_works(kind, x.dtype):
        return FUSED[kind](x, weight, bias, relu)
    y = conv2d(x, weight, bias, padding=1)
    return y.relu_() if relu else y


def _by_mkldnn(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    ones = [1, 1]
    attribute = "relu" if relu else "none"
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, ones, ones, ones, 1, attribute, [], "")


def _by_cudnn(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """One kernel with bias and ReLU; without ReLU there is nothing to fuse in a gradient, which has no bias."""
    return torch.cudnn_convolution_relu(x, weight, bias, [1, 1], [1, 1], [1, 1], 1)


FUSED = {"cpu": _by_mkldnn, "cuda": _by_cudnn}


@cache
def fused_convolution_works(kind: str, dtype: torch.dtype) -> bool:
    """Return whether torch's fused convolution, bias and ReLU is available and gives the expected result.

    The operations are private to torch, so a release may remove or change them, and the hardware may not support the
    format. `conv2d` and `relu` are the fallback.
    """
    if kind == "cpu" and dtype == torch.float16:
        return False
    linspace = partial(torch.linspace, dtype=torch.float32, device=kind)
    x = linspace(-1, 1, 2 * 16 * 5 * 6).view(2, 16, 5, 6).contiguous(memory_format=torch.channels_last)
    weight = linspace(1, -1, 16 * 16 * 9).view(16, 16, 3, 3).contiguous(memory_format=torch.channels_last)
    x, weight, bias = x.to(dtype), weight.to(dtype), linspace(-1, 1, 16).to(dtype)
    try:
        y = FUSED[kind](x, weight, bias, True)
    except (AttributeError, RuntimeError, TypeError):
        return False
    tolerance = 1e-4 if dtype == torch.float32 and kind == "cpu" else 0.05
    return torch.allclose(y, conv2d(x, weight, bias, padding=1).relu(), rtol=tolerance, atol=tolerance)
