import pytest
import torch
from torch.autograd import gradcheck

import nst_helpers as nst
from nst_helpers.losses import roots
from nst_helpers.losses.content import CONTENT_LOSSES
from nst_helpers.losses.gatys import relative_weights, with_gradient
from nst_helpers.losses.style import STYLE_LOSSES
from nst_helpers.losses.total_variation import total_variation_gradient


@pytest.fixture
def maps():
    def make(*shape, seed=0):
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return make


class TestGramMatrix:
    def test_two_channels_by_hand(self):
        feature_maps = torch.tensor([[[[1.0, 2.0], [0.0, 1.0]], [[3.0, 0.0], [1.0, 1.0]]]])
        expected = torch.tensor([[[1 + 4 + 0 + 1, 3 + 0 + 0 + 1], [4, 9 + 0 + 1 + 1]]]) / 4  # H·W = 4
        torch.testing.assert_close(nst.gram_matrix(feature_maps), expected)

    def test_each_image_of_a_batch_has_its_own(self, maps):
        batch = maps(3, 4, 5, 7)
        expected = torch.einsum("bihw,bjhw->bij", batch, batch) / 35
        torch.testing.assert_close(nst.gram_matrix(batch), expected)
        torch.testing.assert_close(nst.gram_matrix(batch)[1:2], nst.gram_matrix(batch[1:2]))

    def test_does_not_depend_on_size_or_place(self, maps):
        feature_maps = maps(1, 3, 4, 6)
        torch.testing.assert_close(nst.gram_matrix(feature_maps.repeat(1, 1, 2, 3)), nst.gram_matrix(feature_maps))
        shuffled = feature_maps.flatten(2)[:, :, torch.randperm(24)].view_as(feature_maps)
        torch.testing.assert_close(nst.gram_matrix(shuffled), nst.gram_matrix(feature_maps))

    def test_any_memory_layout(self, maps):
        feature_maps = maps(2, 8, 5, 7)
        channels_last = feature_maps.to(memory_format=torch.channels_last)
        torch.testing.assert_close(nst.gram_matrix(channels_last), nst.gram_matrix(feature_maps))

    def test_gradient(self, maps):
        assert gradcheck(nst.gram_matrix, maps(2, 3, 2, 3).requires_grad_())

    def test_bad_input(self):
        with pytest.raises(ValueError, match=r"\(B, C, H, W\), got \(3, 4, 5\)"):
            nst.gram_matrix(torch.zeros(3, 4, 5))


class TestContentLoss:
    def test_closed_form(self):
        assert nst.content_loss(torch.full((2, 3, 4, 5), 3.0), torch.full((2, 3, 4, 5), 1.0)) == 4

    def test_a_batch_is_the_mean_of_its_images(self, maps):
        F, P = maps(3, 4, 5, 6), maps(1, 4, 5, 6, seed=1)
        expected = torch.stack([nst.content_loss(image[None], P) for image in F]).mean()
        torch.testing.assert_close(nst.content_loss(F, P), expected)

    def test_gradient(self, maps):
        P = maps(1, 2, 3, 3, seed=1)
        assert gradcheck(lambda F: nst.content_loss(F, P), maps(2, 2, 3, 3).requires_grad_())

    def test_shapes_must_match(self, maps):
        with pytest.raises(ValueError, match="expected equal shapes"):
            nst.content_loss(maps(1, 4, 5, 6), maps(1, 4, 5, 7))


