import colorsys

import pytest
import torch

import nst_helpers as nst
from nst_helpers import colors


def moments(image):
    colors = image[0].flatten(1).double()
    return colors.mean(1), torch.cov(colors, correction=0)


@pytest.fixture
def muted(picture):
    """A picture whose colors stay in [0, 1] when they become those of another such picture."""

    def make(seed):
        return 0.35 + 0.3 * picture(40, 50, seed)

    return make


class TestRecolor:
    @pytest.mark.parametrize("method", ["symmetric", "pca", "cholesky"])
    def test_gives_the_others_mean_and_covariance(self, muted, method):
        mean, covariance = moments(nst.recolor(muted(0), muted(1), method))
        expected_mean, expected_covariance = moments(muted(1))
        torch.testing.assert_close(mean, expected_mean, atol=1e-6, rtol=0)
        torch.testing.assert_close(covariance, expected_covariance, atol=2e-5, rtol=0)

    @pytest.mark.parametrize("method", colors.RECOLORINGS)
    def test_leaves_a_picture_in_its_own_colors(self, muted, method):
        torch.testing.assert_close(nst.recolor(muted(0), muted(0), method), muted(0), atol=1e-5, rtol=0)

    def test_the_maps_are_affine_and_differ_as_their_formulas_do(self, muted):
        """Of A with A S Aᵀ = T: the symmetric one is symmetric, that of Cholesky is triangular."""
        image, like = muted(0), muted(1)
        X = torch.cat([image[0].flatten(1), torch.ones(1, 2000)]).double()
        maps = {}
        for method in ("symmetric", "pca", "cholesky"):
            Y = nst.recolor(image, like, method)[0].flatten(1).double()
            maps[method] = torch.linalg.lstsq(X.T, Y.T).solution.T[:, :3]
            torch.testing.assert_close(maps[method] @ X[:3] + (Y - maps[method] @ X[:3]).mean(1, keepdim=True), Y)
        torch.testing.assert_close(maps["symmetric"], maps["symmetric"].T, atol=1e-4, rtol=0)
        torch.testing.assert_close(maps["cholesky"].triu(1), torch.zeros(3, 3).double(), atol=1e-4, rtol=0)
        assert (maps["pca"] - maps["symmetric"]).abs().max() > 1e-3

    def test_histogram_gives_the_others_distribution(self, muted):
        """Not the moments alone: each channel's values, and those along other directions, sorted, are the other's."""
        image, like = muted(0), (muted(1) + 0.2 * (muted(1) > 0.5)).clamp(0, 1)
        recolored = nst.recolor(image, like, "histogram")
        for direction in (*torch.eye(3), torch.tensor([0.6, 0.8, 0.0]), torch.tensor([1.0, -1.0, 1.0])):
            wanted, matched, moved = (
                torch.einsum("c,chw->hw", direction, x[0]).flatten().sort().values
                for x in (like, recolored, nst.recolor(image, like))
            )
            assert (matched - wanted).abs().mean() < 0.3 * (moved - wanted).abs().mean()
        torch.testing.assert_close(
            recolored[0, 0].flatten().sort().values, like[0, 0].flatten().sort().values, atol=1e-5, rtol=0
        )

    def test_unknown_method(self, muted):
        with pytest.raises(ValueError, match="method: expected one of symmetric, pca, cholesky, histogram, got 'chol'"):
            nst.recolor(muted(0), muted(1), "chol")

    def test_moves_colors_no_more_than_other_maps_do(self, muted):
        """Cholesky's map gives the same mean and covariance, and moves colors further."""
        image, like = muted(0), muted(1)
        (mean, covariance), (target_mean, target) = moments(image), moments(like)
        matrix = torch.linalg.cholesky(target) @ torch.linalg.cholesky(covariance).inverse()
        other = matrix @ (image[0].flatten(1).double() - mean[:, None]) + target_mean[:, None]
        moved = (nst.recolor(image, like) - image).square().sum()
        assert moved < (other.view(image.shape) - image).square().sum()

    @pytest.mark.parametrize(
        "image", [torch.full((1, 3, 8, 8), 0.5), torch.linspace(0, 1, 64).view(1, 1, 8, 8).expand(1, 3, 8, 8)]
    )
    def test_a_picture_without_colors(self, image, muted):
        recolored = nst.recolor(image, muted(1))
        assert recolored.isfinite().all()
        torch.testing.assert_close(moments(recolored)[0], moments(muted(1))[0], atol=1e-2, rtol=0)

    def test_stays_in_range(self, picture):
        recolored = nst.recolor(picture(30, 30), (picture(30, 30, 1) > 0.5).float())
        assert (recolored.shape, recolored.dtype) == ((1, 3, 30, 30), torch.float32)
        assert recolored.min() >= 0
        assert recolored.max() <= 1


