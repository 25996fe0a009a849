"""Every engine against the plain float32 loop, written here once more, as the oracle."""

import contextlib
import itertools
import statistics
import subprocess
import sys
import threading
from functools import partial

import pytest
import torch
from oracles import differentiable, gram
from torch.nn.functional import conv2d, cosine_similarity, max_pool2d

import nst_helpers as nst
from nst_helpers import engine
from nst_helpers.engine import Request, by_hand, direct, graphs, kernels, moments, pick_engine, winograd
from nst_helpers.masks import parts_of

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("winograd_for_small_pictures")]

EXACT, HALF = "float32", "bfloat16"
PAIRS = [("hopper", "night"), ("coffee", "dusk"), ("rocket", "facets")]


@pytest.fixture
def picture(picture):
    """The shared one with noise: where neighbors are alike, rounding decides which of them is a pooling's maximum."""

    def make(height, width, seed=0):
        noise = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
        return (picture(height, width, seed) + 0.1 * noise).clamp(0, 1)

    return make


@pytest.fixture(scope="module")
def networks(vgg):
    """VGG-19 as it was trained, and VGG-16 with weights that keep its signals as large as they are."""
    networks = {}
    for name, pooling in itertools.product(("vgg19", "vgg16"), ("max", "average", "l2")):
        network = nst.VGG(name, pooling)
        if name == "vgg19":
            network.load_state_dict(vgg.state_dict())
        else:
            torch.manual_seed(0)
            for layer in network.children():
                if isinstance(layer, torch.nn.Conv2d):
                    torch.nn.init.kaiming_normal_(layer.weight)
                    torch.nn.init.uniform_(layer.bias, -0.2, 0.2)
        networks[name, pooling] = network
    return networks


def oracle(network, image, targets, layers, gram_layers):
    """Loss and gradient by autograd, with a Gram matrix of its own."""
    image = image.clone().requires_grad_()
    maps = nst.get_features(image, network, [*layers, *gram_layers])
    loss = loss_of({layer: maps[layer] for layer in layers}, {k: naive_gram(maps[k]) for k in gram_layers}, targets)
    return loss.item(), torch.autograd.grad(loss, image)[0]


def naive_gram(maps):
    return gram(maps[0].flatten(1))[None]


def loss_of(maps, grams, targets):
    """A loss in which every layer counts about as much."""
    loss = 0
    for found, wanted in ((maps, targets[0]), (grams, targets[1])):
        for layer, values in found.items():
            loss = loss + (values - wanted[layer]).square().mean() / wanted[layer].square().mean()
    return loss


def compare(network, engine, image, content, style, layers, gram_layers):
    """Return the relative difference of the loss, and the cosine of the gradients, taken in float64."""

    def targets(maker):
        with torch.no_grad():
            return maker(content, layers, [])[0], maker(style, [], gram_layers)[1]

    def plain(image, layers, gram_layers):
        maps = nst.get_features(image, network, [*layers, *gram_layers])
        return {k: maps[k] for k in layers}, {k: naive_gram(maps[k]) for k in gram_layers}

    expected, right = oracle(network, image, targets(plain), layers, gram_layers)
    aims = targets(partial(differentiable, engine))
    image = image.clone().requires_grad_()
    loss = loss_of(*differentiable(engine, image, layers, gram_layers), aims)
    (gradient,) = torch.autograd.grad(loss, image)
    assert gradient.shape == image.shape
    assert gradient.dtype == torch.float32
    cosine = cosine_similarity(gradient.double().flatten(), right.double().flatten(), 0).item()
    return abs(loss.item() / expected - 1), cosine


DEFAULT = ["relu4_2"], list(nst.STYLE_WEIGHTS)
LAYERS = {
    "default": DEFAULT,
    "before the ReLU": (["conv4_2"], ["conv1_1", "conv3_1"]),
    "pooled": (["pool3"], ["pool1", "pool2", "relu3_1"]),
    "before the pooling": (["relu2_2"], ["relu1_2", "conv2_2", "relu3_1"]),
    "one layer twice": (["relu2_1"], ["relu2_1"]),
    "content alone": (["relu3_2"], []),
    "style alone": ([], ["relu1_1"]),
    "the deepest": (["pool5"], ["conv5_3"]),
}


