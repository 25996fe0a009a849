"""VGG-16 and VGG-19 (Simonyan and Zisserman 2015) as feature extractors: layers by name, no classifier."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from . import checks
from .images import IMAGENET_STD, channels, preprocess
from .weights import load_weights

BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}  # convolutions in each of the five blocks
CHANNELS = (64, 128, 256, 512, 512)  # of each block's feature maps
PADDINGS = ("zeros", "reflect", "replicate")
INPUTS = ("standardized", "255")


class L2Pool2d(nn.Module):
    """`l2_pool2d` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return l2_pool2d(x)


def l2_pool2d(x: Tensor) -> Tensor:
    """Return the root of the mean square of each 2 × 2 window: (B, C, H, W) → (B, C, H/2, W/2), rounded down."""
    return (avg_pool2d(x.square(), 2) + 1e-6).sqrt()  # a root has no gradient at 0, and a wild one close by


POOLINGS = {"max": lambda: nn.MaxPool2d(2), "average": lambda: nn.AvgPool2d(2), "l2": L2Pool2d}


class VGG(nn.Sequential):
    """The convolutional part of VGG, frozen, its layers named conv1_1, relu1_1, conv1_2, … pool5.

    Args:
        name: "vgg16" or "vgg19".
        pooling: "max", as it was trained; "average": slightly more appealing, say Gatys et al. 2016 (section 2); or
            "l2", the root of the mean square, between the two.
        padding: what convolutions see beyond the border: "zeros", as it was trained; "reflect" or "replicate", which
            have no dark frame around the picture.
        inputs: "standardized", as `preprocess` does and as it was trained; or "255", where values are 255 times as
            large, less the mean, as some published recipes feed them. The pretrained weights do not expect that.

    conv4_2 is a layer's value before its ReLU, relu4_2 after it. No layer works in place, so a stored feature map
    stays what it was. Weights are left as torch initializes them: `load_vgg` returns the pretrained network.
    """

    def __init__(self, name: str, pooling: str = "max", padding: str = "zeros", inputs: str = "standardized"):
        super().__init__()
        self.name, self.note = name, ""
        self.pooling = checks.one_of("pooling", pooling, POOLINGS)
        self.padding = checks.one_of("padding", padding, PADDINGS)
        self.inputs = checks.one_of("inputs", inputs, INPUTS)
        channels_in = 3
        for block, (convolutions, channels_out) in enumerate(zip(BLOCKS[name], CHANNELS, strict=True), start=1):
            for index in range(1, convolutions + 1):
                convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, padding_mode=padding)
                self.add_module(f"conv{block}_{index}", convolution)
                self.add_module(f"relu{block}_{index}", nn.ReLU())
                channels_in = channels_out
            self.add_module(f"pool{block}", POOLINGS[pooling]())
        self.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and so the feature maps."""
        return self.conv1_1.weight.device

    @property
    def kind(self) -> str:
        """What its features depend on: its name, and pooling, padding and inputs where they are not the default."""
        choices = ((self.pooling, "max"), (self.padding, "zeros"), (self.inputs, "standardized"))
        return ", ".join([self.name, *(value for value, default in choices if value != default)])

    def preprocess(self, image: Tensor) -> Tensor:
        """Return an image in [0, 1] as `forward` takes it, on the network's device."""
        normalized = preprocess(image.to(self.device))
        return normalized if self.inputs == "standardized" else 255 * channels(IMAGENET_STD, normalized) * normalized

    def forward(self, normalized: Tensor, layers: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Return {layer: feature maps (B, C, H', W')} for preprocessed images (B, 3, H, W).

        Runs no further than the deepest of `layers` (default: all of them).
        """
        wanted = self.check_layers(layers if layers is not None else self._modules)
        feature_maps = {}
        x = normalized
        for name, layer in self.named_children():
            if name.startswith("pool") and min(x.shape[-2:]) < 2:
                raise ValueError(f"a picture of {tuple(normalized.shape[-2:])} px is too small for {wanted[-1]}")
            x = layer(x)
            if name in wanted:
                feature_maps[name] = x
                if len(feature_maps) == len(wanted):
                    break
        return feature_maps

    def check_layers(self, layers: Iterable[str]) -> list[str]:
        """Return `layers` in the network's order, each once; a name that it lacks raises a ValueError."""
        layers = [layers] if isinstance(layers, str) else list(layers)
        unknown = [layer for layer in layers if layer not in self._modules]
        if unknown:
            hint = checks.nearest(unknown[0], self._modules)
            raise ValueError(
                f"{self.name} has no layer {', '.join(map(repr, unknown))}{hint}; it has {', '.join(self._modules)}"
            )
        return [name for name in self._modules if name in layers]


def poolings_before(layer: str) -> int:
    """Return how often a layer's feature maps were halved: 0 for relu1_2, 1 for pool1."""
    return int(layer[4]) - (not layer.startswith("pool"))


def pick_device() -> torch.device:
    """Return CUDA if there is one, else MPS (Apple), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def load_vgg(
    network: str = "auto",
    pooling: str = "max",
    device: torch.device | str | None = None,
    *,
    padding: str = "zeros",
    inputs: str = "standardized",
) -> VGG:
    """Return a pretrained, frozen VGG.

    Args:
        network: "vgg16", "vgg19", or "auto": VGG-19 if its weights are cached or can be had, else VGG-16.
        pooling, padding, inputs: as `VGG` has them.
        device: where it runs; default CUDA, then MPS, then the CPU.

    `.name` says which network it is and `.note` why. Raises ValueError for unknown names, and WeightsError where the
    weights cannot be had: an explicit name never falls back.
    """
    weights = load_weights(network)
    vgg = VGG(weights.network, pooling, padding, inputs)
    convolutions = [layer for layer in vgg if isinstance(layer, nn.Conv2d)]
    for index, layer in enumerate(convolutions):
        layer.load_state_dict({kind: weights.tensors[f"{index}.{kind}"] for kind in ("weight", "bias")})
    vgg.note = weights.note
    return vgg.to(pick_device() if device is None else device)


def receptive_fields(network: VGG) -> dict[str, int]:
    """Return {layer: the side, in pixels, of the square of the image that one position of it depends on}.

    A layer with a k × k window adds k − 1 times the distance, in pixels, of the positions that it looks at; a stride
    multiplies that distance. The square is cut off where it reaches beyond the image's border.
    """
    field, distance, fields = 1, 1, {}
    for name in network._modules:
        window, stride = {"conv": (3, 1), "relu": (1, 1), "pool": (2, 2)}[name[:4]]
        field, distance = field + (window - 1) * distance, distance * stride
        fields[name] = field
    return fields


def get_features(image: Tensor, network: VGG, layers: Iterable[str]) -> dict[str, Tensor]:
    """Return {layer: feature maps} of an image, in the order of the network's layers.

    Args:
        image: (B, 3, H, W) in [0, 1], RGB, not normalized: `VGG.preprocess` is called here. H and W are at least 16 for
            layers of the fifth block.
        network: from `load_vgg`; the image is copied to its device.
        layers: names such as "conv4_2" (before its ReLU), "relu4_2" (after it) or "pool4".

    Feature maps are (B, C, H/2ᵏ, W/2ᵏ), rounded down, behind k poolings. Raises ValueError for a layer that the
    network lacks, for values clearly outside [0, 1], and for pictures too small.
    """
    return network(network.preprocess(image), layers)
