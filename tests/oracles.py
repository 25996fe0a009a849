"""What several test files compare with: formulas, written again naively, without the toolkit; and colors."""

import torch

import nst_helpers as nst
from nst_helpers.engine import Request


def differentiable(engine, image, layers, gram_layers, **options):
    """Feature maps and Gram matrices of an engine, for autograd."""
    maps, grams = {}, {}

    class Pass(torch.autograd.Function):
        @staticmethod
        def forward(ctx, image):
            with torch.enable_grad():
                found = engine.forward(image, Request(layers, gram_layers, **options))
            maps.update(found[0]), grams.update(found[1])
            ctx.tape = found[2]
            return *maps.values(), *grams.values()

        @staticmethod
        def backward(ctx, *gradients):
            parts = iter(gradients)
            by_maps, by_grams = ({layer: next(parts) for layer in part} for part in (maps, grams))
            return engine.backward(ctx.tape, by_maps, {layer: (D + D.mT) / 2 for layer, D in by_grams.items()})

    outputs = iter(Pass.apply(image))
    return tuple({layer: next(outputs) for layer in part} for part in (maps, grams))


def everywhere(F):
    """Weights of 1 for all positions of features (C, n), in float64."""
    return torch.ones(F.shape[1]).double()


def features(image, network, layers):
    """{layer: features (C, n)} of an image, in float64."""
    return {layer: maps[0].flatten(1) for layer, maps in nst.get_features(image.double(), network, layers).items()}


def gram(F, t=None):
    """The Gram matrix of features (C, n), Σ t F Fᵀ / Σ t; without weights t, F Fᵀ / n."""
    return F @ F.T / F.shape[1] if t is None else torch.einsum("ik,jk,k->ij", F, F, t) / t.sum()


def moments(F, t):
    """Weighted mean (C,) and covariance (C, C) of features (C, n)."""
    mean = (F * t).sum(1) / t.sum()
    centered = F - mean[:, None]
    return mean, torch.einsum("ik,jk,k->ij", centered, centered, t) / t.sum()


def naive_gram(F, t, S, s):
    return (gram(F, t) - gram(S, s)).square().mean() / 4


def naive_mean_std(F, t, S, s):
    (m, C), (n, D) = moments(F, t), moments(S, s)
    return (m - n).square().mean() + ((C.diag() + 1e-4).sqrt() - (D.diag() + 1e-4).sqrt()).square().mean()


def naive_wasserstein(F, t, S, s):
    (m, C), (n, D) = moments(F, t), moments(S, s)
    C, D = (matrix + 1e-4 * torch.eye(len(matrix)) for matrix in (C, D))
    # the eigenvalues of C D are those of √D C √D
    cross = torch.linalg.eigvals(C.detach() @ D.detach()).real.clamp_min(0).sqrt().sum()
    return ((m - n).square().sum() + C.trace() + D.trace() - 2 * cross) / len(m)


def naive_sliced(F, t, S, s):
    generator = torch.Generator().manual_seed(len(F))
    directions = torch.randn(min(64, len(F)), len(F), generator=generator).double()
    total = 0
    for direction in directions / directions.norm(dim=1, keepdim=True):
        a, b = (direction @ F[:, t >= t.max() / 2]).sort().values, (direction @ S).sort().values
        at = torch.linspace(0, len(b) - 1, len(a)).double()
        low = at.floor().long().clamp(max=len(b) - 2)
        total += (a - (b[low] + (at - low) * (b[low + 1] - b[low]))).square().mean()
    return total / len(directions)


def naive_nearest(F, t, S, s):
    best = [max(torch.cosine_similarity(f, g, 0) for g in S.T[s > 0]) for f in F.T]
    return ((1 - torch.stack(best)) * t).sum() / t.sum()


NAIVE = {  # style losses of features F with weights t, to features S with weights s
    "gram": naive_gram,
    "mean_std": naive_mean_std,
    "wasserstein": naive_wasserstein,
    "sliced_wasserstein": naive_sliced,
    "nearest": naive_nearest,
}


def plain_losses(image, content, style, network, alpha, beta, tv_weight):
    """Relative losses of Gram matrices from their formulas, layer by layer, with none of the toolkit's losses."""
    layers = ["relu4_2", *nst.STYLE_WEIGHTS]
    F, P, S = (nst.get_features(x, network, layers) for x in (image, content, style))
    content_loss = ((F["relu4_2"] - P["relu4_2"]) ** 2).mean() / (P["relu4_2"] ** 2).mean()
    style_loss = 0
    for layer, weight in nst.STYLE_WEIGHTS.items():
        f, s = F[layer][0].flatten(1), S[layer][0].flatten(1)
        style_loss += weight * ((gram(f) - gram(s)) ** 2).sum() / (gram(s) ** 2).sum()
    variation = (image[..., 1:] - image[..., :-1]).abs().mean() + (image[..., 1:, :] - image[..., :-1, :]).abs().mean()
    return alpha * content_loss + beta * style_loss + tv_weight * variation, content_loss, style_loss, variation


COLORS = {
    "red": (200, 30, 30),
    "green": (40, 180, 60),
    "blue": (40, 60, 200),
    "yellow": (230, 200, 40),
    "skin": (224, 172, 140),
    "gray": (128, 128, 128),
    "pure red": (255, 0, 0),
    "pure blue": (0, 0, 255),
}


def striped(size):
    """Vertical stripes of `COLORS`, size × size px."""
    stripes = torch.tensor(list(COLORS.values())).T[None, :, None] / 255
    return stripes.repeat_interleave(size // len(COLORS), 3).expand(-1, -1, size, -1)