class TestExactness:
    @pytest.mark.parametrize("kind", ["direct", "winograd"])
    @pytest.mark.parametrize("pooling", ["max", "average", "l2"])
    @pytest.mark.parametrize("name", ["vgg19", "vgg16"])
    @pytest.mark.parametrize("shape", [(64, 64), (75, 130), (97, 51)])
    def test_float32(self, networks, picture, kind, name, pooling, shape):
        network = networks[name, pooling]
        difference, cosine = compare(
            network,
            pick_engine(network, kind, EXACT),
            picture(*shape),
            picture(*shape, 1),
            picture(60, 80, 2),
            *DEFAULT,
        )
        assert difference < 1e-5
        assert cosine >= 0.99999

    @pytest.mark.parametrize("kind", ["direct", "winograd"])
    @pytest.mark.parametrize("pooling", ["max", "average", "l2"])
    @pytest.mark.parametrize("which", LAYERS)
    def test_layers(self, networks, picture, kind, pooling, which):
        network = networks["vgg19", pooling]
        image, content, style = (picture(70, 85, seed) for seed in range(3))
        for dtype, most, least in ((EXACT, 1e-5, 0.99999), (HALF, 2e-3, 0.998)):
            difference, cosine = compare(
                network, pick_engine(network, kind, dtype), image, content, style, *LAYERS[which]
            )
            assert difference < most
            assert cosine >= least

    @pytest.mark.parametrize("kind", ["plain", "direct", "winograd"])
    @pytest.mark.parametrize("means", [False, True])
    @pytest.mark.parametrize("of_parts", [False, True])
    def test_parts_and_means(self, networks, picture, kind, means, of_parts):
        """Against sums over positions, weight by weight."""
        network, image = networks["vgg19", "max"], picture(45, 53)
        layers = ["relu1_1", "conv2_1", "pool2", "relu4_1"]
        masks = torch.rand(2, 1, 45, 53, generator=torch.Generator().manual_seed(0)) * (torch.arange(53) > 20)
        parts = parts_of(masks, layers, network) if of_parts else None

        def loss(moments):
            generator = torch.Generator().manual_seed(1)
            weights = {layer: torch.rand(M.shape, generator=generator) for layer, M in moments.items()}
            return sum((weights[layer] * M / M.detach().abs().mean()).sum() for layer, M in moments.items())

        def naive(maps, layer):
            F, moments = maps[0].flatten(1), []
            if means:
                F = torch.cat([F, torch.ones_like(F[:1])])
            for index in range(2 if of_parts else 1):
                t = torch.zeros(F.shape[1]) if of_parts else torch.ones(F.shape[1])
                if of_parts:
                    t[parts[layer][index].positions] = parts[layer][index].weights
                moments.append((F * t) @ F.T / t.sum())
            return torch.stack(moments)

        x = image.clone().requires_grad_()
        expected = {k: naive(maps, k) for k, maps in nst.get_features(x, network, layers).items()}
        (right,) = torch.autograd.grad(loss(expected), x)
        for dtype, most, least in ((EXACT, 1e-5, 0.99999), (HALF, 2e-2, 0.998)):
            chosen = pick_engine(network, kind, "auto" if kind == "plain" else dtype)
            _, found = differentiable(chosen, x, [], layers, means=means, parts=parts)
            (gradient,) = torch.autograd.grad(loss(found), x)
            assert cosine_similarity(gradient.flatten(), right.flatten(), 0) >= least
            for layer, M in expected.items():
                assert (found[layer] - M).abs().max() < most * M.abs().max()

    @pytest.mark.parametrize("kind", ["direct", "winograd"])
    @pytest.mark.parametrize("pair", PAIRS, ids="+".join)
    @pytest.mark.parametrize(("style_loss", "rounding"), [("gram", 5e-4), ("wasserstein", 2e-3)])
    def test_bfloat16_on_real_pictures(self, vgg, root, kind, pair, style_loss, rounding):
        """Rounding of products averages out in differences of Gram matrices, but not in roots of small eigenvalues."""
        content = nst.load_image(root / "data/content" / f"{pair[0]}.jpg", 256)
        style = nst.load_image(root / "data/styles" / f"{pair[1]}.jpg", 256)
        noise = torch.randn(content.shape, generator=torch.Generator().manual_seed(0))
        image = (content + 0.1 * noise).clamp(0, 1)
        evaluations = {}
        for name in ("plain", kind):
            chosen = pick_engine(vgg, name, "auto" if name == "plain" else HALF)
            settings = {"network": vgg, "sizes": (256,), "engine": chosen, "tv_weight": 0.3, "style_loss": style_loss}
            for low in (True, False):
                chosen.low_precision_steps = 1 if low else 0
                run = nst.StyleTransfer(content, style, **settings)
                assert chosen.low_precision == low
                evaluations[name, low] = run.evaluate(image, run.settings)
        right = evaluations["plain", False]
        for low, most, least in ((True, 2e-2, 0.99), (False, rounding, 0.9995)):
            found = evaluations[kind, low]
            cosine = cosine_similarity(found.gradient.double().flatten(), right.gradient.double().flatten(), 0)
            ratio = found.losses[0] / right.losses[0]
            print(f"{kind}, {'low' if low else 'full'} precision, {pair}: loss {ratio - 1:+.1e}, cosine {cosine:.5f}")
            assert ratio == pytest.approx(1, abs=most)
            assert cosine >= least

    def test_float16(self, networks, picture):
        """The format for GPUs, tried on the CPU, where it is slow."""
        network = networks["vgg19", "max"]
        found = compare(
            network,
            pick_engine(network, "direct", "float16"),
            picture(64, 50),
            picture(64, 50, 1),
            picture(60, 80, 2),
            *DEFAULT,
        )
        assert found[0] < 5e-3
        assert found[1] >= 0.999

    @pytest.mark.parametrize(
        "case",
        [
            {"alpha": 1e12, "beta": 1e13}, {"alpha": 1e-12, "beta": 1e-11}, {"beta": 1e8}, {"alpha": 0, "beta": 1},
            {"style_weights": {"conv5_1": 1.0}, "beta": 1e3}, {"style_loss": "mean_std"}, {"pooling": "l2"},
            {"preset": "d2l"}, {"preset": "jc"}, {"preset": "keras"}, {"preset": "gordic"},
        ],
        ids=str,
    )  # fmt: skip
    def test_float16_whatever_the_sizes_of_the_losses(self, root, case):
        """Gradients beyond 65504, and shares of losses that are a millionth of others'."""
        content = nst.load_image(root / "data/content/hopper.jpg", 96)
        style = nst.load_image(root / "data/styles/night.jpg", 96)
        preset = nst.presets[case["preset"]] if "preset" in case else None
        network = nst.load_vgg("vgg19", case.get("pooling", "max"), "cpu")
        settings = {"network": network, "sizes": (96,), "steps": (1,)}
        settings |= preset.settings(content, network, size=96) if preset else {}
        settings |= {name: value for name, value in case.items() if name not in ("preset", "pooling")}
        found, right = (
            run.evaluate(content, run.settings)
            for run in (
                nst.StyleTransfer(content, style, engine="direct", precision="float16", **settings),
                nst.StyleTransfer(content, style, engine="plain", **settings),
            )
        )
        assert found.losses[0] == pytest.approx(right.losses[0], rel=2e-3)
        got, expected = found.gradient.double(), right.gradient.double()
        assert (got - expected).norm() < 0.15 * expected.norm()  # rounded, other maxima are pooled

    def test_moments_of_many_positions(self, monkeypatch):
        maps = torch.randn(1, 32, 41, 37, generator=torch.Generator().manual_seed(0))
        monkeypatch.setattr(moments, "ROWS_ON_CPU", 256)
        rows = moments.rows_of(maps.contiguous(memory_format=torch.channels_last))
        torch.testing.assert_close(moments.mean_product(rows, rows), nst.gram_matrix(maps))
        ones = torch.ones(len(rows), 1)
        torch.testing.assert_close(moments.mean_product(ones, rows)[0], maps.mean((2, 3)), atol=1e-6, rtol=0)


