"""A run as a moving picture: GIF for a notebook or a page, MP4 for everything else."""

import os
from collections.abc import Iterable
from pathlib import Path

import imageio_ffmpeg
from PIL import Image
from torch import Tensor

from .images import to_pil, written_whole

COLORS = 128  # of a GIF, which can have 256 at most


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
    width, height = frames[0].size
    together = Image.new("RGB", (width * len(frames), height))
    for place, frame in enumerate(frames):
        together.paste(frame, (place * width, 0))
    palette = together.quantize(COLORS)
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    durations = [1000 / frames_per_second] * len(others) + [2000]
    first.save(path, "GIF", save_all=True, append_images=others, duration=durations, loop=0, optimize=True)


def _write_mp4(frames: list[Image.Image], path: Path, frames_per_second: float) -> None:
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
