import numpy as np
import pytest
import torch
from PIL import Image

import nst_helpers as nst
from nst_helpers.masks import feathered, find_regions, load_mask, parts_of

NETWORK = nst.VGG("vgg19")  # for its geometry


def box(height=48, width=64):
    mask = torch.zeros(1, 1, height, width)
    mask[..., 12:36, 16:40] = 1
    return mask


class TestLoadMask:
    def test_pictures_and_arrays(self, tmp_path):
        values = np.zeros((48, 64), np.uint8)
        values[12:36, 16:40] = 255
        Image.fromarray(values).save(tmp_path / "mask.png")
        for source in (tmp_path / "mask.png", values, values / 255, Image.fromarray(values)):
            assert torch.equal(load_mask(source, None), box())
        assert load_mask(values, 32).shape == (1, 1, 24, 32)

    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "int64", "bool", "float32"])
    def test_labels(self, dtype):
        values = box()[0, 0].numpy().astype(dtype)
        for source in (values, torch.from_numpy(values)[None]):
            assert torch.equal(load_mask(source, None), box())
        assert torch.equal(load_mask(Image.fromarray(values.astype(np.uint8)), None), box())

    def test_one_color_is_inside(self):
        inside = box()[0, 0].numpy() > 0
        palette = Image.fromarray(inside.astype(np.uint8)).convert("P")
        palette.putdata(inside.astype(np.uint8).ravel().tolist())
        palette.putpalette([0, 0, 0, 128, 0, 0])  # as in the Pascal VOC's masks
        red = np.zeros((48, 64, 3), np.uint8)
        red[inside] = (255, 0, 0)
        on_nothing = np.dstack([np.full_like(red, 255), np.uint8(255) * inside])
        red_on_nothing = np.dstack([red, np.uint8(255) * inside])
        for source in (palette, red, on_nothing, red_on_nothing):
            assert torch.equal(load_mask(source, None), box())

    def test_opacity_counts(self):
        white = np.full((48, 64, 4), 255, np.uint8)
        white[..., 3] = np.linspace(0, 255, 64)
        torch.testing.assert_close(load_mask(white, None)[0, 0, 0], torch.from_numpy(white[0, :, 3] / 255).float())

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ((255, 0, 0), (0, 0, 255)),
            ((128, 0, 0), (192, 0, 0)),
            ((255, 255, 255), (255, 0, 0)),
            ((1, 1, 1), (255, 255, 255)),
        ],
    )
    def test_several_colors_or_labels_are_refused(self, first, second):
        values = np.zeros((48, 64, 3), np.uint8)
        values[:20], values[30:] = first, second
        with pytest.raises(ValueError, match="got several"):
            load_mask(values, None)

    def test_black_on_a_transparent_ground_is_refused(self):
        black = np.zeros((48, 64, 4), np.uint8)
        black[:20, :, 3] = 255
        with pytest.raises(ValueError, match="got black on a transparent ground"):
            load_mask(black, None)

    def test_partly_covered(self):
        with pytest.warns(UserWarning, match=r"got a maximum of 0\.4"):
            load_mask(box() * 0.4, None)

    def test_nothing(self):
        with pytest.raises(ValueError, match="<ndarray>: expected values above 0"):
            load_mask(np.zeros((48, 64), np.uint8), None)


class TestFeathered:
    def test_is_a_gaussian(self):
        soft = feathered(box(), 3.0)
        row = soft[0, 0, 24]
        x = torch.arange(64)
        expected = 0.5 * (torch.erf((x - 15.5) / (3 * 2**0.5)) - torch.erf((x - 39.5) / (3 * 2**0.5)))
        torch.testing.assert_close(row, expected, atol=5e-3, rtol=0)

    def test_borders_and_sums_stay(self):
        assert torch.allclose(feathered(torch.ones(1, 1, 20, 30), 5.0), torch.ones(1, 1, 20, 30))
        torch.testing.assert_close(feathered(box(), 4.0) + feathered(1 - box(), 4.0), torch.ones(1, 1, 48, 64))
        assert torch.equal(feathered(box(), 0), box())

    def test_bad_radius(self):
        with pytest.raises(ValueError, match="radius: expected a finite number, at least 0, got -1"):
            feathered(box(), -1)


class TestFindRegions:
    def test_by_colors(self):
        image = torch.full((1, 3, 48, 64), 0.2)
        image[:, 0, 12:36, 16:40] = 0.9
        torch.manual_seed(0)
        masks = torch.cat(find_regions((image + 0.02 * torch.randn_like(image)).clamp(0, 1), 2))
        assert torch.equal(masks[1:], box())
        assert torch.equal(masks.sum(0), torch.ones(1, 48, 64))

    def test_by_features(self, vgg):
        """Two textures of the same mean color, which colors alone do not tell apart."""
        torch.manual_seed(0)
        stripes = (torch.arange(64) // 4 % 2).float().expand(1, 3, 64, 64)
        noise = torch.rand(1, 1, 64, 64).expand(1, 3, 64, 64).round()
        image = torch.cat([stripes, noise], 3)
        masks = torch.cat(find_regions(image, 2, network=vgg, layer="relu2_1"))
        left = masks[:, 0, :, :60].mean((1, 2))
        right = masks[:, 0, :, 68:].mean((1, 2))
        assert (left - right).abs().max() > 0.9

    def test_repeats(self, picture):
        for first, second in zip(find_regions(picture(), 4), find_regions(picture(), 4), strict=True):
            assert torch.equal(first, second)

    def test_each_is_what_a_region_takes(self, picture):
        for mask in find_regions(picture(), 3):
            assert mask.shape == (1, 1, *picture().shape[2:])
            nst.Region(mask, picture())

    def test_bad_input(self, picture):
        with pytest.raises(ValueError, match="n: expected a whole number ≥ 2, got 1"):
            find_regions(picture(), 1)
        with pytest.raises(ValueError, match=r"n: expected at most 1, .*got 3"):
            find_regions(torch.full((1, 3, 20, 20), 0.5), 3)


class TestParts:
    def test_weights_are_what_the_mask_covers(self):
        part = parts_of(box(), ["relu3_1"], NETWORK)["relu3_1"][0]
        covered = box().view(12, 4, 16, 4).mean((1, 3)).flatten()
        weights = torch.zeros(12 * 16)
        weights[part.positions] = part.weights
        torch.testing.assert_close(weights, covered / covered[covered > 0].mean())
        assert part.weights.mean() == pytest.approx(1)

    def test_odd_sizes(self):
        mask = torch.zeros(1, 1, 45, 53)
        mask[..., -1, -1] = 1
        for layer, part in parts_of(mask, ["relu1_1", "pool1", "relu5_1"], NETWORK).items():
            side = {"relu1_1": (45, 53), "pool1": (22, 26), "relu5_1": (2, 3)}[layer]
            assert part[0].positions.tolist() == [side[0] * side[1] - 1]

    def test_masks_that_cover_nothing(self):
        with pytest.raises(ValueError, match="masks that are 0 everywhere: 1"):
            parts_of(torch.cat([box(), torch.zeros_like(box())]), ["relu1_1"], NETWORK)


def test_a_picture_is_no_mask(picture):
    with pytest.raises(ValueError, match=r"a region's mask: expected a tensor \(1, 1, H, W\)"):
        nst.Region(picture(), picture())
