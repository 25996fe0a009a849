"""For the notebooks: `check("3.2", covariance)` says whether an exercise is solved; `pick` sizes and steps."""

import dataclasses
import math
from collections.abc import Callable

import torch

import nst_helpers as nst

_known = {}  # {exercise: (hint, what verifies an answer)}


class _NotStarted(Exception):
    """The answer is still the stub's `...`."""


def exercise(number: str, hint: str) -> Callable:
    """Register a function that raises an AssertionError, saying what is wrong, unless an answer is right."""

    def register(verify: Callable) -> Callable:
        _known[number] = hint, verify
        return verify

    return register


def check(number: str, answer) -> None:
    """Print whether an exercise is solved or not started yet.

    Args:
        number: of the exercise, such as "3.2".
        answer: a value or a function, as the exercise asks; `...` stands for "not started yet", also as what a
            function returns.

    Raises AssertionError with a hint for a wrong answer, and KeyError where there is no such exercise.
    """
    hint, verify = _known[number]

    def call(*args, **keywords):
        result = answer(*args, **keywords)
        if result is ...:
            raise _NotStarted
        return result

    try:
        if answer is ...:
            raise _NotStarted
        verify(call if callable(answer) else answer)
    except _NotStarted:
        print(f"Exercise {number}: not started yet")
    except AssertionError as error:
        raise AssertionError(f"Exercise {number}: {error}. Hint: {hint}") from None
    else:
        print(f"Exercise {number}: right")


def pick(quality: str, **plans):
    """Return one of the plans "draft", "good" and "best"; "auto" is "good" on a GPU, and "draft" on a CPU."""
    if quality == "auto":
        quality = "good" if torch.cuda.is_available() or torch.backends.mps.is_available() else "draft"
    return plans[quality]


def numbers() -> list[str]:
    """Return the numbers of all exercises."""
    return list(_known)


def _close(found, right, what: str, tolerance: float = 1e-4) -> None:
    """Raise an AssertionError unless a tensor or a number is what it should be."""
    found, right = torch.as_tensor(found), torch.as_tensor(right)
    assert found.shape == right.shape, f"{what} has the shape {tuple(found.shape)}, not {tuple(right.shape)}"
    assert found.dtype == right.dtype or not right.ndim, f"{what} is {found.dtype}, not {right.dtype}"
    apart = (found.double() - right.double()).abs().max().item()
    assert apart <= tolerance, f"{what} is off by {apart:.3g}"


def _noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------------ preprocessing


def mystery() -> torch.Tensor:
    """Return the photograph of exercise 1.4, after a mistake."""
    image = nst.load_image(nst.find_picture("data/content/coffee.jpg"), 256)
    return nst.preprocess(image).clamp(0, 1)


@exercise("1.1", "subtract the mean of red, and divide by its standard deviation")
def _white(answer):
    right = nst.preprocess(torch.ones(1, 3, 1, 1))[0, 0].item()
    assert abs(float(answer) - right) < 0.01, f"{answer} is not what `preprocess` makes of it"


@exercise("1.2", "deprocess, clamp to [0, 1], times 255, round, permute, and .byte() last")
def _to_bytes(answer):
    image = _noise(1, 3, 5, 7)
    _close(
        answer(nst.preprocess(image)),
        image[0].permute(1, 2, 0).mul(255).round().byte(),
        "the picture",
        0,
    )
    over = nst.preprocess(torch.tensor([1.08, -0.08, 0.5]).view(1, 3, 1, 1))
    _close(
        answer(over),
        torch.tensor([[[255, 0, 128]]], dtype=torch.uint8),
        "a pixel of (1.08, −0.08, 0.5)",
        0,
    )


@exercise(
    "1.3",
    "values that are clearly negative cannot come from a picture; 255 would be another mistake",
)
def _suspicious(answer):
    image = answer()
    assert image.shape == (1, 3, 32, 32), f"the shape is {tuple(image.shape)}"
    assert image.min() < 0, "no value is negative"
    assert image.max() < 3, "no normalized picture has such values"
    refusal = "`preprocess` took it"
    try:
        nst.preprocess(image)
    except ValueError as error:
        refusal = f"it was refused for another reason: {error}"
    assert "normalized already" in refusal, refusal


@exercise("1.4", "which of the four turns the mean of a photograph, about 0.45, into black?")
def _mistake(answer):
    assert answer == "c", f"{answer!r} would look different"


