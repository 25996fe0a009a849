"""Each preset against its own formula, written here once more, naively and in float64."""

import pytest
import torch
from oracles import gram
from torch.nn.functional import conv2d, max_pool2d

import nst_helpers as nst
from nst_helpers import validate, vgg
from nst_helpers.presets import convert_weights, preset, presets

MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(3, 1, 1)
HEIGHT, WIDTH = 40, 48
FIRSTS = ["relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1"]


@pytest.fixture
def small(monkeypatch):
    """Makes a VGG-19 of a few channels with random weights, in float64."""
    monkeypatch.setattr(vgg, "CHANNELS", (4, 5, 6, 7, 8))

    def make():
        torch.manual_seed(0)
        network = nst.VGG("vgg19").double()
        for layer in network.children():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight)
                torch.nn.init.uniform_(layer.bias, -0.1, 0.3)
        return network

    return make


@pytest.fixture
def pictures():
    """The image, content and style; the style's of another size."""
    generator = torch.Generator().manual_seed(1)
    shapes = (HEIGHT, WIDTH), (HEIGHT, WIDTH), (WIDTH, 44)
    return [torch.rand(1, 3, *shape, generator=generator, dtype=torch.float64) for shape in shapes]


def activations(network, x):
    """{layer: (C, M)} of a network's input, by the textbook."""
    found = {}
    for block, n in enumerate((2, 2, 4, 4, 4), start=1):
        for index in range(1, n + 1):
            layer = getattr(network, f"conv{block}_{index}")
            x = conv2d(x, layer.weight, layer.bias, padding=1)
            found[f"conv{block}_{index}"] = x[0].flatten(1)
            x = x.clamp_min(0)
            found[f"relu{block}_{index}"] = x[0].flatten(1)
        x = max_pool2d(x, 2)
    return found


def standardized(x):
    return (x - MEAN) / STD


SCALE = 255 * (0.229 + 0.224 + 0.225) / 3  # of feature maps of inputs from 0 to 255
UP_TO_255 = {"jc", "nspt", "gatys_pytorch", "gatys_lua", "anish", "tensorflow", "keras", "gordic"}


def raw(F):
    return gram(F) * F.shape[1]


def cm(F):
    return gram(F) / F.shape[0]


m = gram


def mse(a, b):
    return ((a - b) ** 2).mean()


def sse(a, b):
    return ((a - b) ** 2).sum()


def dx(x):
    return x[..., :, 1:] - x[..., :, :-1]


def dy(x):
    return x[..., 1:, :] - x[..., :-1, :]


def inside(x):
    return dx(x)[..., :-1, :], dy(x)[..., :, :-1]


def jc(F, P, S, x):
    tv = 0.5 * 1e-3 * sum((d**2).sum() for d in inside(256 * x))
    return 5 * mse(F["relu4_2"], P["relu4_2"]) + sum(100 * mse(cm(F[k]), cm(S[k])) for k in FIRSTS) + tv


def nspt(F, P, S, x):
    X = 255 * x
    tv = 1e-3 * (dx(X).abs().sum() + dy(X).abs().sum())
    return 5 * mse(F["relu4_2"], P["relu4_2"]) + sum(100 * mse(cm(F[k]), cm(S[k])) for k in FIRSTS) + tv


def gatys(F, P, S, x):
    return mse(F["relu4_2"], P["relu4_2"]) + sum(1000 / len(F[k]) ** 2 * mse(m(F[k]), m(S[k])) for k in FIRSTS)


def anish(F, P, S, x):
    X = 255 * x
    tv = 100 * ((dy(X) ** 2).mean() + (dx(X) ** 2).mean())
    return 5 * mse(F["relu4_2"], P["relu4_2"]) + sum(500 / 5 * mse(cm(F[k]), cm(S[k])) for k in FIRSTS) + tv


def gordic(F, P, S, x):
    tv = dx(255 * x).abs().sum() + dy(255 * x).abs().sum()
    return 1e5 * mse(F["relu4_2"], P["relu4_2"]) + 3e4 / 5 * sum(sse(cm(F[k]), cm(S[k])) for k in FIRSTS) + tv


def pytorch_tutorial(F, P, S, x):
    layers = ["conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1"]
    return mse(F["conv2_2"], P["conv2_2"]) + 1e6 * sum(mse(cm(F[k]), cm(S[k])) for k in layers)


def d2l(F, P, S, x):
    layers = ["relu1_1", "relu2_1", "relu3_1", "relu4_1", "conv5_1"]
    X = (x - MEAN) / STD
    tv = 10 * 0.5 * (dy(X).abs().mean() + dx(X).abs().mean())
    return mse(F["relu4_4"], P["relu4_4"]) + 1e4 * sum(mse(cm(F[k]), cm(S[k])) for k in layers) + tv


def tensorflow(F, P, S, x):
    tv = 30 * (dx(x).abs().sum() + dy(x).abs().sum())
    return 1e4 * mse(F["relu5_2"], P["relu5_2"]) + 1e-2 / 5 * sum(mse(m(F[k]), m(S[k])) for k in FIRSTS) + tv