class TestLuminance:
    def test_yiq_is_pythons(self, picture):
        image = picture(4, 5)
        expected = [colorsys.rgb_to_yiq(*pixel) for pixel in image[0].flatten(1).T.tolist()]
        torch.testing.assert_close(colors.to_yiq(image)[0].flatten(1).T, torch.tensor(expected), atol=1e-6, rtol=0)

    def test_oklab_of_known_colors(self):
        """White, red and blue, from the definition's own page (Ottosson 2020) and CSS Color 4."""
        known = {(1, 1, 1): (1, 0, 0), (1, 0, 0): (0.62796, 0.22486, 0.12585), (0, 0, 1): (0.45201, -0.03246, -0.31153)}
        for rgb, lab in known.items():
            found = colors.to_oklab(torch.tensor(rgb).float().view(1, 3, 1, 1)).flatten()
            torch.testing.assert_close(found, torch.tensor(lab).float(), atol=2e-4, rtol=0)

    @pytest.mark.parametrize("space", colors.SPACES)
    def test_there_and_back(self, space, picture):
        there, back = colors.SPACES[space]
        torch.testing.assert_close(back(there(picture())), picture(), atol=1e-4, rtol=0)

    @pytest.mark.parametrize("space", colors.SPACES)
    def test_luminance_is_gray_and_as_light(self, space, muted):
        gray = colors.luminance(muted(0), space)
        assert (gray - gray.mean(1, keepdim=True)).abs().max() < 1e-3
        there, _ = colors.SPACES[space]
        torch.testing.assert_close(there(gray)[:, 0], there(muted(0))[:, 0], atol=1e-3, rtol=0)

    @pytest.mark.parametrize("space", colors.SPACES)
    def test_with_colors_of(self, space, muted):
        there, _ = colors.SPACES[space]
        mixed = there(colors.with_colors_of(muted(0), muted(1), space))
        torch.testing.assert_close(mixed[:, :1], there(muted(0))[:, :1], atol=1e-3, rtol=0)
        torch.testing.assert_close(mixed[:, 1:], there(muted(1))[:, 1:], atol=1e-3, rtol=0)

    def test_match(self, muted):
        image, like = (colors.luminance(muted(seed)) for seed in range(2))
        matched = colors.match_luminance(image, like)
        torch.testing.assert_close(matched.mean(), like.mean())
        torch.testing.assert_close(matched.std(), like.std(), atol=1e-4, rtol=0)

    def test_bad_input(self, muted):
        with pytest.raises(ValueError, match="space: expected one of yiq, oklab, got 'lab'"):
            colors.luminance(muted(0), "lab")
        with pytest.raises(ValueError, match="expected equal shapes"):
            colors.with_colors_of(muted(0), muted(1)[..., :20])


class TestPaintings:
    def paint(self, vgg, muted, color):
        settings = {"sizes": (48,), "steps": 6, "start": "noise", "engine": "plain"}
        run = nst.StyleTransfer(muted(0), muted(1), network=vgg, color=color, **settings)
        return run, [record.image for record in run]

    @pytest.mark.parametrize("space", colors.SPACES)
    @pytest.mark.parametrize("way", ["luminance", "content"])
    def test_the_contents_colors_are_put_back(self, vgg, muted, way, space):
        run, images = self.paint(vgg, muted, f"{way}_{space}")
        there, _ = colors.SPACES[space]
        photograph = nst.load_image(muted(0), 48)
        for image in (run.image, run.best, images[-1]):
            chroma = there(image)[:, 1:] - there(photograph)[:, 1:]
            assert chroma.abs().mean() < 0.01  # more only where it was clipped
            assert (there(image)[:, :1] - there(photograph)[:, :1]).abs().mean() > 0.002

    def test_before_the_run_both_are_gray_and_alike(self, vgg, muted):
        run, _ = self.paint(vgg, muted, "luminance_yiq")
        content, style = run.problem.content_image, run.problem.regions[0].styles[0].image
        for image in (content, style):
            assert (image - image.mean(1, keepdim=True)).abs().max() < 1e-3
        torch.testing.assert_close(style.mean(), content.mean(), atol=1e-3, rtol=0)

    @pytest.mark.parametrize("method", colors.RECOLORINGS)
    def test_the_style_is_recolored(self, vgg, muted, method):
        run, _ = self.paint(vgg, muted, method)
        expected = nst.recolor(muted(1), muted(0), method)
        torch.testing.assert_close(run.problem.regions[0].styles[0].image, expected)
        plain, _ = self.paint(vgg, muted, "style")
        wanted = moments(muted(0))[0]
        assert (moments(run.image)[0] - wanted).norm() < (moments(plain.image)[0] - wanted).norm()

    def test_unknown(self, vgg, muted):
        with pytest.raises(ValueError, match=r"color: expected one of style, symmetric, .*, got 'luminance'"):
            self.paint(vgg, muted, "luminance")