# ------------------------------------------------------------------------------------------------- feature extraction


@exercise(
    "2.1",
    "each 3×3 convolution adds 2 jumps, each pooling 1; after each pooling, the jump doubles",
)
def _field(answer):
    assert answer == nst.receptive_fields(nst.VGG("vgg19"))["relu4_2"], f"{answer} px is not it"


@exercise(
    "2.2",
    "hook = layer.register_forward_hook(…) stores its third argument; hook.remove() in a finally",
)
def _with_hook(answer):
    inner = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Conv2d(4, 2, 3))
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), inner)
    x = _noise(1, 3, 8, 9)
    for layer, right in ((module[0], module[0](x)), (inner[0], module[0](x).tanh())):
        _close(answer(module, layer, x), right, "the output")
        assert not layer._forward_hooks, "the hook is still there"


@exercise("2.3", "torch.nn.ReLU has an argument for this")
def _trap(answer):
    kept = _noise(2, 3, 4, 4) - 0.5
    positive = kept.clamp_min(0)
    answer()(kept)
    assert kept.min() >= 0, "negative values are left in `kept`"
    assert torch.equal(kept, positive), "the positive values changed, too"


@exercise(
    "2.4",
    "the loss of relu5_1 fell to a small part: by its own measure, the picture is nearly right",
)
def _reconstruction(answer):
    assert answer == "a", f"{answer!r} does not explain it"


# ------------------------------------------------------------------------------------------------------ Gram matrices


@exercise("3.1", "G is a product of two features, and the loss a square of G")
def _factor(answer):
    F, S = _noise(1, 3, 4, 4), _noise(1, 3, 4, 4, seed=1)
    once, twice = ((nst.gram_matrix(k * F) - nst.gram_matrix(k * S)).square().mean() for k in (1, 2))
    assert abs(float(answer) - (twice / once).item()) < 1e-3, f"{answer} is not the factor"


@exercise("3.2", "subtract the mean over dimensions 2 and 3 with keepdim=True; then gram_matrix")
def _covariance(answer):
    F = 3 + _noise(2, 5, 4, 6).double()
    right = torch.stack([torch.cov(f.flatten(1), correction=0) for f in F])
    _close(answer(F), right, "the covariance", 1e-9)


@exercise("3.3", "a minus sign; or multiply F (C × M) from the right by an orthogonal matrix")
def _twin(answer):
    F = _noise(1, 3, 4, 5)
    other = answer(F)
    assert other.shape == F.shape, f"the shape is {tuple(other.shape)}, not {tuple(F.shape)}"
    _close(nst.gram_matrix(other), nst.gram_matrix(F), "the Gram matrix")
    apart = (other.flatten().sort().values - F.flatten().sort().values).abs().max()
    assert apart > 0.1, "these are the same values, or nearly, in another order"


@exercise("3.4", "02 worked out how far a layer looks")
def _specks(answer):
    assert answer == "c", f"{answer!r} does not explain their size"


# -------------------------------------------------------------------------------------------------------------- losses


@exercise("4.1", "half of the differences are 1, half are 3: the mean of their squares")
def _content(answer):
    P = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
    right = nst.content_loss(torch.zeros(1, 1, 1, 2), P).item()
    assert abs(float(answer) - right) < 1e-6, f"{answer} is not the mean of the squares"


@exercise(
    "4.2",
    "image.diff(dim=3) are the differences to the right: square, then mean, for each direction",
)
def _squared_variation(answer):
    image = _noise(2, 3, 5, 7).double().requires_grad_()
    right = sum(((image[:, :, i:, j:] - image[:, :, : 5 - i, : 7 - j]) ** 2).mean() for i, j in ((0, 1), (1, 0)))
    _close(answer(image), right, "the total variation", 1e-9)
    assert torch.autograd.gradcheck(answer, (image,)), "its gradient is wrong"


@exercise("4.3", "the root of x has the slope 1 / (2 √x)")
def _treacherous(answer):
    P = _noise(1, 2, 3, 3)
    F = P.clone().requires_grad_()
    loss = answer(F, P)
    assert loss.ndim == 0, "a scalar is meant"
    assert loss.item() == 0, f"it is {loss.item():.3g} where F equals P"
    (gradient,) = torch.autograd.grad(loss, F)
    assert not gradient.isfinite().all(), "its gradient is finite there"
    assert answer(P + 1, P) > 0, "it is no loss: it does not see a difference"


