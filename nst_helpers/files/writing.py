"""Writing images, animations and tensors, atomically: an existing file is replaced only by a complete one."""

import contextlib
import io
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..validate import check_image

_JPEG: dict[str, Any] = {"format": "JPEG", "quality": 95, "subsampling": 0}
IMAGE_FORMATS: dict[str, dict[str, Any]] = {  # {suffix: Pillow's options}
    ".png": {"format": "PNG", "optimize": True},
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".webp": {"format": "WEBP", "quality": 95},
}
GIF_COLORS = 128  # in the palette of a GIF; the format's maximum is 256
MP4_COLORS = (  # filters of ffmpeg: conversion from RGB, and the tags that tell players how to convert back
    # Without tags, players take the matrix BT.709 for large pictures, and BT.601 (SMPTE 170M) for small ones. With
    # tags, colors in Chromium differ by up to 12 of 255 levels with BT.709, and by up to 2 with BT.601 (measured).
    "scale=out_color_matrix=smpte170m:out_range=tv,"
    "setparams=colorspace=smpte170m:color_primaries=bt709:color_trc=bt709:range=tv"
)
LARGEST = 60_000.0  # magnitude to which float16 values are scaled; the format's maximum is 65504


def offer_download(path: str | os.PathLike) -> None:
    """In Colab, whose disk is deleted after some hours, let the browser download a file. Elsewhere, do nothing."""
    if (colab := sys.modules.get("google.colab")) is not None:
        colab.files.download(str(path))


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path for the content; if no error occurs, rename it to `path`, else delete it.

    It is in the folder of `path`, has the same suffix, and is different in every call: several threads and processes
    can write to one path, and the last one wins. The content is flushed to the disk before the file is replaced. An
    existing file keeps its permissions, and of a symbolic link, the target is replaced.

    Raises PermissionError for a write-protected file, and IsADirectoryError or OSError for anything but a file.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target) and not target.is_file():
        kind = IsADirectoryError if target.is_dir() else OSError
        raise kind(f"{path}: expected a file, got a folder, a device or a link to itself")
    unfinished = target.with_name(f".{secrets.token_hex(8)}{path.suffix}")  # a longer name may be too long
    try:
        open(unfinished, "xb").close()
        if target.is_file():
            if not os.access(target, os.W_OK):
                raise PermissionError(f"{path}: expected a file that can be replaced, got a write-protected one")
            shutil.copymode(target, unfinished)  # before the content, which may be private
        yield unfinished
        _flush(unfinished, os.O_RDWR)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)
    if os.name == "posix":  # Windows cannot open a folder
        with contextlib.suppress(OSError):  # nor can some network file systems flush one
            _flush(target.parent, os.O_RDONLY)


def _flush(path: Path, mode: int) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_tensors(path: str | os.PathLike, kind: str, tensors: dict[str, Tensor], about: dict) -> None:
    """Write tensors and their description to a .safetensors file.

    Args:
        path: ends in .safetensors.
        kind: name and version of the content; `read_tensors` checks it.
        tensors: uint8 is stored unchanged; floating point is scaled to the range of float16, and stored as float16.
        about: data that JSON can represent.

    Raises ValueError for another suffix.
    """
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: expected a name that ends in .safetensors")
    written, scales = {}, {}
    for key, values in tensors.items():
        values = values.detach().cpu().contiguous()
        if values.is_floating_point():
            scales[key] = max(values.float().abs().max().item() / LARGEST, 1e-30)
            values = (values.float() / scales[key]).half()
        written[key] = values
    with written_whole(path) as unfinished:
        unfinished.write_bytes(save(written, {"format": kind, "about": json.dumps(about | {"scales": scales})}))


