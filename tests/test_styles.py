import pytest
import torch

import nst_helpers as nst
from nst_helpers.styles import SavedStyle, Style


@pytest.fixture
def pictures(picture):
    return picture(48, 64), picture(64, 60, 1), picture(56, 64, 2)


def run_of(pictures, network, style, **settings):
    settings = {"sizes": (32, 64), "steps": (2, 3), "start": "content", "engine": "plain", **settings}
    return nst.StyleTransfer(pictures[0], style, network=network, **settings)


@pytest.mark.long
@pytest.mark.parametrize("style_loss", ["gram", "mean_std", "wasserstein", "sliced_wasserstein", "nearest"])
def test_takes_the_pictures_place(style_loss, pictures, vgg, tmp_path):
    path = tmp_path / "style.safetensors"
    nst.save_style(path, pictures[1], vgg, sizes=(32, 64), style_loss=style_loss)
    records = [
        list(run_of(pictures, vgg, style, style_loss=style_loss, start="recolored"))
        for style in (pictures[1], nst.load_style(path), Style(nst.load_style(path)))
    ]
    for ours, theirs in zip(records[0], records[1], strict=True):
        assert theirs.style == pytest.approx(ours.style, rel=0.02)
    assert records[1] == records[2]


def test_is_small(pictures, vgg, tmp_path):
    path = tmp_path / "style.safetensors"
    nst.save_style(path, pictures[1], vgg, sizes=(32, 64))
    channels = (64, 128, 256, 512, 512)
    assert path.stat().st_size < 2 * sum(2 * C * C for C in channels) + 30_000


def test_half_precision_is_enough(tmp_path):
    matrix = torch.rand(1, 30, 30, generator=torch.Generator().manual_seed(0)) ** 8 * 1e5
    tensors = {"relu1_1": matrix + matrix.mT, "relu2_1": matrix, "relu3_1": matrix[:, :20], "relu4_1": 0 * matrix}
    nst.save_style(tmp_path / "s.safetensors", SavedStyle({64: tensors}, torch.rand(1, 3, 8, 8), "vgg19", "gram"))
    restored = nst.load_style(tmp_path / "s.safetensors").statistics[64]
    for layer, values in tensors.items():
        torch.testing.assert_close(restored[layer], values, rtol=1e-3, atol=1e-5)


def test_without_arguments(picture, vgg, monkeypatch, tmp_path):
    """Kept for the network and the sizes that `transfer` takes by default, and of use there."""
    monkeypatch.setattr("nst_helpers.styles.load_vgg", lambda: vgg)
    style = picture(256, 200, 1)
    saved = nst.save_style(tmp_path / "style.safetensors", style)
    assert set(saved.statistics) == {160, 256}
    run = nst.StyleTransfer(picture(256, 256), nst.load_style(tmp_path / "style.safetensors"), network=vgg, steps=1)
    assert run.step().style > 0
    with pytest.raises(ValueError, match="sizes: expected at least one size"):
        nst.save_style(None, style, vgg, sizes=())


def test_interpolated(pictures, vgg):
    """Halfway between two saved styles is where blending their pictures leads, and the ends are the two."""
    saved = [nst.save_style(None, style, vgg, sizes=(32, 64)) for style in pictures[1:]]
    mixed = saved[0].mixed(saved[1], 0.25)
    styles = [Style(pictures[1], 3), Style(pictures[2], 1)]
    for ours, theirs in zip(run_of(pictures, vgg, styles), run_of(pictures, vgg, mixed), strict=True):
        assert theirs.style == pytest.approx(ours.style, rel=1e-4)
    assert list(run_of(pictures, vgg, saved[0].mixed(saved[1], 1))) == list(run_of(pictures, vgg, saved[1]))
    blended = [Style(saved[0], 3), Style(saved[1], 1)]
    assert next(iter(run_of(pictures, vgg, blended))).style == pytest.approx(
        next(iter(run_of(pictures, vgg, styles))).style, rel=1e-4
    )


def test_the_nearest_size_is_taken(pictures, vgg):
    saved = nst.save_style(None, pictures[1], vgg, sizes=(32, 64))
    assert saved.at(70, ["relu1_1"])["relu1_1"] is saved.statistics[64]["relu1_1"]
    assert saved.at(20, ["relu1_1"])["relu1_1"] is saved.statistics[32]["relu1_1"]


def test_what_does_not_match_is_refused(pictures, vgg, tmp_path):
    saved = nst.save_style(None, pictures[1], vgg, sizes=(64,), style_weights={"relu1_1": 1.0})
    with pytest.raises(ValueError, match=r"layers of the saved style \(relu1_1\), got relu2_1, "):
        run_of(pictures, vgg, saved)
    weights = {"relu1_1": 1.0}
    with pytest.raises(ValueError, match="saved with, wasserstein, got mean_std"):
        run_of(pictures, vgg, saved, style_loss="mean_std", style_weights=weights)
    average = nst.load_vgg("vgg19", "average", device="cpu")
    with pytest.raises(ValueError, match="saved with, vgg19, got vgg19, average"):
        run_of(pictures, average, saved, style_weights=weights)
    with pytest.raises(ValueError, match="got a saved style"):
        run_of(pictures, vgg, saved, style_weights=weights, color="symmetric")
    other = nst.save_style(None, pictures[1], vgg, sizes=(32,), style_weights=weights)
    with pytest.raises(ValueError, match="saved at the same sizes"):
        saved.mixed(other, 0.5)


def test_bad_files(pictures, vgg, tmp_path):
    with pytest.raises(ValueError, match=r"a name that ends in \.safetensors"):
        nst.save_style(tmp_path / "style.pt", pictures[1], vgg, sizes=(64,))
    with pytest.raises(FileNotFoundError, match="no such file"):
        nst.load_style(tmp_path / "nowhere.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(ValueError, match="truncated or damaged"):
        nst.load_style(tmp_path / "damaged.safetensors")
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="expected a file of the kind"):
        nst.load_style(tmp_path / "other.safetensors")
