"""Engines: interchangeable implementations that compute feature maps, Gram matrices and their gradient."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from .. import validate
from ..files.surroundings import isolated
from ..masks import Part
from ..vgg import VGG
from .by_hand import ByHand
from .direct import DirectConvolution
from .plain import Maps, Plain, Request

ENGINES = ("auto", "plain", "direct", "winograd")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
_convolutions: WeakKeyDictionary[VGG, dict] = WeakKeyDictionary()  # {network: {(layer, dtype, …): convolution}}, shared


class Engine(Protocol):
    """Interface of an engine, which evaluates a network for one run at a time.

    kind: name in `pick_engine`.
    precision: format of the gradients: "float32", "bfloat16" or "float16".
    name: description for messages and recipes.
    network: the `VGG` to evaluate.
    low_precision_steps: number of evaluations, at the beginning of each size, that may be in low precision.
    low_precision: whether evaluations are in low precision now. The run sets it, and does not compare losses in low
        precision with losses in full precision.
    """

    kind: str
    precision: str
    name: str
    network: VGG
    low_precision_steps: int
    low_precision: bool

    def forward(self, image: Tensor, request: Request) -> tuple[Maps, Maps, Any]:
        """Return {layer: feature maps (1, C, H', W')}, {layer: Gram matrices (1 or R, C, C)}, and data for `backward`.

        image: (1, 3, H, W) in [0, 1]. It is not validated, since this is called at every step. The results are float32.
        """

    def backward(self, tape: Any, maps: Maps, grams: Maps) -> Tensor:
        """Return the gradient of a loss with respect to the image, (1, 3, H, W), of the latest forward pass.

        tape: the third result of `forward`.
        maps, grams: gradients of the loss with respect to the first two results, or to some of their layers; those with
            respect to Gram matrices are symmetric.
        """


def request_for(
    needs: str,
    content_layers: Sequence[str],
    style_layers: Sequence[str],
    parts: Mapping[str, Sequence[Part]] | None = None,
) -> Request:
    """Return the request for a content loss and for a style loss that needs "grams", "means" or "maps"."""
    if needs == "maps":
        return Request(list(dict.fromkeys([*content_layers, *style_layers])), [])
    return Request(content_layers, style_layers, needs == "means", parts)


@isolated
def pick_engine(network: VGG, engine: str = "auto", precision: str = "auto") -> Engine:
    """Return the engine for a network. The choice depends on the hardware only, not on the load of the machine.

    Args:
        network: from `load_vgg`. Its device decides which engines are available.
        engine: "plain": autograd; "direct": manual forward and backward passes with torch's convolutions; "winograd":
            the same with our Winograd convolutions, on a CPU. "auto" chooses "winograd" on a CPU, and "direct" on other
            devices, unless its gradient proves wrong there.
        precision: of the gradients of "direct" and "winograd": "float32", "bfloat16" or "float16". "auto" is bfloat16
            on a CPU with instructions for it and on NVIDIA GPUs since Ampere, float16 on those with tensor cores before
            (a T4), and float32 elsewhere. With float16, the forward pass is in float16 too; with bfloat16, it is in
            float32 after the first evaluations at a size, which an NVIDIA GPU rounds to TF32 in convolutions unless
            `torch.backends.cudnn.allow_tf32` is False. "plain" always uses float32.

    Raises ValueError for an unknown name, and for an engine that is not available on the device.
    """
    validate.one_of("engine", engine, ENGINES)
    validate.one_of("precision", precision, PRECISIONS)
    engines: list[Engine]
    if network.padding != "zeros" and engine in ("auto", "plain"):
        engines = [Plain(network, f", since the padding is {network.padding}")]
    elif network.padding != "zeros":
        raise ValueError(f'engine={engine!r}: expected a network with padding="zeros", got {network.padding!r}')
    else:
        engines = [build() for build in _builders(network, engine, precision)]
    engines = [engine for engine in engines if precision in ("auto", engine.precision)]
    if not engines:
        raise ValueError(
            f"engine={engine!r} with precision={precision!r} is not available for a network on {network.device}: "
            '"winograd" needs a CPU and numba, "plain" is in float32; engine="auto" and precision="auto" always work'
        )
    if len(engines) == 1 or network.device.type == "cpu":
        return engines[0]
    return next((engine for engine in engines if _is_right(engine)), engines[-1])


def _builders(network: VGG, engine: str, precision: str) -> list[Callable[[], Engine]]:
    """Return constructors of the engines that are available on the network's device, the fastest first."""
    device = network.device
    formats = [torch.float32]
    if device.type == "cpu" and has_bfloat16():
        formats = [torch.bfloat16]
    elif device.type == "cuda":
        formats = [*_tensor_core_formats(torch.cuda.get_device_capability(device)), torch.float32]
    if precision != "auto":
        formats = [getattr(torch, precision)]
    kinds = [kind for kind in ENGINES if engine in ("auto", kind)]
    builders: list[Callable[[], Engine]] = []
    if "winograd" in kinds and device.type == "cpu" and torch.float16 not in formats and _winograd_works(engine):
        builders += [partial(_by_hand, network, "winograd", dtype) for dtype in formats]
    if "direct" in kinds:
        builders += [partial(_by_hand, network, "direct", dtype) for dtype in formats]
    return [*builders, partial(Plain, network)] if "plain" in kinds else builders


