"""VGG-16 and VGG-19 (Simonyan and Zisserman 2015) as feature extractors: layers by name, no classifier."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from . import validate
from .files.weights import load_weights
from .images import IMAGENET_MEAN, IMAGENET_STD, channels

BLOCKS = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}  # convolutions in each of the five blocks
CHANNELS = (64, 128, 256, 512, 512)  # of each block's feature maps
PADDINGS = ("zeros", "reflect", "replicate")
INPUTS = ("standardized", "255")


class Stage(NamedTuple):
    """The names of a convolution, of its ReLU and, at the end of a block, of its pooling."""

    conv: str
    relu: str
    pool: str | None


class L2Pool2d(nn.Module):
    """The root of the mean square of each 2 × 2 window: (B, C, H, W) → (B, C, H/2, W/2), rounded down."""

    def forward(self, x: Tensor) -> Tensor:
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

    `stages`, `stride`, `channels`, `block` and `min_side` tell its geometry; no other module reads layers' names.
    """

    def __init__(self, name: str, pooling: str = "max", padding: str = "zeros", inputs: str = "standardized"):
        super().__init__()
        self.name, self.note = validate.one_of("network", name, BLOCKS), ""
        self.pooling = validate.one_of("pooling", pooling, POOLINGS)
        self.padding = validate.one_of("padding", padding, PADDINGS)
        self.inputs = validate.one_of("inputs", inputs, INPUTS)
        channels_in = 3
        for block, (convolutions, channels_out) in enumerate(zip(BLOCKS[name], CHANNELS, strict=True), start=1):
            for index in range(1, convolutions + 1):
                convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, padding_mode=padding)
                self.add_module(f"conv{block}_{index}", convolution)
                self.add_module(f"relu{block}_{index}", nn.ReLU())
                channels_in = channels_out
            self.add_module(f"pool{block}", POOLINGS[pooling]())
        self.requires_grad_(False)
        self._keep_constants()

    def _keep_constants(self) -> None:
        """Keep mean and standard deviation as buffers: copied at each evaluation, they would hold up a GPU."""
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, channels(values, next(self.parameters())), persistent=False)

    def _apply(self, fn, recurse: bool = True):
        super()._apply(fn, recurse)
        self._keep_constants()  # exact in every format, where a conversion would round twice
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are, and so the feature maps."""
        return self.mean.device

    @property
    def kind(self) -> str:
        """What its features depend on: its name, and pooling, padding and inputs where they are not the default."""
        choices = ((self.pooling, "max"), (self.padding, "zeros"), (self.inputs, "standardized"))
        return ", ".join([self.name, *(value for value, default in choices if value != default)])

    @property
    def stages(self) -> list[Stage]:
        """The convolutions in order, each with its ReLU and, at the end of a block, the block's pooling."""
        names = [*self._modules, ""]
        return [
            Stage(*names[i : i + 2], names[i + 2] if names[i + 2].startswith("pool") else None)
            for i in range(len(names) - 2)
            if names[i].startswith("conv")
        ]

    @property
    def min_side(self) -> int:
        """The shortest side of a picture, in pixels, that reaches the last block's layers."""
        return self.stride(self.stages[-1].conv)

    def block(self, layer: str) -> int:
        """Return the number of a layer's block, from 1; a pooling ends its block."""
        self.check_layers(layer)
        return int(layer[4])

    def stride(self, layer: str) -> int:
        """Return how many pixels apart neighboring positions of a layer are: a picture's H × W becomes H/s × W/s."""
        return 2 ** (self.block(layer) - (not layer.startswith("pool")))

    def channels(self, layer: str) -> int:
        """Return the number of channels of a layer's feature maps."""
        return CHANNELS[self.block(layer) - 1]

    def closest(self, layer: str) -> str:
        """Return a layer, or where the network lacks it, as VGG-16 lacks conv4_4, the block's last of the same kind."""
        if layer in self._modules:
            return layer
        return [name for name in self._modules if name.startswith(layer[:6])][-1]

    def normalize(self, image: Tensor) -> Tensor:
        """Return an image in [0, 1], on the network's device, as `forward` takes it; unlike `preprocess`, unchecked."""
        normalized = (image - self.mean) / self.std
        return normalized if self.inputs == "standardized" else 255 * self.std * normalized

    def forward(self, normalized: Tensor, layers: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Return {layer: feature maps (B, C, H', W')} for normalized images (B, 3, H, W).

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
            hint = validate.nearest(unknown[0], self._modules)
            raise ValueError(
                f"{self.name} has no layer {', '.join(map(repr, unknown))}{hint}; it has {', '.join(self._modules)}"
            )
        return [name for name in self._modules if name in layers]


def pick_device() -> torch.device:
    """Return CUDA if there is one, else MPS (Apple), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def load_vgg(
    network: str | VGG = "auto",
    pooling: str = "max",
    device: torch.device | str | None = None,
    *,
    padding: str = "zeros",
    inputs: str = "standardized",
) -> VGG:
    """Return a pretrained, frozen VGG.

    Args:
        network: "vgg16", "vgg19", or "auto": VGG-19 if its weights are cached or can be had, else VGG-16. A `VGG` is
            returned as it is, moved to `device` if one is given.
        pooling, padding, inputs: see `VGG`.
        device: where it runs; default CUDA, then MPS, then the CPU.

    `.name` says which network it is and `.note` why. Raises ValueError for unknown names, and WeightsError where the
    weights cannot be had: an explicit name never falls back.
    """
    if isinstance(network, VGG):
        return network if device is None else network.to(device)
    weights = load_weights(network)
    vgg = VGG(weights.network, pooling, padding, inputs)
    for index, stage in enumerate(vgg.stages):
        state = {kind: weights.tensors[f"{index}.{kind}"] for kind in ("weight", "bias")}
        getattr(vgg, stage.conv).load_state_dict(state)
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
        image: (B, 3, H, W) in [0, 1], RGB, not normalized: `VGG.normalize` is called here. H and W are at least 16 for
            layers of the fifth block.
        network: from `load_vgg`; the image is copied to its device.
        layers: names such as "conv4_2" (before its ReLU), "relu4_2" (after it) or "pool4".

    Feature maps are (B, C, H/2ᵏ, W/2ᵏ), rounded down, behind k poolings. Raises ValueError for a layer that the
    network lacks, for values clearly outside [0, 1], and for pictures too small.
    """
    validate.check_image(image)
    return network(network.normalize(image.to(network.device)), layers)