def keras(F, P, S, x):
    style = sum(sse(raw(F[k]), raw(S[k])) / (4 * 3**2 * (HEIGHT * WIDTH) ** 2) for k in FIRSTS)
    a, b = inside(255 * x)
    tv = ((a**2 + b**2) ** 1.25).sum()
    return 2.5e-8 * sse(F["relu5_2"], P["relu5_2"]) + 1e-6 / 5 * style + 1e-6 * tv


def pystiche(F, P, S, x):
    style = torch.stack([mse(m(F[k]), m(S[k])) for k in FIRSTS]).mean()
    return mse(F["relu4_2"], P["relu4_2"]) + 1e3 * style


def crowson(F, P, S, x):
    def moments(F):
        mean = F.mean(1)
        return mean, raw(F) / F.shape[1] - torch.outer(mean, mean) + 1e-4 * torch.eye(len(F))

    def root(matrix):
        values, vectors = torch.linalg.eigh(matrix)
        return vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T

    style = 0
    for k, w in zip(FIRSTS, (256, 64, 16, 4, 1), strict=True):
        (mean, cov), (mean_s, cov_s) = moments(F[k]), moments(S[k])
        half = root(cov_s)
        distance = (cov_s + cov - 2 * root(half @ cov @ half)).diag().mean()
        style += w / 341 * (((mean - mean_s) ** 2).mean() + distance)
    X = torch.cat([x, x[..., -1:]], 3)
    X = torch.cat([X, X[..., -1:, :]], 2)
    a, b, c, d = X[..., :-1, :-1], X[..., :-1, 1:], X[..., 1:, :-1], X[..., 1:, 1:]
    tv = mse(a, b) / 3 + mse(a, c) / 3 + mse(a, d) / 12 + mse(b, c) / 12
    return 0.015 * mse(F["relu4_2"], P["relu4_2"]) + style + 2 * 2 * tv


def course(F, P, S, x):
    w = {"conv1_1": 1, "conv2_1": 0.75, "conv3_1": 0.2, "conv4_1": 0.2, "conv5_1": 0.2}
    return mse(F["conv4_2"], P["conv4_2"]) + 1e9 * sum(w[k] * mse(cm(F[k]), cm(S[k])) for k in w)


FORMULAS = {
    "jc": jc,
    "nspt": nspt,
    "gatys_pytorch": gatys,
    "gatys_lua": gatys,
    "anish": anish,
    "gordic": gordic,
    "pytorch_tutorial": pytorch_tutorial,
    "d2l": d2l,
    "tensorflow": tensorflow,
    "keras": keras,
    "pystiche": pystiche,
    "crowson": crowson,
    "classic_adam": course,
    "classic_lbfgs": course,
    "five_convs_lbfgs": pytorch_tutorial,
    "guided_project": course,
}


def run_of(name, network, content, style, **settings):
    settings = presets[name].settings(content, network, WIDTH) | {"engine": "plain", "start": "content", **settings}
    return nst.StyleTransfer(content, style, **settings)


def test_all_are_here():
    assert set(FORMULAS) == set(presets)


@pytest.mark.filterwarnings("ignore:.*enlarged from")
@pytest.mark.parametrize("name", presets)
def test_loss_and_gradient(name, small, pictures):
    image, content, style = pictures
    network = small()
    if name == "keras":  # whose style has the content's shape
        style = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    run = run_of(name, network, content, style, sizes=(WIDTH,), steps=(1,))

    x = image.clone().requires_grad_()
    scale = SCALE if name in UP_TO_255 else 1
    features = [activations(network, standardized(picture)) for picture in (x, content, style)]
    expected = FORMULAS[name](*({layer: scale * maps for layer, maps in one.items()} for one in features), x)
    (gradient,) = torch.autograd.grad(expected, x)
    found = run.evaluate(image, run.settings)
    assert found.losses[0] == pytest.approx(expected.item(), rel=1e-10)
    assert (found.gradient - gradient).norm() <= 1e-10 * gradient.norm()


@pytest.mark.filterwarnings("ignore:.*enlarged from")
@pytest.mark.parametrize("name", presets)
def test_runs_with_the_pretrained_network(name, vgg, picture):
    run = run_of(name, vgg, picture(48, 64), picture(64, 64, 1), sizes=(64,), steps=(12,), start="noise")
    run.learning_rate *= 0.1 if run.optimizer == "adam" else 1
    first = run.step()
    list(run)
    assert run.best_loss < first.total


