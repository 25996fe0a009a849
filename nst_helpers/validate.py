"""Argument validation, with error messages that name the likely cause; and documentation of `**settings`."""

import inspect
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from itertools import count
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_OVERSHOOT = 0.1  # values may lie this far outside [0, 1]
OTHERS_CALL_IT = {  # {name of a setting in other programs: its name here}
    **dict.fromkeys(("averaging", "ema", "avg_decay"), "ema_decay"),
    **dict.fromkeys(("carry", "warm_start"), "keep_optimizer_state"),
    **dict.fromkeys(("lr", "step_size"), "learning_rate"),
    **dict.fromkeys(("content_weight", "c_weight"), "alpha"),
    **dict.fromkeys(("style_weight", "s_weight"), "beta"),
    **dict.fromkeys(("iterations", "num_iterations", "num_steps", "epochs", "max_iter"), "steps"),
    **dict.fromkeys(("size", "image_size", "imsize", "max_size"), "sizes"),
    **dict.fromkeys(("content_layers", "content_layer"), "content_weights"),
    **dict.fromkeys(("style_layers", "layers"), "style_weights"),
    **dict.fromkeys(("init", "init_image"), "start"),
    **dict.fromkeys(("tv_loss", "total_variation"), "tv_weight"),
    **dict.fromkeys(("dtype", "half"), "precision"),
    "preset": '**presets["…"].settings(content_image)',
}


class AdaptableSizes(tuple[int, ...]):
    """Sizes that the toolkit has chosen. A run adapts them to narrow pictures, where it refuses those of a user."""


def number(name: str, value, low: float = 0.0, high: float = math.inf) -> float:
    """Return a value as a float; raises ValueError unless it is finite and in [low, high]."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not (math.isfinite(found) and low <= found <= high):
        bounds = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise ValueError(f"{name}: expected a finite number, {bounds}, got {value!r}")
    return found


def whole_numbers(name: str, values) -> tuple[int, ...]:
    """Return one whole number or several as a tuple; raises ValueError for anything else."""
    found = tuple(values) if isinstance(values, Iterable) else (values,)
    if not all(isinstance(value, Integral) for value in found):
        raise ValueError(f"{name}: expected a whole number, or several, got {values!r}")
    return tuple(map(int, found))


def layer_weights(name: str, weights) -> tuple[tuple[str, float], ...]:
    """Return {layer: weight} as a tuple of pairs; raises ValueError if it is empty or a weight is below 0."""
    try:
        found = dict(weights)
    except (TypeError, ValueError):
        found = {}
    if not found:
        raise ValueError(f"{name}: expected {{layer: weight}} with one layer at least, got {weights!r}")
    return tuple((layer, number(layer, weight)) for layer, weight in found.items())


def one_of(name: str, value, known: Iterable[str]) -> str:
    """Return a value; raises ValueError, with the most similar names, unless it is one of `known`."""
    known = list(known)
    if value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, known))}, got {value!r}{nearest(value, known)}")
    return value


def nearest(value, known: Iterable) -> str:
    """Return "(did you mean …?)" with the names most similar to a value, or an empty string if none is similar."""
    near = get_close_matches(str(value), map(str, known), cutoff=0.6)
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Raise TypeError, with the right name, unless all names are among `known`."""
    known = list(known)
    for name in given:
        if name not in known:
            ours = OTHERS_CALL_IT.get(name)
            hint = f" (did you mean {ours!r}?)" if ours else nearest(name, known)
            raise TypeError(f"unknown setting {name!r}{hint}")


def takes(parameters: Mapping[str, inspect.Parameter], text: str) -> Callable:
    """Return a decorator for functions and classes that take `**settings`, so that `help` documents these.

    It adds `parameters` to the signature, and inserts `text` for {settings} in the docstring.
    """

    def decorated(thing):
        thing.__doc__ = thing.__doc__.replace("{settings}", text.replace("\n", "\n        "))
        function: Any = thing.__init__ if inspect.isclass(thing) else thing
        signature = inspect.signature(function)
        own = {name: one for name, one in signature.parameters.items() if one.kind != one.VAR_KEYWORD}
        function.__signature__ = signature.replace(parameters=[*(own | {**parameters, **own}).values()])
        return thing

    return decorated


def picture(name: str, image) -> Tensor:
    """Return an image (1, 3, H, W), clipped to [0, 1], in float32 or float64; raises ValueError for anything else."""
    if not isinstance(image, Tensor) or image.ndim != 4 or image.shape[:2] != (1, 3):
        what = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise ValueError(f"{name}: expected a tensor (1, 3, H, W), as load_image returns it, got {what}")
    check_image(image, name)
    return image.detach().to(torch.promote_types(image.dtype, torch.float32)).clamp(0, 1)


def mask(name: str, mask) -> Tensor:
    """Return a mask (1, 1, H, W) as float32; raises ValueError for values outside [0, 1], and if all are 0."""
    if not isinstance(mask, Tensor) or mask.ndim != 4 or mask.shape[:2] != (1, 1):
        what = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"{name}: expected a tensor (1, 1, H, W), as load_mask returns it, got {what}")
    low, high = (value.item() for value in mask.detach().float().aminmax())
    if not (math.isfinite(low) and math.isfinite(high) and low >= 0 and high <= 1):
        hint = "; divide by 255" if 10 < high <= 255 and low >= 0 else ""
        raise ValueError(f"{name}: expected values in [0, 1], got values from {low:.3g} to {high:.3g}{hint}")
    if high == 0:
        raise ValueError(f"{name}: expected values above 0 inside the region, got a mask that is 0 everywhere")
    return mask.detach().float()


def check_image(image: Tensor, name: str = "image") -> None:
    """Raise ValueError unless an image is (..., 3, H, W), floating point, finite, and within 0.1 of [0, 1]."""
    if image.ndim < 3 or image.shape[-3] != 3 or not image.is_floating_point():
        raise ValueError(f"{name}: expected a float tensor (..., 3, H, W), got {image.dtype} {tuple(image.shape)}")
    low, high = (value.item() for value in image.detach().float().aminmax())
    value_range(low, high, name)


def large_enough(name: str, height: int, width: int, min_side: int) -> None:
    """Raise ValueError for a picture whose shortest side is under `min_side` px, the least that a network can take."""
    if min(width, height) < min_side:
        raise ValueError(f"{name}: expected sides of at least {min_side} px for the network, got {width}×{height} px")


def smallest_size(height: int, width: int, min_side: int) -> int:
    """Return the smallest size, or longest side, at which a picture is `large_enough`."""
    short, long = sorted((height, width))
    return next(size for size in count((min_side - 1) * long // short) if round(short * size / long) >= min_side)


def value_range(low: float, high: float, name: str) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        cause = "divide by 255" if low >= 0 and high > 10 else "is it normalized already (preprocess applied twice)?"
        raise ValueError(f"{name}: expected values in [0, 1], got values from {low:.3g} to {high:.3g}; {cause}")


def warn(message: str) -> None:
    """Issue a warning that points to the line outside this package that called into it."""
    package, level, frame = str(Path(__file__).parent), 1, sys._getframe()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
