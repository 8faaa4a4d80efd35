"""Numbers as people read them."""

import math
from typing import Any


def number(value: Any, *, like: float | None = None) -> str:
    """Three decimals, one or none for large ones (or one ``like`` them); - where there is none."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        return "-"
    if value != value:
        return "-"
    size = abs(value if like is None else like)
    decimals = 3 if size < 10 else 1 if size < 1000 else 0
    return f"{value:.{decimals}f}"


def span(low: Any, high: Any, *, like: float | None = None) -> str:
    """An interval in its own units; - where there is none."""
    return "-" if number(low) == "-" else f"{number(low, like=like)} to {number(high, like=like)}"


def short_span(low: Any, high: Any) -> str:
    """A correlation's interval; - where there is none."""
    return "-" if number(low) == "-" else f"{bare(float(low), 2)} to {bare(float(high), 2)}"


def bare(value: float, decimals: int) -> str:
    """A correlation without the 0 before its point."""
    return f"{value:.{decimals}f}".replace("0.", ".", 1 if abs(value) < 1 else 0)


def compact(value: float) -> str:
    """Four significant digits, without zeros at the end."""
    return f"{value:.4g}"


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round numbers between two ends, at steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]
