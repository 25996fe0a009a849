"""Every exercise: its stub counts as not started, its solution passes, and plausible wrong answers fail with a hint."""

import re
from functools import cache

import nbformat
import pytest
import torch
from conftest import ROOT

import nst_helpers as nst
from notebooks import checks

NUMBERS = checks.numbers()
COURSE = [  # 06 has things to find out, and nothing to check
    path for path in sorted((ROOT / "notebooks").glob("*.ipynb")) if path.name[:2] not in ("00", "06", "99")
]


def left_behind(module, layer, x):
    seen = []
    layer.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    module(x)
    return seen[0]


def one_step(loss, x, steps, learning_rate, momentum):
    (gradient,) = torch.autograd.grad(loss(x), x)
    return x - learning_rate * gradient


def without_momentum(loss, x, steps, learning_rate, momentum):
    for _ in range(steps):
        x = one_step(loss, x, 1, learning_rate, 0).detach().requires_grad_()
    return x


def kept_on_the_way(network, image, layers, keep=lambda x: x):
    x, kept = nst.preprocess(image), {}
    for name, module in network.named_children():
        x = module(x)
        if name in layers:
            kept[name] = keep(x)
        if len(kept) == len(layers):
            return kept


def clamped_in_the_search(loss, start, steps):
    x = start.clone().requires_grad_()
    lbfgs = torch.optim.LBFGS([x], max_iter=steps, max_eval=steps, line_search_fn="strong_wolfe")

    def closure():
        x.data.clamp_(0, 1)
        lbfgs.zero_grad()
        value = loss(x)
        value.backward()
        return value

    lbfgs.step(closure)
    return x.detach()


