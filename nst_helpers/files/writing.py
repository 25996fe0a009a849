"""Pictures, animations and tensors out: each file is written whole or not at all."""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import imageio_ffmpeg
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..validate import check_image

GIF_COLORS = 128  # of a GIF, which can have 256 at most
LARGEST = 60_000.0  # of a float16


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path to write to, in the same folder and with the same suffix, that becomes `path` if all goes well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_tensors(path: str | os.PathLike, kind: str, tensors: dict[str, Tensor], about: dict) -> None:
    """Write tensors and their description to a .safetensors file.

    Args:
        path: ends in .safetensors.
        kind: what the file holds, with a version; `read_tensors` asks for it.
        tensors: bytes are written as they are, floating point values in half precision, scaled to fit its range.
        about: anything that JSON can hold.
    """
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: the name must end in .safetensors")
    written, scales = {}, {}
    for key, values in tensors.items():
        values = values.detach().cpu().contiguous()
        if values.is_floating_point():
            scales[key] = max(values.float().abs().max().item() / LARGEST, 1e-30)
            values = (values.float() / scales[key]).half()
        written[key] = values
    with written_whole(path) as unfinished:
        save_file(written, unfinished, metadata={"format": kind, "about": json.dumps(about | {"scales": scales})})


def read_tensors(path: str | os.PathLike, kind: str) -> tuple[dict[str, Tensor], dict]:
    """Return the tensors, floating point values as float32, and the description that `write_tensors` wrote.

    Raises FileNotFoundError, or ValueError for a file of another kind.
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
        raise ValueError(f"{path}: truncated or damaged ({error})") from error
    about = json.loads(found["about"])
    for key, scale in about.pop("scales").items():
        tensors[key] = tensors[key].float() * scale
    return tensors, about


def to_pil(image: Tensor) -> Image.Image:
    """Return an image, (1, 3, H, W) or (3, H, W) in [0, 1], as an 8-bit RGB PIL image."""
    check_image(image)
    if image.ndim == 4 and image.shape[0] == 1:
        image = image[0]
    if image.ndim != 3:
        raise ValueError(f"one image at a time, (1, 3, H, W) or (3, H, W), not {tuple(image.shape)}")
    pixels = image.detach().float().clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def save_animation(images: Iterable[Tensor], path: str | os.PathLike, frames_per_second: float = 8) -> Path:
    """Write images one after the other to a file, whole or not at all, and return its path.

    Args:
        images: (1, 3, H, W) or (3, H, W) in [0, 1]. All are resized to the last one's size, in MP4 less one row or
            column where that is odd, which the format cannot hold. The last stays for two seconds.
        path: ends in .gif (loops; one palette of 128 colors for all frames) or .mp4 (H.264). Missing folders are
            made.
        frames_per_second: above 0; a GIF rounds the time of a frame to hundredths of a second.

    Raises:
        ValueError: no images, another suffix, no frames per second, or what `to_pil` raises.
    """
    path = Path(path).expanduser()
    writers = {".gif": _write_gif, ".mp4": _write_mp4}
    if path.suffix.lower() not in writers:
        raise ValueError(f"{path}: the name must end in one of {', '.join(writers)}")
    if not frames_per_second > 0:
        raise ValueError(f"frames_per_second is above 0, not {frames_per_second}")
    frames = [to_pil(image) for image in images]
    if not frames:
        raise ValueError("no images to animate")
    frames = [frame.resize(frames[-1].size, Image.Resampling.LANCZOS) for frame in frames]
    with written_whole(path) as unfinished:
        writers[path.suffix.lower()](frames, unfinished, frames_per_second)
    return path


def _write_gif(frames: list[Image.Image], path: Path, frames_per_second: float) -> None:
    """Write frames of one size as a GIF that loops, with one palette for all; the last stays for two seconds."""
    width, height = frames[0].size
    together = Image.new("RGB", (width * len(frames), height))
    for place, frame in enumerate(frames):
        together.paste(frame, (place * width, 0))
    palette = together.quantize(GIF_COLORS)
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    durations = [1000 / frames_per_second] * len(others) + [2000]
    first.save(path, "GIF", save_all=True, append_images=others, duration=durations, loop=0, optimize=True)


def _write_mp4(frames: list[Image.Image], path: Path, frames_per_second: float) -> None:
    """Write frames of one size as H.264, less one row or column where that is odd; the last stays for two seconds."""
    width, height = (side // 2 * 2 for side in frames[0].size)
    writer = imageio_ffmpeg.write_frames(
        path, (width, height), fps=frames_per_second, quality=8, macro_block_size=1, ffmpeg_log_level="error"
    )
    writer.send(None)
    try:
        for frame in [*frames, *[frames[-1]] * round(2 * frames_per_second)]:
            writer.send(frame.crop((0, 0, width, height)).tobytes())
    finally:
        writer.close()
