"""Small pieces of SVG: a frame with ticks, marks that can be pointed at, colors that all can tell.

Colors are classes of the style sheet, so that a dark page and a printed one have their own; those
of heat maps are numbers on the scale of cividis (Nunez et al. 2018, PLoS ONE 13(7):e0199239).
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from qamro_cache.reports.numbers import compact, ticks
from qamro_cache.reports.page import Scale

#: Widths and heights are in these units; on a phone a unit is about .8 pixels.
WIDTH = 440.0

#: Colors of cividis at equal distances.
_CIVIDIS = (
    (0, 34, 78), (18, 53, 112), (59, 73, 108), (87, 93, 109), (112, 113, 115),
    (138, 134, 120), (165, 156, 116), (195, 179, 105), (225, 204, 85), (254, 232, 56),
)  # fmt: skip

#: Letters of a name beside a mark, at most; the whole name shows when it is pointed at.
LONGEST = 26


@dataclass(frozen=True)
class Drawing:
    """A finished figure.

    Attributes:
        svg: an element.
        marks: (x, y, words) of what can be pointed at, in units of the drawing.
    """

    svg: str
    marks: Sequence[tuple[float, float, str]]


def text(x: float, y: float, words: str, kind: str = "", more: str = "") -> str:
    """Return text at a place; ``kind`` is a class of the style sheet."""
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{named}{more}>{html.escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """Return a line."""
    return f'<path class="{kind}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def short(name: str, most: int = LONGEST) -> str:
    """Return a name that fits beside a mark: its middle goes first."""
    name = " ".join(name.split())
    return name if len(name) <= most else f"{name[: most - 9]}…{name[-8:]}"


def closed(title: str, about: str, width: float, height: float, parts: Sequence[str]) -> str:
    """Return the element that holds the parts of a figure."""
    label = html.escape(f"{title}. {about}", quote=True)
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" style="max-width:{width * 1.25:.0f}px" '
        f'role="img" tabindex="0" aria-label="{label}">{"".join(parts)}</svg>'
    )


@dataclass(frozen=True)
class Side:
    """Where the values of a scale lie: ``start`` is the place of its low end, ``end`` of its high.

    On a logarithmic side both ends are above 0.
    """

    scale: Scale
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value, kept on the side."""
        low, high = self.scale.low, self.scale.high
        value = min(max(value, low), high)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def frame(x: Side, y: Side, *, x_ticks: Sequence[float] = ()) -> list[str]:
    """Return the grid, ticks and names of two sides."""
    parts = []
    for value in x_ticks or ticks(x.scale.low, x.scale.high):
        at = x.at(value)
        parts.append(line(at, y.start, at, y.end, "grid"))
        parts.append(text(at, y.start + 14, compact(value), "tick mid"))
    for value in ticks(y.scale.low, y.scale.high):
        at = y.at(value)
        parts.append(line(x.start, at, x.end, at, "grid"))
        parts.append(text(x.start - 5, at + 4, compact(value), "tick end"))
    parts.append(text((x.start + x.end) / 2, y.start + 31, x.scale.label, "label mid"))
    middle = (y.start + y.end) / 2
    turned = f' transform="rotate(-90 12 {middle:.1f})"'
    parts.append(text(12, middle, y.scale.label, "label mid", turned))
    return parts


def heat_color(share: float) -> tuple[str, str]:
    """Return a color of cividis, 0 to 1, and which words stand out on it: ``dark`` or ``light``."""
    place = min(max(share, 0.0), 1.0) * (len(_CIVIDIS) - 1)
    low = min(int(place), len(_CIVIDIS) - 2)
    part = place - low
    red, green, blue = (
        round(a + part * (b - a)) for a, b in zip(_CIVIDIS[low], _CIVIDIS[low + 1], strict=True)
    )
    # The relative luminance of WCAG 2, of which .18 reads equally well in black and in white.
    linear = [
        v / 3294.6 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in (red, green, blue)
    ]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return f"#{red:02x}{green:02x}{blue:02x}", "dark" if luminance > 0.18 else "light"
