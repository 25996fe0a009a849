import pytest
import torch
from torch import nn
from torch.nn import functional

import nst_helpers as nst
from nst_helpers.files.weights import load_weights
from nst_helpers.vgg import VGG


class TestArchitecture:
    @pytest.mark.parametrize(("name", "convolutions"), [("vgg16", 13), ("vgg19", 16)])
    def test_is_torchvisions(self, name, convolutions):
        from torchvision import models

        theirs = getattr(models, name)(weights=None).features
        ours = VGG(name)
        assert len(ours) == len(theirs)
        assert sum(isinstance(layer, nn.Conv2d) for layer in ours) == convolutions
        for layer, their_layer in zip(ours, theirs, strict=True):
            assert type(layer) is type(their_layer)
            if isinstance(layer, nn.Conv2d):
                layer.load_state_dict(their_layer.state_dict())
        x = torch.randn(2, 3, 37, 50)
        torch.testing.assert_close(ours(x)["pool5"], theirs(x))

    def test_names(self):
        assert list(VGG("vgg16")._modules)[:6] == ["conv1_1", "relu1_1", "conv1_2", "relu1_2", "pool1", "conv2_1"]
        assert "conv5_4" in VGG("vgg19")._modules
        assert "conv5_4" not in VGG("vgg16")._modules

    def test_is_frozen_and_has_no_classifier(self, vgg):
        assert not any(parameter.requires_grad for parameter in vgg.parameters())
        assert not any(isinstance(module, nn.Linear) for module in vgg.modules())

    def test_average_pooling(self, vgg, picture):
        average = nst.load_vgg("vgg19", pooling="average", device="cpu")
        features = nst.get_features(picture(), average, ["relu1_2", "pool1"])
        torch.testing.assert_close(features["pool1"], functional.avg_pool2d(features["relu1_2"], 2))
        features = nst.get_features(picture(), vgg, ["relu1_2", "pool1"])
        torch.testing.assert_close(features["pool1"], functional.max_pool2d(features["relu1_2"], 2))
        with pytest.raises(ValueError, match="pooling: expected"):
            nst.load_vgg("vgg19", pooling="mean")


class TestGetFeatures:
    def test_shapes_and_order(self, vgg, picture):
        features = nst.get_features(picture(50, 75).expand(2, -1, -1, -1), vgg, ["relu5_1", "conv4_2", "relu1_1"])
        shapes = {layer: tuple(maps.shape) for layer, maps in features.items()}
        assert list(shapes) == ["relu1_1", "conv4_2", "relu5_1"]
        assert shapes == {"relu1_1": (2, 64, 50, 75), "conv4_2": (2, 512, 6, 9), "relu5_1": (2, 512, 3, 4)}

    def test_normalizes_inside(self, vgg, picture):
        x = nst.preprocess(picture())
        expected = functional.conv2d(x, vgg.conv1_1.weight, vgg.conv1_1.bias, padding=1)
        torch.testing.assert_close(nst.get_features(picture(), vgg, ["conv1_1"])["conv1_1"], expected)

    def test_a_stored_map_survives_its_relu(self, vgg, picture):
        features = nst.get_features(picture(), vgg, ["conv4_2", "relu4_2"])
        assert features["conv4_2"].min() < 0
        torch.testing.assert_close(features["relu4_2"], features["conv4_2"].clamp_min(0))
        torch.testing.assert_close(nst.get_features(picture(), vgg, ["conv4_2"])["conv4_2"], features["conv4_2"])

    def test_runs_no_further_than_needed(self, vgg, picture):
        ran = []
        hooks = [
            layer.register_forward_hook(lambda *_, name=name: ran.append(name)) for name, layer in vgg.named_children()
        ]
        nst.get_features(picture(), vgg, ["relu2_1", "conv1_1"])
        for hook in hooks:
            hook.remove()
        assert ran[-1] == "relu2_1"

    def test_recognizes_what_it_was_trained_on(self, vgg, picture):
        """Pretrained features of a picture and of its mirror image are alike, those of another picture are not."""
        first, second = picture(64, 64), picture(64, 64, seed=3)

        def code(image):
            return nst.get_features(image, vgg, ["relu5_3"])["relu5_3"].mean((2, 3))

        alike = functional.cosine_similarity(code(first), code(first.flip(3)))
        different = functional.cosine_similarity(code(first), code(second))
        assert alike > different

    def test_l2_pooling(self, picture):
        network = nst.VGG("vgg16", pooling="l2")
        maps = nst.get_features(picture(33, 40), network, ["relu1_2", "pool1"])
        windows = maps["relu1_2"][..., :32, :].unfold(2, 2, 2).unfold(3, 2, 2)
        root = windows.square().mean((4, 5)).sqrt()
        assert (maps["pool1"] - root).abs().max() <= 1e-3 + 1e-6  # of 1e-6 under the root, at 0
        large = root > 0.1
        torch.testing.assert_close(maps["pool1"][large], root[large], atol=0, rtol=1e-4)

    @pytest.mark.parametrize("padding", ["zeros", "reflect", "replicate"])
    def test_padding(self, vgg, picture, padding):
        network = nst.load_vgg(device="cpu", padding=padding)
        mode = {"zeros": "constant"}.get(padding, padding)
        x = functional.pad(nst.preprocess(picture()), (1, 1, 1, 1), mode=mode)
        expected = functional.conv2d(x, vgg.conv1_1.weight, vgg.conv1_1.bias)
        torch.testing.assert_close(nst.get_features(picture(), network, ["conv1_1"])["conv1_1"], expected)

    def test_bad_pooling_and_padding(self):
        with pytest.raises(ValueError, match="pooling: expected one of max, average, l2, got 'mean'"):
            nst.VGG("vgg16", pooling="mean")
        with pytest.raises(ValueError, match="padding: expected one of zeros, reflect, replicate, got 'edge'"):
            nst.VGG("vgg16", padding="edge")

    def test_the_nearest_names_are_suggested(self, vgg, picture):
        with pytest.raises(ValueError, match=r"got 'relu4-2' .did you mean 'relu4_2' or"):
            nst.get_features(picture(), vgg, ["relu4-2"])

    def test_the_smallest_picture(self, vgg, picture):
        assert nst.get_features(picture(16, 16), vgg, ["relu5_1"])["relu5_1"].shape == (1, 512, 1, 1)
        with pytest.raises(ValueError, match=r"larger picture for relu5_1, got \(15, 40\) px"):
            nst.get_features(picture(15, 40), vgg, ["relu5_1"])

    def test_bad_input(self, vgg, picture):
        with pytest.raises(ValueError, match=r"expected layers of vgg19 .*got 'conv9_9'"):
            nst.get_features(picture(), vgg, ["relu1_1", "conv9_9"])
        with pytest.raises(ValueError, match="normalized already"):
            nst.get_features(nst.preprocess(picture()), vgg, ["relu1_1"])
        with pytest.raises(ValueError, match="divide by 255"):
            nst.get_features(picture() * 255, vgg, ["relu1_1"])


