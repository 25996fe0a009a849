"""The largest painting for which a GPU has enough memory."""

import traceback
from collections.abc import Callable

import torch

from ..files.progress import device_name
from ..validate import warn

SMALL, MULTIPLE, RESERVE = 256, 16, 0.9  # side of the trial; sides are multiples; share of the free memory that is used


def smaller_size(
    error: torch.OutOfMemoryError,
    try_at: Callable[[int], None],
    tried: int,
    least: int,
    device: torch.device,
    fit: bool,
) -> int:
    """Return the largest size that fits into a GPU's memory, with a warning; without `fit`, raise an error naming it.

    Args:
        error: raised at the size `tried`.
        try_at: makes steps at a size.
        least: a smaller size would be of no use.
    """
    traceback.clear_frames(error.__traceback__)  # they refer to the tensors of the step
    size = largest_size(try_at, tried, device)
    message = f"{tried} px do not fit into the memory of {device_name(device)}; the largest size that fits is {size} px"
    if not fit or size < least:
        raise torch.OutOfMemoryError(f"{message}: pass sizes=({size},), or fit=True") from error
    warn(f"{message}: painting at {size} px")
    return size


def largest_size(try_at: Callable[[int], None], tried: int, device: torch.device) -> int:
    """Return the longest side of the largest painting that fits into the free memory of a CUDA device, below `tried`.

    The memory that steps take is proportional to the number of pixels, except for the weights, which are there already.
    """
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    try_at(SMALL)
    needed = torch.cuda.max_memory_allocated(device) - before
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    side = SMALL * (RESERVE * free / needed) ** 0.5
    return min(int(side), tried - 1) // MULTIPLE * MULTIPLE
