import gc
import re
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

import nst_helpers as nst


def flat(value, height=48, width=64):
    return torch.full((1, 3, height, width), value)


@pytest.fixture
def frames(picture):
    """Two sizes, as a run has; the last is odd."""
    return [flat(0.0), flat(0.5), picture(71, 95)]


def test_gif(frames, tmp_path):
    path = nst.save_animation(frames, tmp_path / "new" / "run.gif", frames_per_second=5)
    with Image.open(path) as gif:
        assert (gif.n_frames, gif.size, gif.info["loop"]) == (3, (95, 71), 0)
        shown, durations = [], []
        for n in range(3):
            gif.seek(n)
            shown.append(np.asarray(gif.convert("RGB")) / 255)
            durations.append(gif.info["duration"])
    assert durations == [200, 200, 2000]
    assert [frame.mean() for frame in shown[:2]] == pytest.approx([0, 0.5], abs=0.03)
    assert np.abs(shown[2] - frames[2][0].permute(1, 2, 0).numpy()).mean() < 0.05
    assert [file.name for file in path.parent.iterdir()] == ["run.gif"]


def test_mp4(frames, tmp_path):
    path = nst.save_animation(frames, tmp_path / "run.mp4", frames_per_second=4)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    read = subprocess.run(command, capture_output=True, check=True)
    assert re.search(r"Video: h264 .+, 94x70.*, 4 fps", read.stderr.decode())
    shown = np.frombuffer(read.stdout, np.uint8).reshape(-1, 70, 94, 3) / 255
    gc.collect()  # nothing of the writer's is left open, or its warning would be an error here
    assert len(shown) == 3 + 2 * 4  # and the last for two seconds
    assert [frame.mean() for frame in shown[:2]] == pytest.approx([0, 0.5], abs=0.03)
    assert np.abs(shown[-1] - frames[2][0, :, :70, :94].permute(1, 2, 0).numpy()).mean() < 0.1
    assert [file.name for file in tmp_path.iterdir()] == ["run.mp4"]


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_one_image(suffix, tmp_path):
    assert nst.save_animation([flat(0.3)], tmp_path / f"one{suffix}").stat().st_size > 0


@pytest.mark.parametrize(
    ("images", "name", "options", "said"),
    [
        ([], "run.gif", {}, "images: expected at least one"),
        ([flat(0.0)], "run.avi", {}, "a name that ends in one of .gif, .mp4"),
        ([flat(0.0)], "run.gif", {"frames_per_second": 0}, "above 0"),
        ([flat(7.0)], "run.gif", {}, "expected values in \\[0, 1\\]"),
    ],
)
def test_nonsense(images, name, options, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        nst.save_animation(images, tmp_path / name, **options)
    assert not list(tmp_path.iterdir())
