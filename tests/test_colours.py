import pytest
import torch

import nst_helpers as nst


def moments(image):
    colours = image[0].flatten(1).double()
    return colours.mean(1), torch.cov(colours, correction=0)


@pytest.fixture
def muted(picture):
    """A picture whose colours stay in [0, 1] when they become those of another such picture."""

    def make(seed):
        return 0.35 + 0.3 * picture(40, 50, seed)

    return make


class TestRecolour:
    def test_gives_the_others_mean_and_covariance(self, muted):
        mean, covariance = moments(nst.recolour(muted(0), muted(1)))
        expected_mean, expected_covariance = moments(muted(1))
        torch.testing.assert_close(mean, expected_mean, atol=1e-6, rtol=0)
        torch.testing.assert_close(covariance, expected_covariance, atol=2e-5, rtol=0)

    def test_leaves_a_picture_in_its_own_colours(self, muted):
        torch.testing.assert_close(nst.recolour(muted(0), muted(0)), muted(0), atol=1e-5, rtol=0)

    def test_moves_colours_no_more_than_other_maps_do(self, muted):
        """Cholesky's map gives the same mean and covariance, and moves colours further."""
        image, like = muted(0), muted(1)
        (mean, covariance), (target_mean, target) = moments(image), moments(like)
        matrix = torch.linalg.cholesky(target) @ torch.linalg.cholesky(covariance).inverse()
        other = matrix @ (image[0].flatten(1).double() - mean[:, None]) + target_mean[:, None]
        moved = (nst.recolour(image, like) - image).square().sum()
        assert moved < (other.view(image.shape) - image).square().sum()

    @pytest.mark.parametrize(
        "image", [torch.full((1, 3, 8, 8), 0.5), torch.linspace(0, 1, 64).view(1, 1, 8, 8).expand(1, 3, 8, 8)]
    )
    def test_a_picture_without_colours(self, image, muted):
        recoloured = nst.recolour(image, muted(1))
        assert recoloured.isfinite().all()
        torch.testing.assert_close(moments(recoloured)[0], moments(muted(1))[0], atol=1e-2, rtol=0)

    def test_stays_in_range(self, picture):
        recoloured = nst.recolour(picture(30, 30), (picture(30, 30, 1) > 0.5).float())
        assert (recoloured.shape, recoloured.dtype) == ((1, 3, 30, 30), torch.float32)
        assert recoloured.min() >= 0
        assert recoloured.max() <= 1
