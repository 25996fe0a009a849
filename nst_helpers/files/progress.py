"""Progress bars, and the name of the device."""

import sys

import torch
from tqdm import tqdm


def progress_bar(show=None, **options):
    """Return a tqdm progress bar on standard output that is erased when it is closed.

    Args:
        show: True, False, or None to show it in a terminal or a notebook only.
        **options: arguments of `tqdm.tqdm`: `total`, `desc`, `unit`, …

    It does not use standard error, tqdm's default, because notebooks show that on a red background.
    """
    if show is None:
        ipython = sys.modules.get("IPython")
        show = sys.stdout.isatty() or (ipython is not None and hasattr(ipython.get_ipython(), "kernel"))
    return tqdm(file=sys.stdout, leave=False, disable=not show, **options)


def device_name(device: torch.device) -> str:
    """Return the name of a device for display."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"the CPU ({torch.get_num_threads()} threads)" if device.type == "cpu" else "Apple's GPU (MPS)"
