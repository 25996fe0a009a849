"""VGG-16 and VGG-19 (Simonyan and Zisserman 2015) as feature extractors: named layers, no classifier."""

from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from . import validate
from .files.surroundings import exact, isolated, pick_device
from .files.weights import NOTES, load_weights, standardized_input
from .images import IMAGENET_MEAN, IMAGENET_STD, channels

BLOCKS = {  # convolutions in each block; the weights are in `files.weights`
    "vgg19": (2, 2, 4, 4, 4),  # the original network of Simonyan and Zisserman, which Gatys et al. used
    "vgg19_torchvision": (2, 2, 4, 4, 4),  # retrained
    "vgg16": (2, 2, 3, 3, 3),  # torchvision's
}
CHANNELS = (64, 128, 256, 512, 512)  # of each block's feature maps
PADDINGS = ("zeros", "reflect", "replicate")


class Stage(NamedTuple):
    """The names of a convolution, its ReLU and, at the end of a block, its pooling."""

    conv: str
    relu: str
    pool: str  # "" inside a block


class L2Pool2d(nn.Module):
    """Root mean square of each 2 × 2 window: (B, C, H, W) → (B, C, H/2, W/2), rounded down."""

    def forward(self, x: Tensor) -> Tensor:
        return (avg_pool2d(x.square(), 2) + 1e-6).sqrt()  # the gradient of the root is infinite at 0


POOLINGS = {"max": lambda: nn.MaxPool2d(2), "average": lambda: nn.AvgPool2d(2), "l2": L2Pool2d}


