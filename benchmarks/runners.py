"""The engines and the plain loop with one interface, for `gpu`: `evaluate`, `step` and `facts`."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

import nst_helpers as nst
from benchmarks.plain_loop import PlainLoop
from nst_helpers.engine import pick_engine

STEPS = 10**6  # of a run: more than are made


class Choice(NamedTuple):
    """An engine, and the formats of the products in its forward and backward pass."""

    kind: str
    precision: str
    formats: tuple[str, str] = ("tfloat32", "tfloat32")
    low: bool = False  # in low precision, as in the first steps at a size


PLAIN = Choice("plain", "float32")
CHOICES = {
    "plain": PLAIN,
    "direct, float32": Choice("direct", "float32"),
    "direct, float16": Choice("direct", "float16", ("float16", "float16")),
    "direct, bfloat16": Choice("direct", "bfloat16", ("tfloat32", "bfloat16")),
    "direct, bfloat16, first steps": Choice("direct", "bfloat16", ("bfloat16", "bfloat16"), True),
}


class Toolkit:
    """A run with an engine; None is the one that "auto" chooses."""

    def __init__(self, network: nst.VGG, images: tuple[Tensor, Tensor], choice: Choice | None, **settings):
        engine = pick_engine(network, *(choice[:2] if choice else ()))
        engine.low_precision_steps = STEPS if choice and choice.low else 0
        size = max(images[0].shape[2:])
        self.run = nst.StyleTransfer(*images, network=network, engine=engine, sizes=(size,), steps=STEPS, **settings)
        self.image, self.step = noisy(self.run.content_image.to(network.device)), self.run.step

    def evaluate(self) -> tuple[Tensor, Tensor]:
        found = self.run.evaluate(self.image, self.run.settings)
        return found.values[0], found.gradient

    def facts(self) -> dict:
        finite = bool(self.run.image.isfinite().all())
        return {"used": self.run.engine.name, "graph": self.run._graph._graph is not None, "finite": finite}


class Tutorial:
    """The plain loop. Its optimizer makes 1 evaluation a call instead of 20, so that `step` is like the toolkit's."""

    def __init__(self, network: nst.VGG, images: tuple[Tensor, Tensor]):
        self.loop = PlainLoop(*(image.to(network.device) for image in images), network)
        self.loop.optimizer.param_groups[0]["max_iter"] = 1
        self.image, self.step = noisy(self.loop.image.detach()), partial(next, self.loop.iterations())

    def evaluate(self) -> tuple[Tensor, Tensor]:
        x = self.image.clone().requires_grad_()
        self.loop.model(x)
        loss = sum(term.loss for term in self.loop.terms)
        return loss.detach(), torch.autograd.grad(loss, x)[0]

    def facts(self) -> dict:
        return {}


def noisy(image: Tensor) -> Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image)
    return (image + 0.1 * noise).clamp(0, 1)


def network_for(name: str, device: torch.device) -> tuple[nst.VGG, bool]:
    """Return a network, and whether it is trained; where no weights are available, random ones are as fast."""
    try:
        return nst.load_vgg(name, device=device), True
    except nst.WeightsError:
        torch.manual_seed(0)
        network = nst.VGG(name)
        for stage in network.stages:
            torch.nn.init.kaiming_normal_(getattr(network, stage.conv).weight)
            torch.nn.init.zeros_(getattr(network, stage.conv).bias)
        return network.to(device), False
