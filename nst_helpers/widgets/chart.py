"""Loss curves as SVG: fast to draw, sharp at any size, in the text color of the page."""

import math
from collections.abc import Sequence
from html import escape

from .history import Annotation, LossPoint

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 240, 46, 76, 34, 30
CURVES = {"total": "#3f8fe0", "content": "#e0822f", "style": "#35a35a"}  # visible on white and on black
LABELS = {"total": "total", "content": "α·content", "style": "β·style"}
FLOOR = 1e-6  # smallest loss on the chart, as a share of the largest


def loss_chart(points: Sequence[LossPoint], annotations: Sequence[Annotation]) -> str:
    """Return an SVG chart of the losses over the steps, on a logarithmic scale, with a dashed line at each change."""
    head = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_summary(points)}" width="100%" '
        'style="max-width: 640px; font: 11px sans-serif" fill="currentColor" stroke="none">'
    )
    return head + (_body(points, annotations) if points else "") + "</svg>"


def _summary(points: Sequence[LossPoint]) -> str:
    if not points:
        return "Losses: no step yet"
    last = points[-1]
    parts = f"total {last.total:.3g}, content {last.content:.3g}, style {last.style:.3g}"
    return f"Losses at step {last.step}: {parts}"


def _body(points: Sequence[LossPoint], annotations: Sequence[Annotation]) -> str:
    losses = [loss for point in points for loss in point[1:] if loss > 0]
    top = max(losses, default=1.0)
    low = max(min(losses, default=top), FLOOR * top)
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(top) - 1e-9)
    last = max(last, first + 1)
    end = max(points[-1].step, 2)

    def x(step: float) -> float:
        return LEFT + (step - 1) / (end - 1) * (WIDTH - LEFT - RIGHT)

    def y(loss: float) -> float:
        exponent = math.log10(max(loss, 10.0**first))
        return TOP + (last - exponent) / (last - first) * (HEIGHT - TOP - BOTTOM)

    drawn = []
    for exponent in range(first, last + 1):
        level = y(10.0**exponent)
        drawn.append(
            f'<path d="M{LEFT} {level:.1f}H{WIDTH - RIGHT}" stroke="currentColor" opacity="0.2"/>'
            f'<text x="{LEFT - 5}" y="{level + 4:.1f}" text-anchor="end">{10.0**exponent:g}</text>'
        )
    for step in _ticks(end):
        drawn.append(f'<text x="{x(step):.1f}" y="{HEIGHT - 14}" text-anchor="middle">{step}</text>')
    drawn.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 2}" text-anchor="middle">step</text>')
    drawn += _annotations(annotations, x)
    ends = _apart({name: y(getattr(points[-1], name)) for name in CURVES})
    for name, color in CURVES.items():
        path = " ".join(f"{x(point.step):.1f},{y(getattr(point, name)):.1f}" for point in points)
        drawn.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{3 if name == "total" else 1.4}"/>'
            f'<text x="{WIDTH - RIGHT + 5}" y="{ends[name] + 4:.1f}" fill="{color}">{LABELS[name]}</text>'
        )
    return "".join(drawn)


def _ticks(end: int) -> list[int]:
    """Return about five round numbers from 1 to the end."""
    raw = end / 5
    unit = 10 ** math.floor(math.log10(raw)) if raw > 1 else 1
    step = next((unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw), unit)
    return [1, *range(step, end + 1, step)] if step > 1 else list(range(1, end + 1))


def _annotations(annotations: Sequence[Annotation], x) -> list[str]:
    """Return a dashed line for each annotation, with its text in one of two rows if there is space."""
    drawn, free = [], [0.0, 0.0]
    for annotation in annotations:
        place = x(annotation.step)
        drawn.append(
            f'<path d="M{place:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="currentColor" stroke-dasharray="3 3" '
            f'opacity="0.5"><title>step {annotation.step}: {escape(annotation.text)}</title></path>'
        )
        row = min((0, 1), key=lambda row: free[row])
        if place >= free[row]:
            drawn.append(f'<text x="{place:.1f}" y="{12 + 13 * row}">{escape(annotation.text)}</text>')
            free[row] = place + 6.2 * len(annotation.text) + 8
    return drawn


def _apart(places: dict[str, float], distance: float = 13) -> dict[str, float]:
    """Return heights of labels, moved down where they would overlap."""
    moved, last = {}, -math.inf
    for name, place in sorted(places.items(), key=lambda item: item[1]):
        last = moved[name] = max(place, last + distance)
    return moved