class VGG(nn.Sequential):
    """The convolutional part of VGG, frozen, its layers named conv1_1, relu1_1, conv1_2, … pool5.

    Args:
        name: "vgg19", "vgg19_torchvision" or "vgg16", see `load_vgg`.
        pooling: "max", as in training; "average", slightly more appealing according to Gatys et al. 2016 (section 2);
            or "l2", the root mean square, between the two.
        padding: of the convolutions: "zeros", as in training; "reflect" or "replicate", which avoid a dark frame around
            the picture.

    conv4_2 is the output of a convolution, relu4_2 that of its ReLU. No layer works in place, so that a stored feature
    map is not overwritten. The weights are randomly initialized; `load_vgg` returns the pretrained network.

    `stages`, `stride`, `channels`, `block` and `min_side` describe the geometry. No other module parses layer names.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, pooling: str = "max", padding: str = "zeros"):
        super().__init__()
        self.name = validate.one_of("network", name, BLOCKS)
        self.note = NOTES[name]  # which weights `load_vgg` gives it, and whose
        self.pooling = validate.one_of("pooling", pooling, POOLINGS)
        self.padding = validate.one_of("padding", padding, PADDINGS)
        channels_in = 3
        for block, (convolutions, channels_out) in enumerate(zip(BLOCKS[name], CHANNELS, strict=True), start=1):
            for index in range(1, convolutions + 1):
                convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1, padding_mode=cast(Any, padding))
                self.add_module(f"conv{block}_{index}", convolution)
                self.add_module(f"relu{block}_{index}", nn.ReLU())
                channels_in = channels_out
            self.add_module(f"pool{block}", POOLINGS[pooling]())
        self.requires_grad_(False).float()  # whatever torch's default dtype is

    def _keep_constants(self) -> None:
        """Store mean and standard deviation as buffers: copying them at each evaluation would synchronize a GPU."""
        for name, values in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            self.register_buffer(name, channels(values, next(self.parameters())), persistent=False)

    def _apply(self, fn, recurse: bool = True):
        super()._apply(fn, recurse)
        self._keep_constants()  # from Python floats: converting the buffers would round twice
        return self

    @property
    def device(self) -> torch.device:
        """The device of the weights, and so of the feature maps."""
        return self.mean.device

    @property
    def kind(self) -> str:
        """The name, followed by pooling and padding if they are not the defaults: "vgg19, average"."""
        choices = ((self.pooling, "max"), (self.padding, "zeros"))
        return ", ".join([self.name, *(value for value, default in choices if value != default)])

    @property
    def stages(self) -> list[Stage]:
        """The convolutions in order, each with its ReLU and, at the end of a block, its pooling."""
        names = zip(self._modules, [*self._modules][1:], [*self._modules, ""][2:], strict=False)
        return [
            Stage(conv, relu, after if after.startswith("pool") else "")
            for conv, relu, after in names
            if conv.startswith("conv")
        ]

    @property
    def min_side(self) -> int:
        """The smallest side of a picture, in pixels, that the layers of the last block need."""
        return self.stride(self.stages[-1].conv)

    def block(self, layer: str) -> int:
        """Return the number of a layer's block, from 1; pool1 belongs to block 1."""
        self.check_layers(layer)
        return int(layer[4])

    def stride(self, layer: str) -> int:
        """Return the distance between neighboring positions in pixels: a layer has H/stride × W/stride positions."""
        return 2 ** (self.block(layer) - (not layer.startswith("pool")))

    def channels(self, layer: str) -> int:
        """Return the number of channels of a layer's feature maps."""
        return CHANNELS[self.block(layer) - 1]

    def closest(self, layer: str) -> str:
        """Return the layer, or the last of its kind in the block if the network lacks it (VGG-16 has no conv4_4)."""
        if layer in self._modules:
            return layer
        return [name for name in self._modules if name.startswith(layer[:6])][-1]

    def normalize(self, image: Tensor) -> Tensor:
        """Return the input of `forward` for an image in [0, 1] on the network's device. Its values are not checked."""
        return (image - self.mean) / self.std

    @exact
    def forward(self, normalized: Tensor, layers: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Return {layer: feature maps (B, C, H', W')} of normalized images (B, 3, H, W).

        Stops after the deepest of `layers` (default: all layers).
        """
        wanted = self.check_layers(layers if layers is not None else self._modules)
        feature_maps = {}
        x = normalized
        for name, layer in self.named_children():
            if name.startswith("pool") and min(x.shape[-2:]) < 2:
                raise ValueError(f"expected a larger picture for {wanted[-1]}, got {tuple(normalized.shape[-2:])} px")
            x = layer(x)
            if name in wanted:
                feature_maps[name] = x
                if len(feature_maps) == len(wanted):
                    break
        return feature_maps

    def check_layers(self, layers: Iterable[str]) -> list[str]:
        """Return `layers` in the network's order, without duplicates; raises ValueError for unknown names."""
        layers = [layers] if isinstance(layers, str) else list(layers)
        unknown = [layer for layer in layers if layer not in self._modules]
        if unknown:
            hint = validate.nearest(unknown[0], self._modules)
            names = ", ".join(map(repr, unknown))
            raise ValueError(f"expected layers of {self.name} ({', '.join(self._modules)}), got {names}{hint}")
        return [name for name in self._modules if name in layers]


@isolated
def load_vgg(
    network: str | VGG = "vgg19",
    pooling: str = "max",
    device: torch.device | str | None = None,
    *,
    padding: str = "zeros",
) -> VGG:
    """Return a pretrained, frozen VGG.

    Args:
        network: "vgg19", the original network of Simonyan and Zisserman 2015, which Gatys et al. used, its
            preprocessing folded into the first layer (`standardized_input`); or "vgg19_torchvision" or "vgg16", which
            torchvision retrained. A `VGG` is returned as it is, moved to `device` if one is given.
        pooling, padding: see `VGG`.
        device: default CUDA, then MPS, then the CPU.

    Raises ValueError for unknown names, and WeightsError if the weights are not available.
    """
    if isinstance(network, VGG):
        if next(network.parameters()).is_inference():  # autograd does not take tensors made in inference mode
            network.load_state_dict({name: w.clone() for name, w in network.state_dict().items()}, assign=True)
            network._keep_constants()
        return network if device is None else network.to(device)
    weights = load_weights(network)
    if network == "vgg19":
        weights = standardized_input(weights, IMAGENET_MEAN, IMAGENET_STD)
    with torch.device("meta"):  # draws no random numbers
        vgg = VGG(network, pooling, padding)
    vgg.to_empty(device=pick_device() if device is None else device)
    for index, stage in enumerate(vgg.stages):
        state = {kind: weights[f"{index}.{kind}"] for kind in ("weight", "bias")}
        getattr(vgg, stage.conv).load_state_dict(state)
    return vgg


def receptive_fields(network: VGG) -> dict[str, int]:
    """Return {layer: receptive field}, the side in pixels of the square of the image that a position depends on.

    A layer with a k × k window adds k − 1 times the distance, in pixels, of neighboring positions of its input; a
    stride multiplies that distance. Near the border, the square is cut off.
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
            conv5_1 and later layers, and 32 for pool5.
        network: from `load_vgg`; the image is copied to its device.
        layers: names such as "conv4_2" (before the ReLU), "relu4_2" (after it) or "pool4".

    Feature maps are (B, C, H/2ᵏ, W/2ᵏ), rounded down, after k poolings. Raises ValueError for unknown layers, for
    values clearly outside [0, 1], and for pictures that are too small.
    """
    validate.check_image(image)
    return network(network.normalize(image.to(network.device)), layers)
