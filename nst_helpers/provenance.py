"""Where a painting comes from, as plain data that a PNG can hold."""

import hashlib
import platform
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

from torch import Tensor

from .styles import SavedStyle, Style


def recipe_of(run) -> dict:
    """Return what a `StyleTransfer` paints with: settings, sources, versions and losses.

    `settings` are arguments of `transfer`, as they are now; `steered` says that some were others before. Sources are
    given by the SHA-256 of their pixels in 8 bits, so that a picture is known again in whatever file. What is no name
    and no number, as a start image, stands among the sources.
    """
    kinds = run.problem.kinds
    settings = {
        "network": run.network.name,
        "sizes": list(run.sizes),
        "steps": list(run.steps),
        "noise": run.noise,
        "optimizer": run.optimizer,
        "learning_rate": run.learning_rate,
        "averaging": run.averaging,
        "carry": run.carry,
        "alpha": run.alpha,
        "beta": run.beta,
        "tv_weight": run.tv_weight,
        "content_weights": run.content_weights,
        "style_weights": run.style_weights,
        "content_loss": kinds.content_loss,
        "style_loss": kinds.style_loss,
        "blend": kinds.blend,
        "tv": kinds.tv,
        "color": kinds.color,
        "seed": run.seed,
    }
    sources = {
        "content": _picture(run.content_image),
        "styles": [
            {"mask": None if region.mask is None else _hash(region.mask), "weight": region.weight}
            | {"styles": [_style(style) for style in region.styles]}
            for region in run.regions
        ],
    }
    if isinstance(run.start, Tensor):
        sources["start"] = _picture(run.start)
    else:
        settings["start"] = run.start
    last = run.history[-1] if run.history else None
    ways = {(replace(record.settings, size=0), record.optimizer, record.learning_rate) for record in run.history}
    losses = ("total", "content", "style", "total_variation")
    return {
        "settings": settings,
        "steered": len(ways) > 1,
        "sources": sources,
        "network": run.network.kind,
        "engine": run.engine.name,
        "device": str(run.device),
        "evaluations": len(run.history),
        "losses": {name: getattr(last, name) for name in losses} | {"best": run.best_loss} if last else {},
        "versions": {package: _version(package) for package in ("nst-helpers", "torch", "numpy")}
        | {"python": platform.python_version()},
    }


def _style(style: Style) -> dict:
    saved = isinstance(style.image, SavedStyle)
    about = {"saved": True, "palette": _hash(style.picture)} if saved else _picture(style.image)
    return about | {"weight": style.weight, "scale": style.scale}


def _picture(image: Tensor) -> dict:
    return {"sha256": _hash(image), "width": image.shape[3], "height": image.shape[2]}


def _hash(image: Tensor) -> str:
    pixels = image.detach().float().clamp(0, 1).mul(255).round().byte().cpu().permute(0, 2, 3, 1).contiguous()
    return hashlib.sha256(pixels.numpy().tobytes()).hexdigest()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