class TestStyleLoss:
    def test_is_equation_4_of_gatys(self, maps):
        """Undivided Gram matrices of F and S, summed squared differences, divided by 4 N² M²."""
        F, S = maps(1, 3, 4, 5), maps(1, 3, 4, 5, seed=1)
        G, A = (m[0].flatten(1) @ m[0].flatten(1).T for m in (F, S))
        equation_4 = (G - A).square().sum() / (4 * 3**2 * 20**2)
        loss = nst.style_loss({"relu1_1": 0.5}, {"relu1_1": F}, {"relu1_1": nst.gram_matrix(S)})
        torch.testing.assert_close(loss, 0.5 * equation_4)

    def test_layers_add_up_by_weight(self, maps):
        features = {"relu1_1": maps(1, 3, 4, 5), "relu2_1": maps(1, 6, 2, 2)}
        grams = {layer: nst.gram_matrix(m + 1) for layer, m in features.items()}
        parts = [nst.style_loss({layer: 1.0}, features, grams) for layer in features]
        together = nst.style_loss({"relu1_1": 2.0, "relu2_1": 3.0}, features, grams)
        torch.testing.assert_close(together, 2 * parts[0] + 3 * parts[1])

    def test_relative_weights(self, maps):
        """A picture without features has all of each layer's weight as its loss, however large the style's are."""
        grams = {"relu1_1": nst.gram_matrix(maps(1, 3, 4, 5)), "relu2_1": nst.gram_matrix(1000 * maps(1, 6, 2, 2))}
        weights = relative_weights({"relu1_1": 0.3, "relu2_1": 0.5}, grams)
        nothing = {layer: torch.zeros(1, gram.shape[1], 2, 2) for layer, gram in grams.items()}
        assert nst.style_loss(weights, nothing, grams).item() == pytest.approx(0.8)
        assert weights["relu1_1"] == pytest.approx(0.3 / (grams["relu1_1"].square().mean().item() / 4))

    def test_is_zero_for_the_style_itself_in_any_order(self, maps):
        F = maps(1, 3, 4, 6)
        assert nst.style_loss({"a": 1.0}, {"a": F.flip(3)}, {"a": nst.gram_matrix(F)}) < 1e-25

    def test_a_batch_is_the_mean_of_its_images(self, maps):
        F, gram = maps(3, 4, 5, 6), nst.gram_matrix(maps(1, 4, 2, 2, seed=1))
        parts = [nst.style_loss({"a": 2.0}, {"a": image[None]}, {"a": gram}) for image in F]
        torch.testing.assert_close(nst.style_loss({"a": 2.0}, {"a": F}, {"a": gram}), torch.stack(parts).mean())

    def test_gradient(self, maps):
        gram = nst.gram_matrix(maps(1, 2, 3, 3, seed=1))
        assert gradcheck(lambda F: nst.style_loss({"a": 1.0}, {"a": F}, {"a": gram}), maps(2, 2, 3, 3).requires_grad_())

    def test_bad_input(self, maps):
        with pytest.raises(KeyError, match="relu1_1"):
            nst.style_loss({"relu1_1": 1.0}, {}, {})
        with pytest.raises(ValueError, match="relu1_1: expected equal shapes"):
            nst.style_loss({"relu1_1": 1.0}, {"relu1_1": maps(1, 3, 4, 4)}, {"relu1_1": torch.zeros(1, 4, 4)})


class TestTotalVariation:
    def test_closed_form(self):
        ramp = torch.arange(5.0).expand(2, 3, 4, 5)  # 1 to the right, 0 downwards
        assert nst.total_variation_loss(ramp) == 1
        assert nst.total_variation_loss(3 * ramp.transpose(2, 3)) == 3
        assert nst.total_variation_loss(torch.ones(1, 3, 4, 4)) == 0

    def test_gradient(self, maps):
        assert gradcheck(nst.total_variation_loss, maps(2, 3, 3, 4).requires_grad_())

    def test_bad_input(self):
        with pytest.raises(ValueError, match="at least 2"):
            nst.total_variation_loss(torch.zeros(1, 3, 1, 5))


def test_total_loss():
    assert nst.total_loss(torch.tensor(2.0), torch.tensor(3.0), alpha=5, beta=7) == 31


