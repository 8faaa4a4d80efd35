"""Which encoder's features an expression names, and of what shape they are: by identities alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from qamro_cache.errors import OptionError, quoted, unknown
from qamro_cache.features.expression import Call, Expression, Join, Read, reads, replaced

Identities = Sequence[Mapping[str, Any]]


def owner(read: Read, identities: Identities) -> int:
    """Return which of the encoders has a feature.

    Raises:
        OptionError: none has it, or several, or it has no such layers.
    """
    names = [str(one["name"]) for one in identities]
    there = [k for k, name in enumerate(names) if read.encoder in ("", name)]
    if not there:
        raise unknown("there is no cache of encoder", read.encoder, tuple(dict.fromkeys(names)))
    having = [k for k in there if read.feature in ("", *identities[k]["features"])]
    if not having:
        known = dict.fromkeys(name for k in there for name in identities[k]["features"])
        of = " and ".join(dict.fromkeys(names[k] for k in there))
        raise unknown(f"{of} has no feature", read.feature, tuple(known))
    if len(having) > 1:
        found = {str(_in_full(read, identities[k], named=True)) for k in having}
        ask = f"name its encoder: {' or '.join(sorted(found))}"
        if len(found) == 1:
            ask = "of one encoder with different settings; give one of them"
        raise OptionError(f"feature {quoted(str(read))} is in several caches; {ask}")
    window_shape(read, identities[having[0]])
    return having[0]


def _in_full(read: Read, identity: Mapping[str, Any], *, named: bool) -> Read:
    feature = read.feature or next(iter(identity["features"]), "")
    return replace(read, encoder=str(identity["name"]) if named else "", feature=feature)


def resolved(expression: Expression, identities: Identities) -> Expression:
    """Name every feature in full: with its encoder, where there are several.

    Raises:
        OptionError: see `owner`.
    """
    named = len(identities) > 1

    def full(read: Read) -> Read:
        return _in_full(read, identities[owner(read, identities)], named=named)

    return replaced(expression, full)


def used(expression: Expression, identities: Identities) -> list[int]:
    """Return which encoders an expression reads, in its order."""
    return list(dict.fromkeys(owner(read, identities) for read in reads(expression)))


def window_shape(read: Read, identity: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of one window of a feature, or of some of its layers.

    Raises:
        OptionError: it has no such layers.
    """
    name = read.feature or next(iter(identity["features"]), "")
    shape = tuple(identity["features"][name])
    if not read.layers:
        return shape
    if len(shape) < 2:
        raise OptionError(f"{read}: {quoted(name)} has no layers, it is {list(shape)}")
    if read.layers == "*":
        return shape[1:]
    first, colon, end = read.layers.partition(":")
    last = int(end) - 1 if colon else int(first)
    if last >= shape[0]:
        raise OptionError(f"{read}: {quoted(name)} has {shape[0]} layers, 0 to {shape[0] - 1}")
    return (last + 1 - int(first), *shape[1:]) if colon else shape[1:]


def shape_of(expression: Expression, identities: Identities) -> tuple[int, ...]:
    """Return the shape that a head takes: of a window, or [D] of a vector a clip."""
    if isinstance(expression, Read):
        return window_shape(expression, identities[owner(expression, identities)])
    return (sum(widths(expression, identities)),)


def widths(expression: Expression, identities: Identities) -> tuple[int, ...]:
    """Return the widths of the blocks of a flat vector: each layer, each part of a join."""
    match expression:
        case Read():
            *layers, width = shape_of(expression, identities)
            return (width,) * math.prod(layers)
        case Call(size=size, of=of):
            return (size,) if size else widths(of, identities)
        case Join(parts=parts):
            return tuple(width for part in parts for width in widths(part, identities))
