"""The whole step on a pretended GPU: no synchronization with the host, one device, and few kernel launches.

`FakeTensorMode` knows the shapes, formats and devices of tensors, but not their values: an operation that reads one
(`.item()`, `if tensor:`) or whose result's shape depends on one raises an error.
"""

import copy
import itertools
from collections import Counter
from functools import partial

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.functional import conv2d
from torch.utils._python_dispatch import TorchDispatchMode

import nst_helpers as nst
from nst_helpers.engine import direct
from nst_helpers.state import Numbers, State

pytestmark = pytest.mark.filterwarnings("ignore:.*enlarged")
SIDE = 32


class Launches(TorchDispatchMode):
    """Counts the operations that launch a kernel on the pretended GPU, and refuses copies that a graph cannot contain.

    (`Terms.put` copies from the host into a tensor, but before the part of a step that is captured.)
    """

    VIEWS = ("view", "slice", "select", "expand", "permute", "transpose", "unsqueeze", "squeeze", "alias", "detach",
             "as_strided", "split", "unbind", "diagonal", "empty", "empty_like", "empty_strided", "new_empty", "t",
             "split_with_sizes", "_unsafe_view", "_reshape_alias", "unflatten", "narrow")  # fmt: skip

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        inputs = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        outputs = [x for x in torch.utils._pytree.tree_leaves(result) if isinstance(x, Tensor)]
        on_gpu = [any(x.device.type == "cuda" for x in tensors) for tensors in (inputs, outputs)]
        assert not (outputs and on_gpu == [True, False]), f"{name} copies from the GPU to the host"
        assert not (name == "_to_copy" and on_gpu == [False, True]), f"{name} copies from the host to the GPU"
        if on_gpu[1] and name not in self.VIEWS:
            self.counts[name] += 2 if name == "convolution" and args[2] is not None else 1  # the bias is another
        return result


def on_pretended_gpu(thing, known):
    """Replace, in place, all tensors in an object of the toolkit, and in what it consists of, by pretended ones."""
    if id(thing) in known:
        return known[id(thing)][1]
    result = thing
    if isinstance(thing, Tensor):
        result = torch.empty_strided(thing.shape, thing.stride(), dtype=thing.dtype, device="cuda")
    elif isinstance(thing, tuple):
        parts = [on_pretended_gpu(part, known) for part in thing]
        result = type(thing)(*parts) if hasattr(thing, "_fields") else type(thing)(parts)
    known[id(thing)] = thing, result
    if isinstance(thing, list):
        thing[:] = [on_pretended_gpu(part, known) for part in thing]
    elif isinstance(thing, dict):
        thing.update({key: on_pretended_gpu(value, known) for key, value in thing.items()})
    elif hasattr(thing, "__dict__") and type(thing).__module__.startswith(("nst_helpers", "torch.nn")):
        on_pretended_gpu(vars(thing), known)
    return result


@pytest.fixture(scope="module")
def networks(vgg):
    """VGG-19 and VGG-16 with all poolings; values do not matter here."""
    return {
        (name, pooling): nst.VGG(name, pooling) for name in ("vgg19", "vgg16") for pooling in ("max", "average", "l2")
    }


@pytest.fixture
def made(networks, picture, monkeypatch):
    """A function that makes a run, its first steps on the CPU, and the next on a pretended GPU."""

    def fused(x, weight, bias, relu):  # `torch.cudnn_convolution_relu`, which is not known for pretended tensors
        return conv2d(x, weight, padding=1)

    monkeypatch.setitem(direct.FUSED, "cuda", fused)
    monkeypatch.setattr(direct, "fused_convolution_works", lambda kind, dtype: kind == "cuda")

    def make(network="vgg19", pooling="max", precision="float16", size=SIDE, **settings):
        vgg = nst.VGG(network, pooling)
        vgg.load_state_dict(networks[network, pooling].state_dict())
        vgg.requires_grad_(False)
        settings = {"sizes": (size,), "steps": 20, "style_image": picture(size, size, 1)} | settings
        style_image = settings.pop("style_image")
        run = nst.StyleTransfer(
            picture(size, size), style_image, network=vgg, engine="direct", precision=precision, **settings
        )
        run.engine.low_precision_steps = 2  # with bfloat16, this changes on the pretended GPU
        run.step()
        return run

    return make