class TestGradients:
    """The formulas against autograd."""

    def test_feature_reconstruction(self, maps):
        F, P = maps(1, 4, 5, 6), maps(1, 4, 5, 6, seed=1)
        expected = with_gradient(lambda F: nst.content_loss(F, P), F)
        torch.testing.assert_close(CONTENT_LOSSES["features"](F, P, 1), expected)

    @pytest.mark.parametrize("power", [1, 2])
    def test_total_variation(self, maps, power):
        image = maps(1, 3, 5, 6)
        _, expected = with_gradient(lambda image: nst.total_variation_loss(image, power), image)
        torch.testing.assert_close(total_variation_gradient(image, power), expected)

    @pytest.mark.parametrize("name", ["gram", "mean_std", "wasserstein"])
    def test_weighted_styles(self, maps, name):
        """Of several terms at once, with respect to a symmetric change of the features."""
        loss = STYLE_LOSSES[name]
        features, styles = ([moments(maps(1, C, 6, 7, seed=seed + C)) for C in (2, 5)] for seed in (0, 9))
        if name == "gram":
            features, styles = ([one[:, :-1, :-1] for one in ones] for ones in (features, styles))
        targets = [loss.target(loss.statistics(one, None, 1)) for one in styles]
        shares, beta = torch.tensor([0.3, 1.7], dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
        gathered = loss.gathered([(target, None, 1) for target in targets])
        spread = loss.spread(shares, gathered)
        value, gradients = loss.weighted(features, gathered, spread, beta)
        expected = sum(
            share * naive_distance(name, *pair)
            for share, pair in zip(shares, zip(features, styles, strict=True), strict=True)
        )
        torch.testing.assert_close(value, expected)
        for index, (one, gradient) in enumerate(zip(features, gradients, strict=True)):
            torch.testing.assert_close(gradient, gradient.mT)
            _, right = with_gradient(lambda M, i=index: shares[i] * naive_distance(name, M, styles[i]), one)
            torch.testing.assert_close(gradient, beta * (right + right.mT) / 2)


def moments(maps):
    """Gram matrix of features and a channel of ones."""
    return nst.gram_matrix(torch.cat([maps, torch.ones_like(maps[:, :1])], 1))


def naive_distance(name, found, wanted):
    if name == "gram":
        return (found - wanted).square().mean() / 4
    parts = [(M[0, :-1, -1], M[0, :-1, :-1] - torch.outer(M[0, :-1, -1], M[0, :-1, -1])) for M in (found, wanted)]
    (m, C), (n, D) = parts
    if name == "mean_std":
        return (m - n).square().mean() + ((C.diag() + 1e-4).sqrt() - (D.diag() + 1e-4).sqrt()).square().mean()
    C, D = (S + 1e-4 * torch.eye(len(S), dtype=S.dtype) for S in (C, D))
    values, vectors = torch.linalg.eigh(D)
    root = vectors * values.sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ C @ root).sqrt().sum()
    return ((m - n).square().sum() + C.trace() + D.trace() - 2 * cross) / len(m)


class TestRoots:
    @pytest.mark.parametrize("C", [1, 3, 64])
    def test_both_ways_agree(self, maps, C):
        covariance, other = (
            S @ S.mT / (2 * C) + 1e-4 * torch.eye(C, dtype=torch.float64)
            for S in (maps(2, C, 2 * C), maps(2, C, 2 * C, seed=1))
        )
        values, vectors = torch.linalg.eigh(other)
        root = vectors * values.sqrt()[:, None] @ vectors.mT
        expected = roots.cross_by_eigenvalues(covariance, root)
        torch.testing.assert_close(roots.cross_by_products(covariance, root), expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.long
    @pytest.mark.parametrize("layer", [layer for layer, weight in nst.STYLE_WEIGHTS.items() if weight])
    def test_products_are_closer_to_float64_than_eigenvalues(self, vgg, root, layer):
        """On the features of real pictures in float32: the share of a distance's gradient with respect to features."""
        pictures = (root / "data" / name for name in ("content/rocket.jpg", "styles/night.jpg"))
        features = [nst.get_features(nst.load_image(path, 256), vgg, [layer])[layer][0].flatten(1) for path in pictures]
        eye = 1e-4 * torch.eye(len(features[0]))
        S, T = (torch.cov(F, correction=0) + eye for F in features)
        values, vectors = torch.linalg.eigh(T.double())
        R = (vectors * values.sqrt() @ vectors.T)[None]
        value, pull = roots.cross_by_eigenvalues(S.double()[None], R)
        errors = {}
        for way in (roots.cross_by_eigenvalues, roots.cross_by_products):
            found, found_pull = way(S[None], R.float())
            assert found.item() == pytest.approx(value.item(), rel=5e-4)
            errors[way] = ((found_pull - pull) @ features[0].double()).norm() / (
                (eye - pull) @ features[0].double()
            ).norm()
        print(layer, [f"{error:.1e}" for error in errors.values()])
        assert errors[roots.cross_by_products] < min(0.1, errors[roots.cross_by_eigenvalues])
