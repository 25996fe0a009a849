import contextlib
import gc
import io
import os
import re
import stat
import subprocess
import sys
import threading

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from conftest import ROOT
from oracles import COLORS, striped
from PIL import Image

import nst_helpers as nst
from nst_helpers.files.writing import written_whole
from nst_helpers.styles import SavedStyle

POSIX = pytest.mark.skipif(os.name != "posix", reason="of POSIX systems")
NOISE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
STYLE = SavedStyle({64: {"relu1_1": NOISE[0]}}, NOISE, "vgg19", "gram")
WRITERS = {
    **dict.fromkeys((".png", ".jpg", ".webp"), lambda path: nst.save_image(NOISE, path)),
    **dict.fromkeys((".gif", ".mp4"), lambda path: nst.save_animation([NOISE], path)),
    ".safetensors": lambda path: nst.save_style(path, STYLE),
}
every_kind = pytest.mark.parametrize("suffix", WRITERS)


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


@pytest.mark.parametrize("size", [256, 1080])
def test_the_colors_of_an_mp4(size, tmp_path):
    """The stream says its matrix, and converted with that it has the frame's colors. `test_browser` asks a browser."""
    path = nst.save_animation([striped(size)], tmp_path / "run.mp4", frames_per_second=1)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    read = subprocess.run(command, capture_output=True, check=True)
    assert re.search(r"Video: h264 .+\(tv, smpte170m/bt709/bt709", read.stderr.decode())
    shown = np.frombuffer(read.stdout, np.uint8).reshape(3, size, size, 3)[0, size // 2]
    stripe = size // len(COLORS)
    assert np.abs(shown[stripe // 2 :: stripe].astype(int) - list(COLORS.values())).max() <= 4


class TestWrittenWhole:
    def test_two_threads_and_a_reader(self, tmp_path):
        """No writer fails, and whatever a reader finds is a whole picture."""
        path, ended, errors, seen = tmp_path / "a.png", threading.Event(), [], set()
        images = flat(0.0, 300, 300), NOISE
        nst.save_image(NOISE, path)

        def write(image):
            with noting(errors):
                for _ in range(30):
                    nst.save_image(image, path)

        def read():
            with noting(errors):
                while not ended.is_set():
                    with Image.open(io.BytesIO(path.read_bytes())) as picture:
                        picture.load()
                        seen.add(picture.size)

        writers = [threading.Thread(target=write, args=(image,)) for image in images]
        reader = threading.Thread(target=read)
        for thread in (*writers, reader):
            thread.start()
        for thread in writers:
            thread.join()
        ended.set()
        reader.join()
        assert not errors
        assert seen <= {(64, 64), (300, 300)}
        assert os.listdir(tmp_path) == ["a.png"]

    @pytest.mark.long
    def test_two_processes(self, tmp_path):
        code = """
import sys, torch, nst_helpers as nst
for _ in range(100):
    nst.save_image(torch.full((1, 3, int(sys.argv[2]), 64), 0.5), sys.argv[1])
"""
        command = [sys.executable, "-c", code, tmp_path / "a.png"]
        processes = [subprocess.Popen([*command, height], cwd=ROOT) for height in ("64", "300")]
        assert [process.wait(120) for process in processes] == [0, 0]
        assert nst.load_image(tmp_path / "a.png", None).shape[2] in (64, 300)
        assert os.listdir(tmp_path) == ["a.png"]

    def test_a_temporary_name_is_used_once(self, tmp_path):
        """Process ids repeat on other machines that share a folder, and in containers."""
        with written_whole(tmp_path / "a.txt") as one, written_whole(tmp_path / "a.txt") as other:
            assert one != other
            one.write_text("one")
            other.write_text("other")
        assert (tmp_path / "a.txt").read_text() == "one"  # renamed last

    @every_kind
    def test_a_name_of_255_bytes(self, suffix, tmp_path):
        for letter in ("x", "ö", "画"):
            stem = letter * ((255 - len(suffix)) // len(letter.encode()))
            WRITERS[suffix](tmp_path / (stem + suffix))
            assert (tmp_path / (stem + suffix)).stat().st_size > 0

    @POSIX
    @every_kind
    def test_a_symbolic_link_stays(self, suffix, tmp_path):
        for name in ("there", "missing", "new folder/missing"):
            link, target = tmp_path / f"{name[:3]}{suffix}", tmp_path / "elsewhere" / name
            if name == "there":
                target.parent.mkdir()
                target.write_text("old")
            link.symlink_to(os.path.relpath(target, tmp_path))
            WRITERS[suffix](link)
            assert link.is_symlink()
            assert target.read_bytes() == link.read_bytes() != b"old"
        assert sorted(os.listdir(tmp_path / "elsewhere")) == ["missing", "new folder", "there"]

    @POSIX
    def test_a_chain_of_links_and_a_linked_folder(self, tmp_path):
        (tmp_path / "real").mkdir()
        (tmp_path / "folder").symlink_to("real")
        (tmp_path / "real" / "a.png").symlink_to("../b.png")
        (tmp_path / "b.png").symlink_to(tmp_path / "c.png")
        nst.save_image(NOISE, tmp_path / "folder" / "a.png")
        assert (tmp_path / "folder").is_symlink()
        assert (tmp_path / "real" / "a.png").is_symlink()
        assert (tmp_path / "b.png").is_symlink()
        assert (tmp_path / "c.png").is_file()

    @POSIX
    @every_kind
    def test_permissions(self, suffix, tmp_path):
        """Those of any new file; an existing file keeps its own, and nobody else reads its content meanwhile."""
        new, private = tmp_path / f"new{suffix}", tmp_path / f"private{suffix}"
        private.touch(0o600)
        before = os.umask(0o026)
        try:
            WRITERS[suffix](new)
            WRITERS[suffix](private)
            assert mode(new) == 0o640
            assert mode(private) == 0o600
            new.chmod(0o664)
            WRITERS[suffix](new)
            assert mode(new) == 0o664
            with written_whole(private) as unfinished:
                assert mode(unfinished) == 0o600
        finally:
            os.umask(before)

    @POSIX
    @pytest.mark.parametrize("suffix", WRITERS)
    def test_a_full_disk(self, suffix, tmp_path):
        """An old file stays, and nothing else is left. A limit of the system stands for the disk."""
        import resource

        path = tmp_path / f"a{suffix}"
        path.write_text("old")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        try:
            with pytest.raises(OSError):  # noqa: PT011
                WRITERS[suffix](path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == [path.name]

    def test_an_interruption(self, tmp_path):
        (tmp_path / "a.txt").write_text("old")
        with contextlib.suppress(KeyboardInterrupt), written_whole(tmp_path / "a.txt") as unfinished:
            unfinished.write_text("half")
            raise KeyboardInterrupt
        assert (tmp_path / "a.txt").read_text() == "old"
        assert os.listdir(tmp_path) == ["a.txt"]

    def test_a_write_protected_file(self, tmp_path, monkeypatch):
        (tmp_path / "a.png").write_text("old")
        monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write to all files
        with pytest.raises(PermissionError, match=r"a\.png: expected a file that can be replaced"):
            nst.save_image(NOISE, tmp_path / "a.png")
        assert (tmp_path / "a.png").read_text() == "old"
        assert os.listdir(tmp_path) == ["a.png"]

    @POSIX
    def test_only_files_are_replaced(self, tmp_path):
        (tmp_path / "folder.png").mkdir()
        os.mkfifo(tmp_path / "pipe.png")
        (tmp_path / "loop.png").symlink_to("loop.png")
        (tmp_path / "device.png").symlink_to("pipe.png")
        before = sorted(os.listdir(tmp_path))
        for name in before:
            with pytest.raises(OSError, match=rf"{name}: expected a file, got a folder, a device or a link to itself"):
                nst.save_image(NOISE, tmp_path / name)
        with pytest.raises(IsADirectoryError):
            nst.save_image(NOISE, tmp_path / "folder.png")
        assert sorted(os.listdir(tmp_path)) == before
        assert stat.S_ISFIFO((tmp_path / "pipe.png").stat().st_mode)

    @POSIX
    def test_it_is_on_the_disk(self, tmp_path, monkeypatch):
        """The content before the old file is replaced, then the folder; one that cannot be flushed is no error."""
        events = []

        def flush(descriptor):
            events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content")
            if events[-1] == "folder":
                raise OSError("not on this file system")

        replace = os.replace
        monkeypatch.setattr(os, "fsync", flush)
        monkeypatch.setattr(os, "replace", lambda *paths: (events.append("replaced"), replace(*paths)))
        nst.save_image(NOISE, tmp_path / "a.png")
        assert events == ["content", "replaced", "folder"]
        assert nst.load_image(tmp_path / "a.png", None).shape == NOISE.shape

    def test_on_windows_no_folder_is_opened(self, tmp_path, monkeypatch):
        opened, path = [], tmp_path / "a.txt"
        original = os.open
        monkeypatch.setattr(os, "open", lambda path, *rest: (opened.append(path), original(path, *rest))[1])
        with written_whole(path) as unfinished:
            unfinished.write_text("new")
            monkeypatch.setattr("nst_helpers.files.writing.os.name", "nt")
        monkeypatch.undo()
        assert tmp_path not in opened
        assert path.read_text() == "new"


class TestOfferDownload:
    def test_in_colab(self, tmp_path, monkeypatch, downloads):
        nst.offer_download(nst.save_image(NOISE, tmp_path / "a.png"))
        assert downloads == [str(tmp_path / "a.png")]

    def test_elsewhere_nothing_happens(self):
        nst.offer_download("no such file")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@contextlib.contextmanager
def noting(errors):
    """Note an error of a thread."""
    try:
        yield
    except Exception as error:
        errors.append(error)