class TestEndToEnd:
    @pytest.mark.parametrize(
        ("pairs", "evaluations", "most"),
        [
            pytest.param(PAIRS[:1], (100,), 1.05, marks=pytest.mark.long),
            pytest.param(PAIRS, (100, 300), 1.02, marks=pytest.mark.slow),
        ],
        ids=["one", "three"],
    )
    def test_a_painting_ends_where_float32_leads(self, vgg, root, pairs, evaluations, most):
        """As the plain engine scores it, in the mean of some pairs.

        Two float32 runs at this size, from starts that differ by 1e-4, already end up to 3 % apart.
        """
        ratios = {number: [] for number in evaluations}
        for content, style in pairs:
            pictures = (
                nst.load_image(root / f"data/content/{content}.jpg", 96),
                nst.load_image(root / f"data/styles/{style}.jpg", 96),
            )
            scores = {}
            judge = nst.StyleTransfer(*pictures, network=vgg, sizes=(96,), engine="plain")
            for dtype in (EXACT, HALF):
                settings = {"network": vgg, "sizes": (96,), "steps": evaluations[-1], "start": "content"}
                run = nst.StyleTransfer(*pictures, **settings, engine="direct", precision=dtype)
                for record in run:
                    if record.step in ratios:
                        scores[dtype, record.step] = judge.score(run.best)
            for number, found in ratios.items():
                found.append(scores[HALF, number] / scores[EXACT, number])
        print(ratios)
        assert all(statistics.mean(found) < most for found in ratios.values())


