"""Curves of growth as an SVG file, drawn by plain code: points over a logarithmic axis, a line through each series."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT, MARGIN = 640, 360, 60
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")

Series = Mapping[str, Sequence[tuple[float, float]]]


def draw(title: str, unit: str, series: Series) -> str:
    """Return an SVG document with one line for each series; both axes are logarithmic, every value is above 0."""
    points = [point for line in series.values() for point in line]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    across, up = _axis(min(xs), max(xs), MARGIN, WIDTH - MARGIN), _axis(min(ys), max(ys), HEIGHT - MARGIN, MARGIN)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{MARGIN}" y="24" font-size="14">{escape(title)}, {escape(unit)}</text>',
    ]
    parts += [_text(across(x), HEIGHT - MARGIN + 20, f"{x:,.0f}", "middle") for x in sorted(set(xs))]
    parts += [_text(MARGIN - 6, up(y) + 4, f"{y:,.3g}", "end") for y in (min(ys), max(ys))]
    for number, (name, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{colour}"/>' for x, y in line]
        parts.append(
            f'<text x="{WIDTH - MARGIN + 4 - 200}" y="{44 + 16 * number}" fill="{colour}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _axis(least: float, most: float, start: float, end: float) -> "_Axis":
    return _Axis(math.log10(least), math.log10(most), start, end)


class _Axis:
    """A logarithmic axis, from one place on the paper to another."""

    def __init__(self, least: float, most: float, start: float, end: float) -> None:
        self._least, self._span = least, (most - least) or 1.0
        self._start, self._length = start, end - start

    def __call__(self, value: float) -> float:
        return self._start + (math.log10(value) - self._least) / self._span * self._length


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