@exercise("4.4", "the loss is a square: what is the slope of a square at 0?")
def _background(answer):
    assert answer == "a", f"{answer!r} does not explain it"


# ------------------------------------------------------------------------------------------------------- training loop


@exercise("5.1", "1024 px have 4 × 4 times the pixels of 256 px")
def _seconds(answer):
    right = 100 * 0.15 * (1024 / 256) ** 2
    assert math.isclose(float(answer), right, rel_tol=0.05), f"{answer} s is not it"


@exercise("5.2", "torch.autograd.grad(loss(x), x) gives the gradient; detach x after each step")
def _descend(answer):
    def loss(x):
        return (x - 1).square().sum()

    for steps, momentum, right in ((1, 0.9, 0.2), (2, 0.5, 0.46), (300, 0.5, 1.0)):
        found = answer(loss, torch.zeros(3, requires_grad=True), steps, 0.1, momentum).detach()
        _close(found, torch.full((3,), right), f"x after {steps} steps", 1e-3)


@exercise("5.3", "a step that is far too long makes the loss jump")
def _stumbling(answer):
    content, style = (
        nst.load_image(nst.find_picture(name), 64) for name in ("data/content/hopper.jpg", "data/styles/wave.jpg")
    )
    run = nst.StyleTransfer(content, style, **{"network": "vgg19", "sizes": (64,), "steps": 12, **answer()})
    assert any(record.rolled_back for record in run), "this run never had to go back"


@exercise("5.4", "how far can Adam move a pixel in one step?")
def _saturated(answer):
    assert answer == "c", f"{answer!r} does not explain it"


# -------------------------------------------------------------------------------------------------------------- rosetta


@exercise("7.1", "G/(C·M) is C times smaller than G/M, and its square C² times; the weight makes up for it")
def _weight(answer):
    _close(answer, 100 / 64**2, "the weight", 1e-6)


@exercise("7.2", "a mean over C × C entries, of squares that are C² times smaller")
def _translated(answer):
    for channels in (4, 7):
        F, S = _noise(channels, 30), _noise(channels, 30, seed=1)
        squares = (F @ F.T / 30 - S @ S.T / 30).square()
        _close(answer(squares.sum(), channels), (squares / channels**2).mean(), "the loss", 1e-5)


@exercise("7.3", "what differs from layer to layer: the layers' weights, what Gram matrices are divided by")
def _another_preset(answer):
    jc, settings = nst.presets["jc"], answer()
    _, factors = dataclasses.replace(jc, **settings).coefficients(nst.VGG("vgg19"), 256, 256)
    _, before = jc.coefficients(nst.VGG("vgg19"), 256, 256)
    assert set(factors) == set(before), "the layers are others: then there is nothing to compare"
    ratios = [factors[layer] / before[layer] for layer in before]
    assert max(ratios) > 1.001 * min(ratios), "all layers' factors are in one proportion"


@exercise(
    "7.4",
    "a content loss is the square of a difference of features, a Gram loss that of a difference of their products",
)
def _untouched(answer):
    assert answer == "c", f"{answer!r} is not the factor by which their ratio grows"


# ----------------------------------------------------------------------------------------------------- color and scale


@exercise("8.1", "the map A has A · 0.04 · A = 0.01")
def _factor(answer):
    _close(answer, 0.5, "the factor", 1e-6)


@exercise("8.2", "mean and std over the dimensions 2 and 3, with keepdim=True")
def _by_channel(answer):
    for seed in (0, 2):
        image, like = _noise(1, 3, 9, 8, seed=seed), 0.2 + 0.5 * _noise(1, 3, 6, 10, seed=seed + 1) ** 2
        found = answer(image, like)
        assert found.shape == image.shape, f"it has the shape {tuple(found.shape)}"
        for channel in range(3):
            _close(found[0, channel].mean(), like[0, channel].mean(), "a channel's mean", 1e-4)
            _close(found[0, channel].std(), like[0, channel].std(), "a channel's standard deviation", 1e-3)
        shapes = torch.corrcoef(torch.stack([found[0, 0].flatten(), image[0, 0].flatten()]))
        assert shapes[0, 1] > 0.999, "it is another picture"


@exercise("8.3", "a map that widens the colors of a picture far beyond 0 or 1: many dark pixels and a few light ones")
def _beyond(answer):
    image, like = answer()
    for picture in (image, like):
        assert 0 <= picture.min() <= picture.max() <= 1, "values lie outside [0, 1]"
    missed = (nst.recolor(image, like).mean((2, 3)) - like.mean((2, 3))).abs().max().item()
    assert missed > 0.02, f"the mean is met within {missed:.3f}"