class TestConvolutions:
    @pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
    @pytest.mark.parametrize("shape", [(4, 4), (17, 30), (33, 9)])
    def test_forward_and_backward(self, dtype, most, shape):
        generator = torch.Generator().manual_seed(0)
        weight, bias = torch.randn(32, 16, 3, 3, generator=generator) / 12, torch.randn(32, generator=generator)
        x = torch.rand(1, 16, *shape, generator=generator).contiguous(memory_format=torch.channels_last)
        y = conv2d(x, weight, bias, padding=1)
        buffers = winograd.BufferPool()
        convolution = winograd.Convolution(weight, bias, dtype)

        def close(found, expected):
            assert (found.float() - expected).norm() < most * expected.norm()

        close(convolution.forward(x, buffers, dtype, relu=False)[0], y)
        rectified, kept = convolution.forward(x, buffers, dtype, relu=True)
        close(rectified, y.relu())
        close(kept, y.relu())
        pooled, argmax = convolution.forward_pooled(x, buffers, dtype)
        close(pooled, max_pool2d(y.relu(), 2))
        assert ((argmax == kernels.NOWHERE) == (pooled == 0)).all()

        for mode, behind in (
            (by_hand.OPEN, lambda x: conv2d(x, weight, bias, padding=1)),
            (by_hand.RELU, lambda x: conv2d(x, weight, bias, padding=1).relu()),
            (by_hand.MAX, lambda x: max_pool2d(conv2d(x, weight, bias, padding=1).relu(), 2)),
            (by_hand.AVERAGE, lambda x: torch.nn.functional.avg_pool2d(conv2d(x, weight, bias, padding=1).relu(), 2)),
        ):
            leaf = x.clone().requires_grad_()
            out = behind(leaf)
            g = torch.randn(out.shape, generator=generator)
            mask = {by_hand.RELU: y.relu(), by_hand.AVERAGE: y.relu()}.get(mode)
            mask = None if mask is None else mask.to(dtype, memory_format=torch.channels_last)
            if mode == by_hand.MAX:
                _, mask = winograd.Convolution(weight, bias, torch.float32).forward_pooled(x, buffers, torch.float32)
            laid_out = g.to(dtype).contiguous(memory_format=torch.channels_last)
            close(convolution.backward(laid_out, mask, mode, shape, buffers), torch.autograd.grad(out, leaf, g)[0])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_what_is_not_finite_comes_out_as_such(self, dtype):
        x = torch.rand(1, 16, 12, 12).contiguous(memory_format=torch.channels_last)
        x[0, 3, 5, 5] = torch.nan
        convolution = winograd.Convolution(torch.randn(16, 16, 3, 3), torch.zeros(16), dtype)
        assert not convolution.forward(x, winograd.BufferPool(), dtype, relu=True)[0].isfinite().all()
        assert (
            not convolution.backward(x.to(dtype), None, by_hand.OPEN, (12, 12), winograd.BufferPool()).isfinite().all()
        )

    def test_torchs_private_operation(self, networks, picture, monkeypatch):
        """It ran, or `conv2d` did, and which one makes no difference to the result."""
        ran = direct.fused_convolution_works("cpu", torch.float32)
        assert ran == (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise"))
        print("torch's fused convolution", "ran" if ran else "is not there: conv2d ran")
        calls = []
        monkeypatch.setattr(direct, "conv2d", lambda *args, **more: calls.append(1) or conv2d(*args, **more))
        network, image = networks["vgg19", "max"], picture(48, 48)
        with torch.no_grad():
            fused = pick_engine(network, "direct", EXACT).forward(image, Request(["relu5_1"], []))[0]["relu5_1"]
            assert bool(calls) != ran
            monkeypatch.setattr(direct, "fused_convolution_works", lambda kind, dtype: False)
            plain = pick_engine(network, "direct", EXACT).forward(image, Request(["relu5_1"], []))[0]["relu5_1"]
        assert len(calls) >= 11
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4)

    def test_a_private_operation_that_is_gone_is_done_without(self, monkeypatch):
        direct.fused_convolution_works.cache_clear()
        monkeypatch.setattr(direct, "conv2d", lambda *args, **more: conv2d(*args, **more) + 1)  # so that they differ
        assert not direct.fused_convolution_works("cpu", torch.float32)
        direct.fused_convolution_works.cache_clear()