class TestSizes:
    @pytest.mark.parametrize(
        ("name", "sizes"),
        [
            ("jc", (512,)),
            ("gatys_pytorch", (683, 1067)),
            ("gatys_lua", (591, 600)),
            ("anish", (600,)),
            ("gordic", (533,)),
            ("crowson", (128, 181, 256, 362, 512)),
        ],
    )
    def test_rules(self, name, sizes, small):
        settings = presets[name].settings(torch.rand(1, 3, 450, 600), small())
        assert settings["sizes"] == sizes
        assert len(settings["steps"]) == len(sizes)

    @pytest.mark.parametrize("name", presets)
    def test_narrow_pictures(self, name, small, picture):
        """Sizes are raised where a picture would be too narrow for the network; one that is given is refused."""
        network = small()
        settings = presets[name].settings(picture(16, 640), network)
        assert min(settings["sizes"]) >= validate.smallest_size(16, 640, network.min_side)
        content, scroll = picture(160, 160).double(), picture(30, 300).double()
        settings = presets[name].settings(content, network, 160) | {"engine": "plain", "start": "content"}
        run = nst.StyleTransfer(content, scroll, **settings)
        assert run.settings.sizes == tuple(sorted({max(size, 155) for size in settings["sizes"]}))
        assert sum(run.settings.steps) > 0
        with pytest.raises(ValueError, match=r"content_image: expected sides of at least 16 px .+ got 128×13 px"):
            presets[name].settings(scroll, network, 128)

    def test_another_size(self, small):
        assert presets["crowson"].settings(torch.rand(1, 3, 450, 600), small(), 256)["sizes"] == (64, 90, 128, 181, 256)


class TestConvert:
    @pytest.mark.parametrize("name", [name for name in presets if presets[name].style_loss == "gram"])
    def test_there_and_back(self, name):
        alpha, beta = convert_weights(name, "pystiche")
        assert convert_weights("pystiche", name, alpha, beta) == pytest.approx(
            (presets[name].alpha, presets[name].beta)
        )

    def test_known_ones(self):
        """From the algebra: Gatys' 1000/C² with G/M is jc's form with weights 1 and 1000."""
        assert convert_weights("gatys_pytorch", "jc") == pytest.approx((1, 1000))
        assert convert_weights("jc", "anish") == pytest.approx((5, 500))
        assert convert_weights("classic_adam", "classic_lbfgs") == pytest.approx((1, 1e9))

    def test_converted_losses_agree_where_conversion_is_exact(self, small, pictures):
        image, content, style = pictures
        alpha, beta = convert_weights("gatys_pytorch", "jc", height=HEIGHT, width=WIDTH)
        settings = {"sizes": (WIDTH,), "steps": (1,), "tv_weight": 0.0}
        one = run_of("gatys_pytorch", small(), content, style, **settings)
        other = run_of("jc", small(), content, style, alpha=alpha, beta=beta, **settings)
        expected = one.evaluate(image, one.settings).losses[0]
        assert other.evaluate(image, other.settings).losses[0] == pytest.approx(expected, rel=1e-12)

    def test_sums_depend_on_the_size(self):
        assert (
            convert_weights("keras", "jc", height=600, width=600)[0]
            > convert_weights("keras", "jc", height=300, width=300)[0]
        )

    def test_nonsense(self):
        with pytest.raises(KeyError, match=r"unknown preset 'jcjohnson'.*; expected one of jc, nspt, "):
            convert_weights("jcjohnson", "jc")
        with pytest.raises(ValueError, match="expected two presets with one style loss, got 'wasserstein' and 'gram'"):
            convert_weights("crowson", "jc")


def test_nonsense():
    with pytest.raises(KeyError, match=r"unknown preset 'pystich' \(did you mean 'pystiche'"):
        presets["pystich"]
    with pytest.raises(TypeError):
        presets["mine"] = presets["jc"]


class TestNetwork:
    """A preset's own network, or the original with a warning."""

    @pytest.fixture
    def available(self, monkeypatch, small):
        """Makes only some networks available; `load_vgg` returns a small one of that name."""
        preset._why_unavailable.cache_clear()

        def make(*names):
            def load_vgg(network, **options):
                if network not in names:
                    raise nst.WeightsError(f"the weights of {network!r} are not available\nno answer\nDownload …")
                vgg = small()
                vgg.name = network
                return vgg

            monkeypatch.setattr(preset, "load_vgg", load_vgg)

        yield make
        preset._why_unavailable.cache_clear()

    @pytest.mark.parametrize("name", presets)
    def test_its_own(self, name, available):
        available("vgg19", "vgg19_torchvision")
        original = name in UP_TO_255 and name != "gordic"
        network = presets[name].settings(torch.rand(1, 3, 40, 48), size=48)["network"].name
        assert network == ("vgg19" if original else "vgg19_torchvision")

    def test_else_the_original(self, available):
        available("vgg19")
        with pytest.warns(
            UserWarning, match=r"made for vgg19_torchvision, .* here \(no answer\): using the original VGG-19"
        ):
            network = presets["crowson"].settings(torch.rand(1, 3, 40, 48), size=48)["network"]
        assert network.name == "vgg19"
        assert presets["jc"].settings(torch.rand(1, 3, 40, 48), size=48)["network"].name == "vgg19"  # no warning

    def test_never_another_for_a_name(self, available):
        available("vgg19")
        with pytest.raises(nst.WeightsError):
            presets["crowson"].settings(torch.rand(1, 3, 40, 48), "vgg19_torchvision")


def test_a_layer_that_the_network_lacks():
    assert presets["d2l"].on(nst.VGG("vgg16")).content == {"relu4_3": 1.0}