@exercise("8.4", "what is painted, and with which lightness, before the colors are put back?")
def _pale(answer):
    assert answer == "a", f"{answer!r} does not explain it"


# ------------------------------------------------------------------------------------------------------------- regions


@exercise("9.1", "the same sum, divided by M/4 in place of M")
def _times(answer):
    _close(answer, 4.0, "the factor", 1e-6)


@exercise("9.2", "(t * F) @ F.T is Σ t F F")
def _gram_of_part(answer):
    F, t = _noise(3, 20).double(), _noise(20, seed=1).double()
    right = torch.stack([torch.stack([(t * f * g).sum() / t.sum() for g in F]) for f in F])
    _close(answer(F, t), right, "the Gram matrix", 1e-9)
    _close(answer(F, torch.ones(20).double()), nst.gram_matrix(F[None, :, None])[0], "that of the whole", 1e-9)


@exercise("9.3", "which masks cover the same share of each block of 4 × 4 pixels?")
def _twins(answer):
    masks = answer()
    assert len(masks) == 2, f"two masks are meant, not {len(masks)}"
    for mask in masks:
        assert mask.shape == (1, 1, 32, 32), f"a mask has the shape {tuple(mask.shape)}"
        assert 0 <= mask.min() <= mask.max() <= 1, "a mask's values lie outside [0, 1]"
    assert not torch.equal(*masks), "they are the same mask"
    seen = [nst.masks.masks_of(mask.float(), ["pool2"], nst.VGG("vgg19"))["pool2"] for mask in masks]
    _close(seen[0], seen[1], "what pool2 sees of the second", 1e-6)


@exercise("9.4", "see receptive_fields in notebook 02")
def _seams(answer):
    assert answer == "b", f"{answer!r} does not explain it"


# -------------------------------------------------------------------------------------------------------- style mixing


@exercise("10.1", "half of (2 − 1)², and half of (2 − 3)²")
def _left(answer):
    _close(answer, 1.0, "what is left", 1e-6)


@exercise("10.2", "std takes correction=0 to be over n")
def _wasserstein_1d(answer):
    for seed in (0, 2):
        a, b = _noise(30, seed=seed).double(), 2 * _noise(50, seed=seed + 1).double() ** 2
        right = (a.mean() - b.mean()) ** 2 + (a.var(correction=0).sqrt() - b.var(correction=0).sqrt()) ** 2
        _close(answer(a, b), right, "the distance", 1e-9)


@exercise("10.3", "F Fᵀ has only squares and products: spread the values of a channel, or gather them in one place")
def _blind_spot(answer):
    a, b = answer()
    for maps in (a, b):
        assert maps.shape == (1, 2, 4, 4), f"feature maps have the shape {tuple(maps.shape)}"
        assert maps.min() >= 0, "a value is below 0"
    _close(nst.gram_matrix(a.float()), nst.gram_matrix(b.float()), "the second's Gram matrix", 1e-4)
    apart = (a.float().mean((2, 3)) - b.float().mean((2, 3))).abs().max().item()
    assert apart > 0.01, f"their means differ by {apart:.3g} only"


@exercise("10.4", "what is the Gram matrix of a picture of which one half has one style and one half the other?")
def _patches(answer):
    assert answer == "c", f"{answer!r} does not explain it"


# ------------------------------------------------------------------------------------------------------ failure gallery


@exercise(
    "14.1", "the third dimension holds blue, green, red: turn it round, and copy, since torch has no negative steps"
)
def _red_first(answer):
    array = _noise(5, 7, 3).mul(255).byte().numpy()
    found = answer(array)
    assert found.shape == (1, 3, 5, 7), f"it has the shape {tuple(found.shape)}"
    for channel, name in enumerate(("red", "green", "blue")):
        _close(found[0, channel], torch.from_numpy(array[..., 2 - channel].copy()) / 255, name, 1e-6)


@exercise("14.2", "nst.preprocess, once, before the network")
def _normalized(answer):
    vgg, image, layers = nst.VGG("vgg19"), _noise(1, 3, 32, 40), ["conv1_1", "relu2_1"]
    found, right = answer(vgg, image, layers), nst.get_features(image, vgg, layers)
    for layer in layers:
        _close(found[layer], right[layer], layer)


