"""`Preset`: parameters as they were published, and their conversion to the settings of the toolkit."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

from torch import Tensor

from .. import validate
from ..files.weights import WeightsError
from ..images import scaled
from ..vgg import VGG, load_vgg


@dataclass(frozen=True)
class Preset:
    """Parameters of a published program, for its loss α·content + β·style + tv_weight·total variation.

    source: the program, or the repository.
    content: {layer: weight}; the loss of a layer is the `content_reduction` ("mean" or "sum") of (F − P)².
    style: {layer: weight}; the loss of a layer is the `style_reduction` of (G − A)², times C to the `channel_power`.
        `gram` is the divisor of F Fᵀ: "HW", "CHW", or "image", which is 3 · H · W of the picture instead of the layer.
        With a `style_loss` other than "gram", the toolkit's loss of that name is used.
    tv, tv_weight: form and weight of total variation, see `presets.variation`.
    network: the network that the program loads, a name for `load_vgg`.
    feature_scale: the program's feature maps are this many times those of our network; its Gram matrices the square.
    optimizer, learning_rate: as published, for pixel values from 0 to `pixel_range`.
    stages: (rule, steps) for each size. Rules: "longest 512", "shortest 512" and "height 400" give a side in pixels;
        "area 512" shrinks to 512² px; "as is" keeps the picture's size.
    start, noise: see `Settings`.
    notes: facts about the program, and differences from it.
    """

    source: str
    content: Mapping[str, float]
    style: Mapping[str, float]
    alpha: float
    beta: float
    content_reduction: str = "mean"
    style_loss: str = "gram"
    gram: str = "CHW"
    style_reduction: str = "mean"
    channel_power: int = 0
    blend: str = "statistics"
    tv: str = "l1"
    tv_weight: float = 0.0
    network: str = "vgg19_torchvision"
    feature_scale: float = 1.0
    optimizer: str = "lbfgs"
    learning_rate: float = 1.0
    pixel_range: float = 1.0
    stages: tuple[tuple[str, int], ...] = (("longest 512", 500),)
    start: str = "content"
    noise: float = 0.0
    notes: tuple[str, ...] = ()

    def coefficients(self, network: VGG, height: int, width: int) -> tuple[dict[str, float], dict[str, float]]:
        """Return the factors that convert the preset's layer losses to the toolkit's.

        {layer: a} and {layer: b} of α·Σ a·mean((F − P)²) + β·Σ b·mean((G − A)²)/4, G and A divided by H·W, for a
        picture of height × width px. They depend on its size if the preset uses sums, or divides by the picture's size.
        Raises ValueError if the picture is too small for the network.
        """
        validate.large_enough("content_image", height, width, network.min_side)
        content = {}
        for layer, weight in self.content.items():
            C, M = _shape(network, layer, height, width)
            content[layer] = weight * self.feature_scale**2 * (C * M if self.content_reduction == "sum" else 1)
        style = {}
        for layer, weight in self.style.items():
            C, M = _shape(network, layer, height, width)
            if self.style_loss == "gram":
                divisor = {"HW": 1, "CHW": C, "image": 3 * height * width / M}[self.gram]  # over H·W
                entries = C**2 if self.style_reduction == "sum" else 1
                weight *= 4 * entries * C**self.channel_power / divisor**2 * self.feature_scale**4
            style[layer] = weight
        return content, style

    def settings(self, content_image: Tensor, network: str | VGG | None = None, size: int | None = None) -> dict:
        """Return the arguments of `StyleTransfer` and `transfer` for this preset.

        Args:
            content_image: (1, 3, H, W).
            network: a `VGG`, or a name for `load_vgg`; default: the preset's. If its weights are not available, a
                warning says so, and the original VGG-19 is used. A layer that a network lacks is replaced by the last
                of its block.
            size: longest side in pixels, instead of the preset's rule. Sizes at which the picture would be too narrow
                for the network are raised, except for this one.

        `alpha` and `beta` are the published ones. Optimizers are the toolkit's own; SGD is replaced by Adam.
        """
        network = load_vgg(self._available_network() if network is None else network)
        height, width = content_image.shape[2:]
        least = validate.smallest_size(height, width, network.min_side)
        sizes = {max(_size(rule, height, width), least): steps for rule, steps in self.stages}  # of equals, the last
        if size is not None:
            last = max(sizes)
            sizes = {max(round(size * stage / last), min(least, size)): steps for stage, steps in sizes.items()}
        content, style = self.on(network).coefficients(network, *scaled(height, width, max(sizes)))
        return {
            "network": network,
            "sizes": validate.AdaptableSizes(sizes),
            "steps": tuple(sizes.values()),
            "start": self.start,
            "noise": self.noise,
            "optimizer": "lbfgs" if self.optimizer == "lbfgs" else "adam",
            "learning_rate": self.learning_rate / self.pixel_range if self.optimizer == "adam" else None,
            "relative_losses": False,
            "alpha": self.alpha,
            "beta": self.beta,
            "content_weights": content,
            "style_weights": style,
            "style_loss": self.style_loss,
            "blend": self.blend,
            "tv": self.tv,
            "tv_weight": self.tv_weight,
        }

    def _available_network(self) -> str:
        """Return the name of the preset's network, or that of the original with a warning."""
        failure = _why_unavailable(self.network)
        if failure is None or self.network == "vgg19":
            return self.network
        validate.warn(
            f"{self.source} was made for {self.network}, which is not available here ({failure}): using the original "
            "VGG-19, with which the same α and β give another painting"
        )
        return "vgg19"

    def on(self, network: VGG) -> "Preset":
        """Return the preset with layers of the network: a missing layer is replaced by the last of its block."""

        def available(weights: Mapping[str, float]) -> dict[str, float]:
            return {network.closest(layer): weight for layer, weight in weights.items()}

        return replace(self, content=available(self.content), style=available(self.style))


@cache  # a download is tried once per process
def _why_unavailable(network: str) -> str | None:
    try:
        load_vgg(network, device="cpu")
    except WeightsError as error:
        return str(error).splitlines()[1]
    return None


def _size(rule: str, height: int, width: int) -> int:
    """Return the longest side in pixels to which a rule resizes a picture of height × width px."""
    longest, shortest = max(height, width), min(height, width)
    what, _, value = rule.partition(" ")
    if what == "longest":
        return int(value)
    if what == "shortest":
        return round(int(value) * longest / shortest)
    if what == "height":
        return round(int(value) * longest / height)
    if what == "area":
        return min(longest, round(longest * int(value) / (height * width) ** 0.5))
    return longest


def _shape(network: VGG, layer: str, height: int, width: int) -> tuple[int, int]:
    """Return a layer's number of channels C and number of positions H·W."""
    stride = network.stride(layer)
    return network.channels(layer), (height // stride) * (width // stride)
