"""What is shown while something runs: a progress bar that leaves nothing behind, and the name of the device."""

import sys

import torch
from tqdm import tqdm


def progress_bar(show=None, **options):
    """Return a tqdm bar on standard output that erases itself when it closes.

    Args:
        show: True, False, or None: only where someone can see it move, that is in a terminal or a notebook.
        **options: what `tqdm.tqdm` takes: `total`, `desc`, `unit`, …

    Standard output, not tqdm's usual standard error: notebooks show the latter as a red warning.
    """
    if show is None:
        ipython = sys.modules.get("IPython")
        show = sys.stdout.isatty() or (ipython is not None and hasattr(ipython.get_ipython(), "kernel"))
    return tqdm(file=sys.stdout, leave=False, disable=not show, **options)


def device_name(device: torch.device) -> str:
    """Return the name of a device as people know it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"the CPU ({torch.get_num_threads()} threads)" if device.type == "cpu" else "Apple's GPU (MPS)"