WRONG = {
    "1.1": [1.0, (255 - 0.485) / 0.229, 0.229],
    "1.2": [
        lambda z: nst.deprocess(z)[0].mul(255).round().byte().permute(1, 2, 0),  # not clipped
        lambda z: nst.deprocess(z)[0].clamp(0, 1).mul(255).byte().permute(1, 2, 0),  # not rounded
        lambda z: nst.deprocess(z)[0].clamp(0, 1).mul(255).round().byte(),  # channels first
        lambda z: nst.deprocess(z)[0].clamp(0, 1).mul(255).round().permute(1, 2, 0),  # not whole numbers
    ],
    "1.3": [
        lambda: torch.rand(1, 3, 32, 32),
        lambda: 255 * torch.rand(1, 3, 32, 32),
        lambda: -torch.ones(3, 32, 32),
        lambda: torch.full((1, 3, 32, 32), 5.0),
    ],
    "1.4": ["a", "b", "d", "C"],
    "2.1": [74, 60, 92, 92.0],
    "2.2": [lambda module, layer, x: module(x), left_behind],
    "2.3": [torch.nn.ReLU, lambda: torch.abs_, lambda: lambda kept: kept.zero_()],
    "2.4": ["b", "c"],
    "3.1": [2, 4, 8],
    "3.2": [
        nst.gram_matrix,
        lambda F: nst.gram_matrix(F - F.mean()),
        lambda F: torch.stack([torch.cov(f.flatten(1)) for f in F]),  # divided by H·W − 1
    ],
    "3.3": [lambda F: F, lambda F: F.flip(3), lambda F: 2 * F, lambda F: F + 3e-5],
    "3.4": ["a", "b"],
    "4.1": [4.0, 2.5, 10.0],
    "4.2": [
        nst.total_variation_loss,
        lambda image: image.diff(dim=3).square().sum() + image.diff(dim=2).square().sum(),
        lambda image: image.diff(dim=3).square().mean(),
    ],
    "4.3": [nst.content_loss, lambda F, P: (F - P).abs().mean(), lambda F, P: (0 * (F - P)).sqrt().sum()],
    "4.4": ["b", "c"],
    "5.1": [60, 15, 15 * 64],
    "5.2": [one_step, without_momentum],
    "5.3": [dict, lambda: {"learning_rate": 0.5}],
    "5.4": ["a", "b"],
    "7.1": [100, 100 / 64, 100 * 64**2],
    "7.2": [lambda loss, channels: loss / channels**2, lambda loss, channels: loss * channels**4],
    "7.3": [dict, lambda: {"beta": 3.0}, lambda: {"style": {"relu1_1": 1.0}}],
    "7.4": ["a", "b"],
    "8.1": [0.25, 2.0, 4.0],
    "8.2": [
        lambda image, like: image,
        lambda image, like: image - image.mean() + like.mean(),
        lambda image, like: like.mean((2, 3), keepdim=True).expand_as(image),
    ],
    "8.3": [
        lambda: (torch.rand(1, 3, 9, 9), torch.rand(1, 3, 9, 9)),
        lambda: (torch.zeros(1, 3, 9, 9), 2 * torch.ones(1, 3, 9, 9)),
    ],
    "8.4": ["b", "c"],
    "9.1": [0.25, 1.0, 16],
    "9.2": [lambda F, t: (t * F) @ F.T / F.shape[1], lambda F, t: (t * F) @ (t * F).T / t.sum()],
    "9.3": [
        lambda: 2 * [torch.ones(1, 1, 32, 32)],
        lambda: (torch.ones(1, 1, 32, 32), (torch.arange(32) > 3).float().expand(1, 1, 32, 32)),
    ],
    "9.4": ["a", "c"],
    "10.1": [0, 2, 0.5],
    "10.2": [
        lambda a, b: (a.mean() - b.mean()) ** 2,
        lambda a, b: (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2,
    ],
    "10.3": [
        lambda: (torch.ones(1, 2, 4, 4), -torch.ones(1, 2, 4, 4)),
        lambda: 2 * (torch.ones(1, 2, 4, 4),),
        lambda: (torch.ones(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)),
    ],
    "10.4": ["a", "b"],
    "14.1": [lambda array: torch.from_numpy(array).permute(2, 0, 1)[None] / 255],
    "14.2": [lambda network, image, layers: network(image, layers)],
    "14.3": [
        kept_on_the_way,
        lambda *args: kept_on_the_way(*args, torch.Tensor.detach),
        lambda *args: kept_on_the_way(*args, lambda x: x.detach().clone()),
        lambda *args: kept_on_the_way(*args, lambda x: x.detach().clone().requires_grad_()),
    ],
    "14.4": [
        lambda model: torch.optim.Adam(model.parameters(), lr=0.02),
        lambda model: torch.optim.Adam([model.image], lr=0.02),
        lambda model: torch.optim.Adam([model.network.requires_grad_(False) and model.image]),
    ],
    "14.5": [
        lambda array: (nst.load_image(array, None), torch.from_numpy(array[None, None, :, :, 3])),
        lambda array: (nst.load_image(array[..., :3] * array[..., 3:], None), nst.load_transparent(array, None)[1]),
        lambda array: (nst.load_image(array[..., :3], None), nst.load_transparent(array, None)[1]),
    ],
    "14.6": [
        lambda F: F.flatten(2) @ F.flatten(2).mT,
        lambda F: nst.gram_matrix(F) / F.shape[1],
        lambda F: nst.gram_matrix(F) / len(F),
    ],
    "14.7": [
        clamped_in_the_search,
        lambda *args: clamped_in_the_search(*args).clamp(0, 1),
        lambda loss, start, steps: start,
    ],
}


@cache
def code(path):
    return [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def cells_that_check(path):
    """Return {number: source of the cell that checks it} of a notebook."""
    sources = [(re.search(r'^check\("([\d.]+)"', source, flags=re.M), source) for source in code(path)]
    return {found[1]: source for found, source in sources if found}


def run(source, capsys):
    names = {"nst": nst, "torch": torch, "nn": torch.nn, "check": checks.check}
    exec(source, names)
    return capsys.readouterr().out


def test_every_check_belongs_to_an_exercise_and_its_solution():
    asked = [number for path in COURSE for number in cells_that_check(path)]
    assert asked == NUMBERS == list(cells_that_check(ROOT / "notebooks" / "99_solutions.ipynb")) == list(WRONG)
    for path in COURSE:
        own = [number for number in NUMBERS if number.split(".")[0] == str(int(path.name[:2]))]
        assert 3 <= len(own) <= (7 if "gallery" in path.name else 5)
        text = path.read_text("utf-8")
        assert all(f"**{number} " in text for number in own)


@pytest.mark.parametrize("number", NUMBERS)
def test_stub_is_not_started(number, capsys):
    (source,) = [cells[number] for path in COURSE if number in (cells := cells_that_check(path))]
    assert run(source, capsys) == f"Exercise {number}: not started yet\n"


@pytest.mark.parametrize("number", NUMBERS)
def test_solution_passes(number, capsys):
    source = cells_that_check(ROOT / "notebooks" / "99_solutions.ipynb")[number]
    assert run(source, capsys) == f"Exercise {number}: right\n"


@pytest.mark.parametrize(("number", "answer"), [(number, answer) for number in WRONG for answer in WRONG[number]])
def test_wrong_answer_fails_with_a_hint(number, answer, capsys):
    with pytest.raises(AssertionError, match=rf"^Exercise {number}: .+\. Hint: .+"):
        checks.check(number, answer)
    assert capsys.readouterr().out == ""


def test_an_exercise_that_is_not_there():
    with pytest.raises(KeyError):
        checks.check("9.9", 1)


@pytest.mark.parametrize(("gpu", "chosen"), [(False, 1), (True, 2)])
def test_quality_auto_depends_on_the_machine(gpu, chosen, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert checks.pick("auto", draft=1, good=2, best=3) == chosen
    assert checks.pick("best", draft=1, good=2, best=3) == 3
    with pytest.raises(KeyError):
        checks.pick("better", draft=1, good=2, best=3)
