"""Recipes: the settings, pictures, losses and versions of a run as plain data, for embedding in a PNG."""

import hashlib
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from torch import Tensor

from . import __version__
from .settings import STEERABLE, Settings
from .styles import Region, SavedStyle, Style
from .validate import warn

LOSSES = ("total", "content", "style", "total_variation")


def recipe_of(settings: Settings, history: Sequence, sources: dict, engine: str, device: str, best_loss: float) -> dict:
    """Return the recipe of a run, see `StyleTransfer.recipe`; `best_loss` is the total loss of its result."""
    losses = {name: getattr(history[-1], name) for name in LOSSES} | {"best": best_loss} if history else {}
    return {
        "settings": settings.arguments(),
        "steered": any(getattr(one.settings, name) != getattr(settings, name) for one in history for name in STEERABLE),
        "sources": sources,
        "engine": engine,
        "device": device,
        "steps_made": len(history),
        "losses": losses,
        "versions": versions(),
    }


def settings_of_recipe(recipe: Mapping | None) -> dict:
    """Return a recipe's settings, {} for None; raises ValueError for anything but a recipe."""
    if recipe is None:
        return {}
    if not (isinstance(recipe, Mapping) and "settings" in recipe):
        raise ValueError(f"recipe: expected what recipe_from_png returns, got {recipe!r:.60}")
    return recipe["settings"]


def sources_of(content_image: Tensor, regions: Sequence[Region], start_image: Tensor | None) -> dict:
    """Return the pictures of a run as their sizes and the SHA-256 of their pixels in 8 bits."""
    sources = {
        "content": _picture(content_image),
        "styles": [
            {"mask": None if region.mask is None else _hash(region.mask), "weight": region.weight}
            | {"styles": [_style(style) for style in region.styles]}
            for region in regions
        ],
    }
    return sources if start_image is None else sources | {"start": _picture(start_image)}


def check_sources(recipe: Mapping, sources: Mapping) -> None:
    """Warn about pictures that differ from those of a recipe, since the result will differ from the recipe's too."""
    others = [
        name for name in ("content", "styles", "start") if recipe.get("sources", {}).get(name) != sources.get(name)
    ]
    if others:
        warn(f"the recipe was made with other pictures ({', '.join(others)}): the result will differ")


def versions() -> dict[str, str]:
    """Return the versions of the packages that affect the result."""
    found = {package: version(package) for package in ("torch", "numpy")}
    return {"nst-helpers": __version__, "python": platform.python_version()} | found


def _style(style: Style) -> dict:
    image = style.image
    about = {"saved": True, "palette": _hash(image.palette)} if isinstance(image, SavedStyle) else _picture(image)
    return about | {"weight": style.weight, "scale": style.scale}


def _picture(image: Tensor) -> dict:
    return {"sha256": _hash(image), "width": image.shape[3], "height": image.shape[2]}


def _hash(image: Tensor) -> str:
    pixels = image.detach().float().clamp(0, 1).mul(255).round().byte().cpu().permute(0, 2, 3, 1).contiguous()
    return hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