def read_tensors(path: str | os.PathLike, kind: str) -> tuple[dict[str, Tensor], dict]:
    """Return the tensors (floating point values as float32) and the description from a file of `write_tensors`.

    Raises FileNotFoundError, and ValueError for a file of another kind.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            found = file.metadata() or {}
            if found.get("format") != kind:
                raise ValueError(f"{path}: expected a file of the kind {kind!r}, got {found.get('format')!r}")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: the file is truncated or damaged ({error})") from error
    about = json.loads(found["about"])
    for key, scale in about.pop("scales").items():
        tensors[key] = tensors[key].float() * scale
    return tensors, about


def to_pil(image: Tensor) -> Image.Image:
    """Return an image, (1, 3, H, W) or (3, H, W), or a mask, (1, 1, H, W) or (1, H, W), in [0, 1] as 8-bit RGB."""
    if image.ndim in (3, 4) and image.shape[-3] == 1:
        image = image.expand(*image.shape[:-3], 3, -1, -1)
    check_image(image)
    if image.ndim == 4 and image.shape[0] == 1:
        image = image[0]
    if image.ndim != 3:
        raise ValueError(f"expected one image, (1, 3, H, W) or (3, H, W), got {tuple(image.shape)}")
    pixels = image.detach().float().clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def save_animation(images: Iterable[Tensor], path: str | os.PathLike, frames_per_second: float = 8) -> Path:
    """Write images as the frames of an animation and return the file's path.

    Args:
        images: (1, 3, H, W) or (3, H, W) in [0, 1]. All are resized to the size of the last one. MP4 needs even sizes:
            an odd row or column is cut off. The last frame is shown for two seconds.
        path: ends in .gif (loops; one palette of 128 colors for all frames) or .mp4 (H.264). Missing folders are
            created.
        frames_per_second: above 0; a GIF rounds the duration of a frame to hundredths of a second.

    Raises ValueError for no images, another suffix, or values that `to_pil` refuses.
    """
    path = Path(path).expanduser()
    writers = {".gif": _write_gif, ".mp4": _write_mp4}
    if path.suffix.lower() not in writers:
        raise ValueError(f"{path}: expected a name that ends in one of {', '.join(writers)}")
    if not frames_per_second > 0:
        raise ValueError(f"frames_per_second: expected a number above 0, got {frames_per_second}")
    frames = [to_pil(image) for image in images]
    if not frames:
        raise ValueError("images: expected at least one, got none")
    frames = [frame.resize(frames[-1].size, Image.Resampling.LANCZOS) for frame in frames]
    with written_whole(path) as unfinished:
        writers[path.suffix.lower()](frames, unfinished, frames_per_second)
    return path


def _write_gif(frames: list[Image.Image], path: Path, frames_per_second: float) -> None:
    """Write frames of one size as a looping GIF with one palette for all."""
    width, height = frames[0].size
    together = Image.new("RGB", (width * len(frames), height))
    for place, frame in enumerate(frames):
        together.paste(frame, (place * width, 0))
    palette = together.quantize(GIF_COLORS)
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    durations = [1000 / frames_per_second] * len(others) + [2000]
    file = io.BytesIO()  # in a real file, Pillow does not notice that a full disk cuts off a frame
    first.save(file, "GIF", save_all=True, append_images=others, duration=durations, loop=0, optimize=True)
    path.write_bytes(file.getvalue())


def _write_mp4(frames: list[Image.Image], path: Path, frames_per_second: float) -> None:
    """Write frames of one size as H.264, without the last row or column of odd sizes. Raises OSError if it fails."""
    import imageio_ffmpeg  # only here: a machine for measurements may lack it

    width, height = (side // 2 * 2 for side in frames[0].size)
    frames = [*frames, *[frames[-1]] * round(2 * frames_per_second)]
    writer = imageio_ffmpeg.write_frames(
        path,
        (width, height),
        fps=frames_per_second,
        quality=8,
        macro_block_size=1,
        ffmpeg_log_level="error",
        output_params=["-vf", MP4_COLORS],
    )
    writer.send(None)
    try:
        for frame in frames:
            writer.send(frame.crop((0, 0, width, height)).tobytes())
    finally:
        writer.close()
    try:  # the writer does not report errors at the end, such as a full disk
        written, _ = imageio_ffmpeg.count_frames_and_secs(path)
    except RuntimeError:
        written = 0
    if written != len(frames):
        raise OSError(f"expected {len(frames)} frames in the MP4, got {written}: is the disk full?")
