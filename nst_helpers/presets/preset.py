"""Preset: published parameters as they were published, and what they mean in the toolkit's terms."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ..images import scaled
from ..vgg import VGG, load_vgg


@dataclass(frozen=True)
class Preset:
    """Published parameters: α·content + β·style + tv_weight·total variation, in its own terms.

    content: {layer: weight}; of each, `content_reduction` ("mean" or "sum") of (F − P)².
    style: {layer: weight}; of each, `style_reduction` of (G − A)², times C to the `channel_power`. `gram` says what
        F Fᵀ is divided by: "HW", "CHW", or "image", 3 · H · W of the picture, not of the layer. With a `style_loss`
        other than "gram", that of the toolkit's stands for the whole term.
    tv, tv_weight: how total variation is measured, as `StyleTransfer` has it.
    weights: whose pretrained weights it was written for; `inputs`: how it feeds torchvision's.
    optimizer, learning_rate: as published, for pixel values from 0 to `pixel_range`.
    stages: (rule, evaluations) for each size. Rules: "longest 512", "shortest 512" and "height 400" say a side in px;
        "area 512" has 512² px and enlarges nothing; "as is" leaves the size.
    start, noise: as `StyleTransfer` has them.
    notes: what is known of the preset, and where the toolkit does otherwise.
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
    weights: str = "torchvision"
    inputs: str = "standardized"
    optimizer: str = "lbfgs"
    learning_rate: float = 1.0
    pixel_range: float = 1.0
    stages: tuple[tuple[str, int], ...] = (("longest 512", 500),)
    start: str = "content"
    noise: float = 0.0
    notes: tuple[str, ...] = ()

    def coefficients(self, network: VGG, height: int, width: int) -> tuple[dict[str, float], dict[str, float]]:
        """Return what the content and the style loss of each layer are multiplied by, in the toolkit's terms.

        {layer: a} and {layer: b} of α·Σ a·mean((F − P)²) + β·Σ b·mean((G − A)²)/4, G and A divided by H·W, for a
        picture of height × width px. They depend on that where the preset takes sums, or the picture's size.
        """
        content = {}
        for layer, weight in self.content.items():
            C, M = _shape(network, layer, height, width)
            content[layer] = weight * (C * M if self.content_reduction == "sum" else 1)
        style = {}
        for layer, weight in self.style.items():
            C, M = _shape(network, layer, height, width)
            if self.style_loss == "gram":
                divisor = {"HW": 1, "CHW": C, "image": 3 * height * width / M}[self.gram]  # over H·W
                entries = C**2 if self.style_reduction == "sum" else 1
                weight *= 4 * entries * C**self.channel_power / divisor**2
            style[layer] = weight
        return content, style

    def settings(self, content_image: Tensor, network: str | VGG = "auto", size: int | None = None) -> dict:
        """Return the arguments of `StyleTransfer` and `transfer` that paint by this preset.

        Args:
            content_image: (1, 3, H, W).
            network: as `load_vgg` takes it, or a network. A layer that it lacks is replaced by the block's last.
            size: the longest side in pixels, in place of the preset's rule.

        `alpha` and `beta` are the preset's own. SGD is replaced by Adam, and every step is the toolkit's.
        """
        if not isinstance(network, VGG):
            network = load_vgg(network, inputs=self.inputs)
        elif network.inputs != self.inputs:
            raise ValueError(f'the preset feeds its network with inputs="{self.inputs}": load_vgg(…, inputs=…)')
        height, width = content_image.shape[2:]
        sizes = {_size(rule, height, width): steps for rule, steps in self.stages}  # of equal ones, the last
        if size is not None:
            sizes = {round(size * stage / max(sizes)): steps for stage, steps in sizes.items()}
        content, style = self.on(network).coefficients(network, *scaled(height, width, max(sizes)))
        return {
            "network": network,
            "sizes": tuple(sizes),
            "steps": tuple(sizes.values()),
            "start": self.start,
            "noise": self.noise,
            "optimizer": "lbfgs" if self.optimizer == "lbfgs" else "adam",
            "learning_rate": self.learning_rate / self.pixel_range if self.optimizer == "adam" else None,
            "alpha": self.alpha,
            "beta": self.beta,
            "content_weights": content,
            "style_weights": style,
            "style_loss": self.style_loss,
            "blend": self.blend,
            "tv": self.tv,
            "tv_weight": self.tv_weight,
        }

    def on(self, network: VGG) -> "Preset":
        """Return the preset with layers that the network has: for those that it lacks, the last of the block."""

        def there(weights: Mapping[str, float]) -> dict[str, float]:
            return {network.closest(layer): weight for layer, weight in weights.items()}

        return replace(self, content=there(self.content), style=there(self.style))


def _size(rule: str, height: int, width: int) -> int:
    """Return the longest side in pixels of a picture of height × width px that a rule makes smaller or larger."""
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
    """Return a layer's channels and positions."""
    stride = network.stride(layer)
    return network.channels(layer), (height // stride) * (width // stride)
