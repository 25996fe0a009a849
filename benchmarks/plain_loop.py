"""Neural style transfer with the structure of the PyTorch tutorial: the baseline of the benchmarks."""

import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nst_helpers.images import IMAGENET_MEAN, IMAGENET_STD
from nst_helpers.losses.gatys import CONTENT_LAYER, STYLE_WEIGHTS
from nst_helpers.vgg import VGG

# The settings of every run that is compared: Gram matrices of the paper's five layers, with equal weights.
COMPARED = {"style_loss": "gram", "style_weights": dict.fromkeys(STYLE_WEIGHTS, 0.2), "beta": 50.0}


class Normalization(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(-1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std


def gram(feature_maps: Tensor) -> Tensor:
    batch, channels, height, width = feature_maps.shape
    features = feature_maps.view(batch * channels, height * width)
    return features @ features.t() / (height * width)


class Loss(nn.Module):
    """A layer that returns its input unchanged and stores the loss relative to a target."""

    def __init__(self, weight: float, measured):
        super().__init__()
        self.weight, self.measured, self.target, self.loss = weight, measured, None, None

    def forward(self, feature_maps: Tensor) -> Tensor:
        measured = self.measured(feature_maps)
        if self.target is not None and measured.shape == self.target.shape:
            self.loss = self.weight * mse_loss(measured, self.target)
        return feature_maps

    def aim(self, model: nn.Sequential, image: Tensor) -> None:
        with torch.no_grad():
            self.target = self.measured(model(image))
        self.weight /= self.target.square().mean().item()


def build(content: Tensor, style: Tensor, network: VGG) -> tuple[nn.Sequential, list[Loss]]:
    """Return the frozen network up to its last loss layer, with the loss layers inserted, and the loss layers."""
    model, losses = nn.Sequential(Normalization()).to(network.device), []
    for name, layer in network.named_children():
        model.add_module(name, layer)
        if name == CONTENT_LAYER:
            losses.append(Loss(1.0, lambda feature_maps: feature_maps))
            losses[-1].aim(model, content)
            model.add_module("content_loss", losses[-1])
        if name in STYLE_WEIGHTS:
            losses.append(Loss(COMPARED["beta"] * COMPARED["style_weights"][name], gram))
            losses[-1].aim(model, style)
            model.add_module(f"style_loss_{name}", losses[-1])
        if len(losses) == len(STYLE_WEIGHTS) + 1:
            break
    return model.requires_grad_(False).eval(), losses


class PlainLoop:
    """torch.optim.LBFGS with its defaults, and a clamp in its closure. `iterations` makes a step at each iteration."""

    def __init__(self, content: Tensor, style: Tensor, network: VGG):
        self.model, self.terms = build(content, style, network)
        self.image = content.clone().requires_grad_()
        self.optimizer = torch.optim.LBFGS([self.image])
        self.losses, self.seconds = [], 0.0

    def evaluate(self) -> Tensor:
        with torch.no_grad():
            self.image.clamp_(0, 1)
        self.optimizer.zero_grad()
        self.model(self.image)
        loss = sum(term.loss for term in self.terms)
        loss.backward()
        self.losses.append(loss.item())
        return loss

    def iterations(self) -> Iterator[None]:
        while True:
            began = time.perf_counter()
            self.optimizer.step(self.evaluate)
            self.seconds += time.perf_counter() - began
            yield