def same_objective(run, objective, level, size_step):
    """Instead of a new one when the precision changes, because its targets need values."""
    run.engine.low_precision = run._is_low(size_step)
    return objective


def stepped(run, steps=3):
    """Make steps on the pretended GPU, and return the launches of the last of them."""
    with FakeTensorMode():
        on_pretended_gpu(run, {})
        assert run.device.type == "cuda"
        run._objective_at = partial(same_objective, run, run._objective)
        for _ in range(steps):
            with Launches() as launches:
                record = run.step()
        assert record._numbers._losses.device.type == run.state.image.device.type == "cuda"
    return launches.counts


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(("network", "pooling"), [*itertools.product(["vgg19", "vgg16"], ["max", "average", "l2"])])
def test_a_step_does_not_wait_for_the_host(made, network, pooling, precision):
    stepped(made(network, pooling, precision))


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize(
    "settings",
    [
        {"style_loss": "gram", "style_weights": dict.fromkeys(nst.STYLE_WEIGHTS, 0.2)},
        {"optimizer": "adam", "ema_decay": 0.9},
        {"tv_weight": 1.0},
        {"tv_weight": 1.0, "tv": "l2", "content_weights": {"conv4_2": 1.0, "relu2_2": 0.5}},
        {"color": "luminance_oklab", "relative_losses": False},
        {"blend": "losses", "style_image": [torch.rand(1, 3, SIDE, SIDE), torch.rand(1, 3, SIDE, SIDE)]},
        {
            "style_image": [
                nst.Region((torch.arange(SIDE) < 15).float().expand(1, 1, SIDE, SIDE), torch.rand(1, 3, SIDE, SIDE)),
                nst.Region((torch.arange(SIDE) > 20).float().expand(1, 1, SIDE, SIDE), torch.rand(1, 3, SIDE, SIDE)),
            ]
        },
    ],
    ids=lambda settings: ", ".join(settings),
)
def test_nor_with_other_settings(made, settings, precision):
    stepped(made(precision=precision, **copy.deepcopy(settings)))


def test_the_first_losses_after_a_change_are_read(made, monkeypatch):
    """For an error if they are not finite; nothing else is."""
    run, same = made(), made()
    run.beta = same.beta = 30
    with pytest.raises(DataDependentOutputException):
        stepped(run, 1)
    monkeypatch.setattr(Numbers, "rolled_back", False)
    stepped(same, 1)


def test_a_planted_synchronization_is_found(made, monkeypatch):
    keep_best = State.keep_best

    def reading(state, now, switched):
        if now.values[0].item() > 0:
            return keep_best(state, now, switched)

    run = made()
    monkeypatch.setattr(State, "keep_best", reading)
    with pytest.raises(DataDependentOutputException, match="_local_scalar_dense"):
        stepped(run)


def test_a_planted_copy_to_the_host_is_found(made, monkeypatch):
    keep_best = State.keep_best
    run = made()
    monkeypatch.setattr(State, "keep_best", lambda state, now, switched: keep_best(state, now, now.values[0].cpu() > 0))
    with pytest.raises(AssertionError, match="copies from the GPU to the host"):
        stepped(run)


@pytest.mark.parametrize(
    ("settings", "precision", "most"),
    [
        ({"style_loss": "gram", "size": 512, "style_weights": dict.fromkeys(nst.STYLE_WEIGHTS, 0.2)}, "float32", 150),
        ({"style_loss": "gram", "style_weights": dict.fromkeys(nst.STYLE_WEIGHTS, 0.2)}, "bfloat16", 175),
        ({"style_loss": "gram", "style_weights": dict.fromkeys(nst.STYLE_WEIGHTS, 0.2)}, "float16", 270),
        ({}, "float16", 570),
    ],
    ids=["Gram", "Gram in bfloat16", "Gram in float16", "the defaults in float16"],
)
def test_number_of_launches(made, settings, precision, most):
    """In bfloat16 and float16 formats are converted, in float16 gradients are rescaled, too."""
    counts = stepped(made(precision=precision, **settings))
    print(precision, counts.total(), counts)
    assert counts.total() <= most
