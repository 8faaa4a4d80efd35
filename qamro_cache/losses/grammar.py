"""The text of a loss taken apart: ``[weight*]name[(key=value,...)][@units]`` joined by ``+``."""

import re
from typing import NamedTuple

from qamro_cache.errors import quoted

_TERM = re.compile(
    r"(?:(?P<weight>[^*(@]*)\*)?(?P<name>[^*(@]*)"
    r"(?:\((?P<body>[^()]*)\)\s*)?(?:@(?P<units>[^()@]*))?"
)
# What stands before the plus of a weight such as 1e+3.
_EXPONENT = re.compile(r"\s*(\d+\.?\d*|\.\d+)[eE]")


class Piece(NamedTuple):
    """One term as it stands in the text; what its words mean is not known here."""

    name: str
    weight: float
    pairs: list[tuple[str, str]]
    units: str | None


def read_pieces(text: str) -> list[Piece]:
    """Take the text of a loss apart.

    Raises:
        ValueError: says what is malformed.
    """
    return [_read_piece(part.strip()) for part in _split(text)]


def _split(text: str) -> list[str]:
    """Split at each plus that is neither in brackets nor in a number's exponent."""
    parts, start, depth = [], 0, 0
    for k, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not 0 <= depth <= 1:
            break
        if letter == "+" and depth == 0 and not _EXPONENT.fullmatch(text[start:k]):
            parts.append(text[start:k])
            start = k + 1
    if depth:
        raise ValueError("its brackets do not match")
    return [*parts, text[start:]]


def _read_piece(part: str) -> Piece:
    if not part:
        raise ValueError("a term is empty")
    found = _TERM.fullmatch(part)
    if found is None:
        raise ValueError(f"{quoted(part)} is not [weight*]name[(key=value,...)][@units]")
    weight = found["weight"]
    try:
        number = 1.0 if weight is None else float(weight)
    except ValueError:
        raise ValueError(f"weight {quoted(weight.strip())} is not a number") from None
    units = None if found["units"] is None else found["units"].strip()
    return Piece(found["name"].strip(), number, _read_pairs(found["body"] or ""), units)


def _read_pairs(body: str) -> list[tuple[str, str]]:
    pairs = []
    for item in body.split(",") if body.strip() else []:
        key, _, value = map(str.strip, item.partition("="))
        if not (key and value):
            raise ValueError(f"{quoted(item.strip())} is not key=value")
        pairs.append((key, value))
    return pairs
