"""Decoding untrusted pictures in a child process with limits of time and memory."""

import json
import os
import subprocess
import sys

import numpy as np

from . import decoding

SECONDS = 20  # for one picture
MEMORY = 2 * 2**30  # bytes of address space


def decode_in_child(content: bytes, name: str, max_pixels: int = decoding.MAX_PIXELS) -> tuple[np.ndarray, list[str]]:
    """Return the picture in an image file and warnings, as `decoding.decode` does, but decoded in a child process.

    The child may take `SECONDS` of time and, on Linux, `MEMORY` bytes of memory, so that a file that was made
    to exhaust or crash the decoder stops the child only.

    Raises the errors of `decode`, and ValueError if the child is stopped.
    """
    command = [sys.executable, "-P", decoding.__file__, *map(str, (max_pixels, MEMORY, SECONDS))]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OPENBLAS_NUM_THREADS": "1",
    }
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=SECONDS, env=environment)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{name}: the picture takes longer than {SECONDS} s to decode") from None
    line, _, values = done.stdout.partition(b"\n")
    if done.returncode or not line:
        raise ValueError(f"{name}: the picture cannot be decoded: the decoder stopped with code {done.returncode}")
    header = json.loads(line)
    if "error" in header:
        raise ValueError(header["error"].replace("<bytes>", name, 1))
    notes = [note.replace("<bytes>", name, 1) for note in header["notes"]]
    return np.frombuffer(values, header["dtype"]).reshape(header["shape"]), notes
