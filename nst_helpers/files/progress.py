"""Progress bars and messages on standard output, and the name of the device.

Where standard output is missing, closed or broken (a program without a console, a service), nothing is shown.
"""

import contextlib
import sys

import torch
from tqdm import tqdm

# Set here, so that variables in the environment (TQDM_ASCII, …) cannot end a run
_SAFE = {"ascii": None, "bar_format": None, "write_bytes": False}


def progress_bar(show=None, **options):
    """Return a tqdm progress bar on standard output that is erased when it is closed.

    Args:
        show: True, False, or None to show it in a terminal or a notebook only.
        **options: arguments of `tqdm.tqdm`: `total`, `desc`, `unit`, …

    It does not use standard error, tqdm's default, because notebooks show that on a red background.
    """
    if show is None:
        ipython = sys.modules.get("IPython")
        show = _asks("isatty") or (ipython is not None and hasattr(ipython.get_ipython(), "kernel"))
    show = show and _asks("writable")
    return tqdm(file=sys.stdout, leave=False, disable=not show, **_SAFE, **options)


def _asks(question: str) -> bool:
    """Return whether standard output answers yes; a stream that is missing, closed or without the method does not."""
    try:
        return bool(getattr(sys.stdout, question)())
    except (AttributeError, OSError, ValueError):
        return False


def say(text: str) -> None:
    """Print a line above the progress bars."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stdout.isatty()  # raises an error if it is not a stream, or closed
        tqdm.write(text)
        sys.stdout.flush()


def device_name(device: torch.device) -> str:
    """Return the name of a device for display."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"the CPU ({threads} thread{'s' * (threads > 1)})" if device.type == "cpu" else "Apple's GPU (MPS)"