def _tensor_core_formats(capability: tuple[int, int]) -> list[torch.dtype]:
    """Return the best format for the tensor cores of an NVIDIA GPU: Volta and Turing have float16 only."""
    return [] if capability < (7, 0) else [torch.float16] if capability < (8, 0) else [torch.bfloat16]


def _winograd_works(engine: str) -> bool:
    """Return whether the engine "winograd" can be used. If not, say why: once, or in an error if it was asked for."""
    if (failure := winograd_failure()) and engine == "winograd":
        raise ValueError(f'engine="winograd" needs numba, which fails here: {failure}; engine="auto" always works')
    if failure:
        _warn_once(f'the engine "winograd" needs numba, which fails here: {failure}; using "direct", which is slower')
    return not failure


_warn_once = cache(validate.warn)


@cache
def winograd_failure() -> str:
    """Return why numba cannot compile the engine "winograd" here, or an empty text if it can. A convolution is tried.

    There are many reasons: numba or llvmlite are missing or damaged, do not support this version of Python or NumPy, or
    are switched off by NUMBA_DISABLE_JIT.
    """
    try:
        from . import winograd  # numba takes a second to import

        winograd.check()
    except Exception as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return ""


@cache
def has_bfloat16() -> bool:
    """Return whether the processor has instructions for matrix products in bfloat16 (AVX-512 BF16 or AMX).

    It is not measured, since the answer could differ on a busy machine, and the same call would give another picture.
    """
    try:
        from llvmlite.binding import get_host_cpu_features

        features = get_host_cpu_features()
    except Exception:  # it is missing or damaged: see `winograd_failure`
        return False
    return any(features.get(name, False) for name in ("avx512bf16", "amx-bf16"))


def _by_hand(network: VGG, kind: str, dtype: torch.dtype) -> ByHand:
    known = _convolutions.setdefault(network, {})

    def direct(layer: str, height: int, width: int) -> DirectConvolution:
        key = layer, dtype, network.device
        if key not in known:
            convolution = getattr(network, layer)
            known[key] = DirectConvolution(convolution.weight.detach(), convolution.bias.detach(), dtype)
        return known[key]

    if kind == "direct":
        return ByHand(kind, network, dtype, direct)
    from . import winograd

    def convolution(layer: str, height: int, width: int):
        if not winograd.is_faster(height, width):
            return direct(layer, height, width)
        key = layer, dtype
        if key not in known:
            convolution = getattr(network, layer)
            kind = winograd.FirstConvolution if convolution.in_channels == 3 else winograd.Convolution
            known[key] = kind(convolution.weight.detach(), convolution.bias.detach(), dtype)
        return known[key]

    return ByHand(kind, network, dtype, convolution, winograd.BufferPool())


_verdicts: dict[tuple, bool] = {}


def _is_right(engine: Engine) -> bool:
    """Return whether an engine runs on its device and its gradient agrees with autograd (cosine over 0.99)."""
    key = engine.network.device, engine.network.kind, engine.name
    if key not in _verdicts:
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(1, 3, 256, 256, generator=generator, dtype=torch.float32).to(engine.network.device)
        try:
            gradient, right = (_trial_gradient(one, image).flatten() for one in (engine, Plain(engine.network)))
            _verdicts[key] = bool(cosine_similarity(gradient, right, 0) > 0.99)
        except torch.OutOfMemoryError:
            return False  # this time
        except RuntimeError:
            _verdicts[key] = False
    return _verdicts[key]


def _trial_gradient(engine: Engine, image: Tensor) -> Tensor:
    maps, grams, tape = engine.forward(image, Request(["relu4_2"], ["relu1_1", "relu3_1", "relu5_1"]))
    return engine.backward(tape, *({layer: x / x.numel() for layer, x in part.items()} for part in (maps, grams)))