class TestPasses:
    @pytest.mark.parametrize("kind", ["direct", "winograd"])
    def test_the_gradient_can_be_taken_twice(self, networks, picture, kind):
        network = networks["vgg19", "max"]
        image = picture(48, 48).requires_grad_()
        maps, grams = differentiable(pick_engine(network, kind, EXACT), image, ["relu2_1"], ["relu1_1"])
        content, style = maps["relu2_1"].square().mean(), grams["relu1_1"].square().mean()
        parts = [torch.autograd.grad(loss, image, retain_graph=True)[0] for loss in (content, style)]
        (whole,) = torch.autograd.grad(content + style, image)
        torch.testing.assert_close(sum(parts), whole, rtol=1e-4, atol=1e-6)

    def test_a_gradient_that_comes_too_late_is_refused(self, networks, picture):
        engine = pick_engine(networks["vgg19", "max"], "winograd")
        image = picture(48, 48).requires_grad_()
        loss = differentiable(engine, image, ["relu2_1"], [])[0]["relu2_1"].sum()
        engine.forward(image, Request(["relu2_1"], []))
        with pytest.raises(RuntimeError, match="before another pass of this engine"):
            loss.backward()

    def test_one_image_at_a_time(self, vgg, picture):
        with pytest.raises(ValueError, match=r"expected one image \(1, 3, H, W\), got \(2, 3, 48, 48\)"):
            pick_engine(vgg, "direct").forward(picture(48, 48).expand(2, 3, 48, 48), Request(["relu1_1"], []))

    def test_too_small(self, vgg, picture):
        for name in ("plain", "direct", "winograd"):
            with pytest.raises(ValueError, match="larger picture"):
                pick_engine(vgg, name).forward(picture(8, 40), Request(["relu5_1"], []))

    def test_what_was_returned_stays_as_it_was(self, networks, picture):
        engine = pick_engine(networks["vgg19", "max"], "winograd", EXACT)
        with torch.no_grad():
            maps = engine.forward(picture(48, 48), Request(["relu1_1", "conv2_1", "pool2"], []))[0]
            before = {layer: values.clone() for layer, values in maps.items()}
            engine.forward(picture(48, 48, 1), Request(["relu1_1", "conv2_1", "pool2"], []))
        for layer, values in maps.items():
            assert torch.equal(values, before[layer])

    def test_two_runs_in_two_threads(self, networks, picture):
        def losses(seed, into):
            run = nst.StyleTransfer(
                picture(60, 60, seed),
                picture(60, 60, 5),
                network=networks["vgg19", "max"],
                sizes=(60,),
                steps=8,
                engine="winograd",
            )
            into[seed] = [record.total for record in run]

        alone, together = {}, {}
        for seed in (0, 1):
            losses(seed, alone)
        threads = [threading.Thread(target=losses, args=(seed, together)) for seed in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert together == alone

    def test_threads_of_torch_stay_as_they_were(self, networks, picture):
        before = torch.get_num_threads()
        pick_engine(networks["vgg19", "max"], "winograd").forward(picture(48, 48), Request(["relu2_1"], []))
        seen = []
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert (torch.get_num_threads(), seen) == (before, [before])


class TestChoice:
    def test_on_this_machine(self, vgg):
        chosen = pick_engine(vgg)
        print("auto:", chosen.name)
        assert (chosen.kind, chosen.precision) == ("winograd", HALF if engine.has_bfloat16() else EXACT)
        assert chosen.name == f"{chosen.kind}, {chosen.precision}"
        assert chosen.low_precision_steps == (60 if engine.has_bfloat16() else 0)

    @pytest.mark.parametrize(
        ("features", "expected"),
        [({"avx512f": True}, EXACT), ({"avx512bf16": True}, HALF), ({"amx-bf16": True}, HALF), ({}, EXACT)],
    )
    def test_the_instruction_set_decides(self, vgg, monkeypatch, features, expected):
        monkeypatch.setattr("llvmlite.binding.get_host_cpu_features", lambda: features)
        engine.has_bfloat16.cache_clear()
        try:
            assert pick_engine(vgg).precision == expected
            assert pick_engine(vgg, precision=EXACT).precision == EXACT
        finally:
            engine.has_bfloat16.cache_clear()

    def test_the_same_on_a_busy_machine(self, root):
        """Fresh processes, two at a time with two that only spin beside them: one engine, and the same bits."""
        source = (
            "import hashlib, nst_helpers as nst\n"
            "images = (nst.load_image(f'data/{name}.jpg', 64) for name in ('content/hopper', 'styles/night'))\n"
            "run = nst.StyleTransfer(*images, network='vgg16', sizes=(64,), steps=3, device='cpu')\n"
            "list(run)\n"
            "print(run.engine.name, hashlib.sha256(run.image.numpy().tobytes()).hexdigest())"
        )
        spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
        try:
            painting = [
                subprocess.Popen([sys.executable, "-c", source], cwd=root, stdout=subprocess.PIPE) for _ in range(2)
            ]
            outcomes = {process.communicate(timeout=300)[0].splitlines()[-1] for process in painting}  # not "Fetching"
        finally:
            for process in spinning:
                process.kill()
                process.wait()
        assert len(outcomes) == 1

    def test_can_be_forced(self, vgg, picture):
        for name in ("plain", "direct", "winograd"):
            result = nst.transfer(
                picture(48, 48), picture(48, 48, 1), network=vgg, sizes=(48,), steps=2, engine=name, progress=False
            )
            assert result.engine.startswith(name)

    def test_is_said(self, vgg, picture, capsys):
        nst.transfer(picture(48, 48), picture(48, 48, 1), network=vgg, sizes=(48,), steps=1, engine="plain")
        assert "engine: plain" in capsys.readouterr().out

    def test_bad_names(self, vgg):
        with pytest.raises(ValueError, match="engine: expected one of auto, plain, direct, winograd, got 'fast'"):
            pick_engine(vgg, "fast")
        with pytest.raises(ValueError, match="precision: expected one of auto, float32, bfloat16, float16, got 'half'"):
            pick_engine(vgg, precision="half")
        with pytest.raises(ValueError, match="'plain' with precision='bfloat16' is not available"):
            pick_engine(vgg, "plain", HALF)
        with pytest.raises(ValueError, match="needs a CPU"):
            pick_engine(nst.VGG("vgg19").to("meta"), "winograd")

    def test_other_padding_is_left_to_autograd(self, picture):
        network = nst.VGG("vgg16", padding="reflect").to("cpu")
        assert pick_engine(network).name == "plain, since the padding is reflect"
        with pytest.raises(
            ValueError, match=r"engine='winograd': expected a network with padding=.zeros., got 'reflect'"
        ):
            pick_engine(network, "winograd")

    def test_without_numba(self, vgg, monkeypatch):
        monkeypatch.setattr(engine, "winograd_failure", lambda: "ImportError: no module")
        engine._warn_once.cache_clear()
        with pytest.warns(match=r'"winograd" needs numba, which fails here: ImportError: no module; using "direct"'):
            assert pick_engine(vgg).name.startswith("direct")
        assert pick_engine(vgg).name.startswith("direct")  # it is said once
        with pytest.raises(ValueError, match='engine="winograd" needs numba, which fails here: ImportError: no module'):
            pick_engine(vgg, "winograd")

    def test_a_trial_finds_what_is_wrong(self, vgg, monkeypatch):
        """On a GPU, "auto" takes the first engine that passes: not one that fails, or whose gradient is wrong."""

        class Wrong(engine.Plain):
            def backward(self, *arguments):
                return -(super().backward(*arguments).flip(3) ** 3)

        class Broken(engine.Plain):
            def forward(self, *arguments):
                raise RuntimeError("no memory")

        monkeypatch.setattr(engine, "_verdicts", {})
        assert not engine._is_right(Broken(vgg, " broken"))
        assert not engine._is_right(Wrong(vgg, " wrong"))
        assert engine._is_right(engine.Plain(vgg))

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
    def test_cuda(self, picture):
        network = nst.load_vgg(device="cuda")
        chosen = pick_engine(network)
        print("auto on CUDA:", chosen.name)
        images = [picture(64, 64, seed).cuda() for seed in range(3)]
        difference, cosine = compare(network, chosen, *images, *DEFAULT)
        assert difference < 5e-3
        assert cosine >= 0.99


class TestLowPrecision:
    @pytest.fixture
    def run(self, vgg, picture):
        chosen = pick_engine(vgg, "direct", HALF)
        chosen.low_precision_steps = 3
        settings = {"sizes": (40, 48), "steps": (5, 6), "start": "content"}
        return nst.StyleTransfer(picture(48, 48), picture(48, 48, 1), network=vgg, engine=chosen, **settings)

    def test_the_first_evaluations_at_each_size(self, run):
        assert [(record.size, run.engine.low_precision) for record in run] == [
            *[(40, True)] * 3, *[(40, False)] * 2, *[(48, True)] * 3, *[(48, False)] * 3,
        ]  # fmt: skip

    def test_the_change_keeps_the_memory_and_compares_no_gradients(self, run):
        for _ in range(3):
            run.step()
        optimizer = run.state.optimizer
        known, rows = optimizer.number_of_pairs, optimizer.order[1:].clone()
        pairs = optimizer.pairs[:, rows].clone()
        assert 0 < known < 3
        run.step()
        assert optimizer.number_of_pairs == known
        assert torch.equal(optimizer.pairs[:, rows], pairs)
        run.step()
        assert optimizer.number_of_pairs == known + 1

    def test_best_is_of_full_precision_after_the_change(self, run):
        for _ in range(3):
            run.step()
        full = run.step()
        assert run.best_loss == full.total


class TestFloat16Range:
    """float16 ends at 65504: sums are taken in float32, and gradients scaled."""

    def test_gram_sums_are_taken_in_float32(self):
        rows = torch.full((70_000, 4), 60.0, dtype=torch.float16)
        request = Request([], ["relu1_1"], means=True)
        found = moments.moments(rows, request, "relu1_1")
        assert found.dtype == torch.float32
        torch.testing.assert_close(found[0, :4, :4], torch.full((4, 4), 3600.0))
        torch.testing.assert_close(found[0, :4, 4], torch.full((4,), 60.0))

    @pytest.mark.parametrize("size", [64, 256, pytest.param(1024, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("pair", PAIRS[:2], ids="+".join)
    @pytest.mark.filterwarnings("ignore:.*enlarged")
    def test_headroom(self, vgg, root, monkeypatch, size, pair):
        """Gradients, relative to their root mean square where a block begins, at which `_rescaled` makes it 1.

        Measured: at most 70 (250 at the image) at 64 px, and 170 (960) at 1024 px. If they grew as the square root of
        the number of pixels from there, 4096 px would still leave a factor of 16.
        """
        peaks, begun = [], {}
        backward = direct.DirectConvolution.backward

        def recorded(convolution, g, mask, mode, shape, buffers):
            out = backward(convolution, g, mask, mode, shape, buffers)
            unit = begun.setdefault(shape, g.square().mean().sqrt())
            peaks.append((max(g.abs().max(), out.abs().max()) / unit).item())
            return out

        monkeypatch.setattr(direct.DirectConvolution, "backward", recorded)
        content = nst.load_image(root / "data/content" / f"{pair[0]}.jpg", size)
        style = nst.load_image(root / "data/styles" / f"{pair[1]}.jpg", size)
        layers = dict.fromkeys(nst.STYLE_WEIGHTS, 0.2)
        settings = {"network": vgg, "sizes": (size,), "engine": "direct", "precision": EXACT, "style_weights": layers}
        run = nst.StyleTransfer(content, style, **settings)
        run.evaluate(run.image, run.settings)
        print(f"{size} px, {pair}: peaks", [round(peak) for peak in peaks])
        assert len(peaks) == 13
        assert 1 < max(peaks) < 65504 / 16 / 4

    @pytest.mark.parametrize("size", [64, 128, 512, 2048, 4096])
    def test_the_scale_does_not_depend_on_the_size(self, networks, picture, size):
        """Losses are means, so that gradients fall with the number of pixels; scaled, they are the same numbers."""
        engine = pick_engine(networks["vgg19", "max"], "direct", "float16")
        maps, grams, tape = engine.forward(picture(64, 64), Request(*DEFAULT))
        by_maps, by_grams = ({layer: x / x.numel() for layer, x in part.items()} for part in (maps, grams))
        right = engine.backward(tape, by_maps, by_grams)
        factor = (64 / size) ** 2
        found = engine.backward(tape, *({k: x * factor for k, x in part.items()} for part in (by_maps, by_grams)))
        assert found.isfinite().all()
        assert (found / factor - right).norm() < 1e-2 * right.norm()


class TestGraph:
    """The logic around `torch.cuda`, which is pretended: a graph replays what the function did to its tensors."""

    class Events:
        waited = 0

        def record(self):
            pass

        def synchronize(self):
            TestGraph.Events.waited += 1

    @pytest.fixture
    def graph(self, monkeypatch):
        class CUDAGraph:
            def replay(self):
                self.replayed = getattr(self, "replayed", 0) + 1

        monkeypatch.setattr(torch.cuda, "CUDAGraph", CUDAGraph)
        monkeypatch.setattr(torch.cuda, "graph", lambda graph, capture_error_mode: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "Event", self.Events)
        return graphs.Graph(torch.device("cuda"))

    def test_is_captured_after_a_warm_up_and_replayed(self, graph):
        calls = []

        def step():
            calls.append(1)
            return (torch.tensor(float(len(calls))),)

        self.Events.waited = 0
        outputs = [graph.run("key", step)[0] for _ in range(graphs.WARM_UP + 4)]
        assert len(calls) == graphs.WARM_UP + 1  # the last is the capture
        assert graph._graph.replayed == 4
        assert self.Events.waited == graphs.WARM_UP + 4 - graphs.AHEAD
        assert len({output.data_ptr() for output in outputs[graphs.WARM_UP :]}) == 4  # copies
        graph.run("another", step)
        assert len(calls) == graphs.WARM_UP + 2
        assert graph._graph is None

    def test_a_failed_capture_is_said_once(self, graph):
        def step():
            if len(calls) == graphs.WARM_UP and not captured:
                captured.append(1)
                raise RuntimeError("operation not permitted when stream is capturing")
            calls.append(1)
            return (torch.ones(()),)

        calls, captured = [], []
        with pytest.warns(UserWarning, match="cannot be captured as a CUDA graph.*: operation not permitted") as said:
            outputs = [graph.run("key", step) for _ in range(graphs.WARM_UP + 5)]
        assert len(said) == 1
        assert len(calls) == len(outputs) == graphs.WARM_UP + 5

    def test_on_other_devices_the_function_is_called(self):
        graph = graphs.Graph(torch.device("cpu"))
        assert [graph.run("key", lambda: (1,)) for _ in range(9)] == [(1,)] * 9


@pytest.mark.parametrize(
    ("capability", "expected"), [((6, 1), []), ((7, 5), ["float16"]), ((8, 0), [HALF]), ((9, 0), [HALF])]
)
def test_the_card_decides(monkeypatch, capability, expected):
    """A T4 is 7.5, an H100 9.0. What is chosen is the first that gives the right gradient there."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with torch.device("meta"):
        network = nst.VGG("vgg19")
    monkeypatch.setattr(nst.VGG, "device", torch.device("cuda"))
    built = [build() for build in engine._builders(network, "auto", "auto")]
    assert [one.precision for one in built] == [*expected, EXACT, EXACT]
    assert [one.kind for one in built] == ["direct"] * (len(expected) + 1) + ["plain"]