@exercise("14.3", "keep a clone: a view, or a detached tensor, shares its memory with what is overwritten")
def _kept(answer):
    image, layers = _noise(1, 3, 32, 40).requires_grad_(), ["conv1_1", "relu1_2", "conv2_2"]
    vgg = nst.VGG("vgg19")
    right = {layer: maps.detach() for layer, maps in nst.get_features(image, vgg, layers).items()}
    for module in vgg:
        if isinstance(module, torch.nn.ReLU):
            module.inplace = True
    found = answer(vgg, image, layers)
    assert set(found) == set(layers), f"it returns {', '.join(found)}, not {', '.join(layers)}"
    assert vgg.relu1_1.inplace, "the network was changed"
    for layer in layers:
        _close(found[layer].detach(), right[layer], layer)
        total = found[layer].sum()
        reached = total.requires_grad and torch.autograd.grad(total, image, retain_graph=True, allow_unused=True)[0]
        assert isinstance(reached, torch.Tensor), f"no gradient flows from {layer} to the image"


@exercise("14.4", "model.network.requires_grad_(False), and torch.optim.Adam([model.image], …)")
def _one_parameter(answer):
    model = torch.nn.Module()
    model.image, model.network = torch.nn.Parameter(_noise(1, 3, 8, 8)), torch.nn.Conv2d(3, 4, 3)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = answer(model)
    assert isinstance(optimizer, torch.optim.Optimizer), f"{optimizer!r} is no optimizer"
    model.network(model.image).square().mean().backward()
    optimizer.step()
    _close((model.image - before["image"]).abs().max().item(), 0.02, "the image's first step", 1e-3)
    for name, weight in model.network.named_parameters():
        assert torch.equal(weight, before[f"network.{name}"]), f"the network's {name} was trained"
        assert weight.grad is None, f"the network's {name} collects a gradient"


@exercise("14.5", "09 has the function that takes colors from where something is")
def _no_halo(answer):
    y, x = torch.meshgrid(torch.linspace(-1, 1, 33), torch.linspace(-1, 1, 33), indexing="ij")
    there = ((0.7 - x.hypot(y)) * 16 + 0.5).clamp(0, 1)
    colors = torch.where(there > 0, 0.2, 1.0)[..., None].expand(-1, -1, 3)  # white where nothing is
    image, mask = answer(torch.cat([colors, there[..., None]], 2).numpy())
    _close(mask.float(), there[None, None], "the mask", 1e-3)
    _close(image, torch.full((1, 3, 33, 33), 0.2), "a dark disc, going on outwards,", 0.01)


@exercise("14.6", "by the number of positions, and by nothing else")
def _divided(answer):
    for shape in ((1, 4, 6, 7), (2, 3, 9, 5)):
        F = _noise(*shape).double()
        right = torch.einsum("bchw,bdhw->bcd", F, F) / (shape[2] * shape[3])
        _close(answer(F), right, f"the Gram matrix of feature maps {shape}", 1e-9)


@exercise(
    "14.7", "search among numbers without bounds, and make pixels of them (torch.sigmoid); or use Adam, and no search"
)
def _bounded(answer):
    matrix, bound = _noise(48, 48, seed=1) / 48**0.5 + 0.3 * torch.eye(48), 3 * _noise(48, seed=2) - 1

    def loss(image):
        return (matrix @ (image.flatten() - bound)).square().mean()

    calls = []
    start = (1.2 * _noise(1, 3, 4, 4, seed=3) - 0.1).clamp(0, 1)  # some pixels are at their bounds
    found = answer(lambda image: calls.append(image) or loss(image), start, 60).detach()
    assert len(calls) <= 90, f"it took {len(calls)} evaluations for 60"
    assert found.shape == start.shape, f"it has the shape {tuple(found.shape)}"
    assert 0 <= found.min() <= found.max() <= 1, f"values lie between {found.min():.2f} and {found.max():.2f}"
    best, rate = start, 24 / torch.linalg.matrix_norm(matrix, 2) ** 2
    for _ in range(3000):  # down the gradient, and back into [0, 1]: slow, and sure
        (gradient,) = torch.autograd.grad(loss(best.requires_grad_()), best)
        best = (best - rate * gradient).detach().clamp(0, 1)
    left = ((loss(found) - loss(best)) / (loss(start) - loss(best))).item()
    assert left < 0.1, f"{left:.0%} of what can be gained is left after 60 evaluations"