class TestOriginal:
    """VGG-19 as published, in float64: BGR from 0 to 255 minus the mean, and the weights as they are stored."""

    MEAN, SCALE = (103.939, 116.779, 123.68), 255 * (0.229 + 0.224 + 0.225) / 3

    @pytest.mark.parametrize("pooling", ["max", "average"])
    def test_feature_maps_are_the_originals(self, root, pooling):
        network = nst.load_vgg("vgg19", pooling, "cpu").double()
        fields = nst.receptive_fields(network)
        image = nst.load_image(root / "data/content/hopper.jpg", 224).double()
        ours = nst.get_features(image, network, [stage.relu for stage in network.stages])
        weights = load_weights("vgg19")
        x = 255 * image.flip(1) - torch.tensor(self.MEAN, dtype=torch.float64).view(3, 1, 1)
        for index, stage in enumerate(network.stages):
            weight, bias = (weights[f"{index}.{kind}"].double() for kind in ("weight", "bias"))
            x = functional.conv2d(x, weight, bias, padding=1).clamp_min(0)
            difference = (self.SCALE * ours[stage.relu] - x).abs()
            assert difference.norm() < 1e-3 * x.norm()
            assert difference.max() < 0.03 * x.square().mean().sqrt()  # at the border, as `standardized_input` says
            margin = -(-(fields[stage.relu] // 2 + 1) // network.stride(stage.relu))
            inside = difference[..., margin:-margin, margin:-margin]
            assert inside.numel() or stage.relu > "relu5_1"
            assert not (inside > 1e-5 * x.abs().max()).any()
            if stage.pool:
                x = functional.max_pool2d(x, 2) if pooling == "max" else functional.avg_pool2d(x, 2)


def test_receptive_fields():
    """The gradient of one position reaches as far as is said, and no further."""
    torch.manual_seed(0)
    network = nst.VGG("vgg19", pooling="average")
    fields = nst.receptive_fields(network)
    assert list(fields) == list(network._modules)
    image = torch.rand(1, 3, 120, 120, requires_grad=True)
    for layer in ("conv1_1", "pool1", "relu2_1", "conv3_2", "pool3", "relu4_1"):
        feature_maps = network(image, [layer])[layer]
        middle = feature_maps.shape[2] // 2
        (gradient,) = torch.autograd.grad(feature_maps[0, :, middle, middle].sum(), image)
        rows = gradient[0].abs().sum((0, 2)).nonzero()
        assert rows.max() - rows.min() + 1 == fields[layer]
