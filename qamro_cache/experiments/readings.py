"""What the cells of a grid read: expressions, and the joined caches that each is read from."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from qamro_cache.errors import OptionError, QamroError
from qamro_cache.experiments.grid import Cell, refuse_cells
from qamro_cache.features.expression import (
    Expression,
    Read,
    each_layer,
    parse,
    reads,
    refuse_pooling,
    replaced,
)
from qamro_cache.features.lookup import owner, resolved
from qamro_cache.features.sources import Sources
from qamro_cache.heads.architecture import Architecture

#: The caches that are read, and an expression with every name in full.
Reading = tuple[Sources, Expression]


def one_reading(sources: Sources, feature: str, context: str, head: Architecture) -> Reading:
    """Return what the heads of a run read.

    Args:
        sources: joined caches.
        feature: an expression.
        context: of `CONTEXTS`.
        head: that is to read it.

    Raises:
        OptionError: it means nothing here, or not one thing, or is nothing for such a head.
    """
    expression = parse(feature)
    if any(read.layers == "*" for read in reads(expression)):
        raise OptionError(
            f"{feature}: [*] is every layer in turn, for qamro-ablate; "
            "name a layer, [4], or several, [2:6]"
        )
    return _checked(_reading(sources, expression), context, head)


def readings(sources: Sources, cell: Cell) -> list[Reading]:
    """Return what a cell reads: of several encoders, what names none is read of each in turn."""
    expression = parse(cell.feature)
    found: list[Reading] = []
    if len(sources.caches) > 1 and not any(read.encoder for read in reads(expression)):
        try:
            found = [_reading(alone, expression) for alone in _each(sources)]
        except OptionError as error:
            try:
                found = [_reading(sources, expression)]
            except OptionError:
                raise error from None
    else:
        found = [_reading(sources, expression)]
    return [_checked(one, cell.context, cell.recipe.head) for one in found]


def with_layers(cells: Sequence[Cell], sources: Sources) -> list[Cell]:
    """Multiply out every ``[*]``: a cell for each layer of each encoder that has the feature."""
    identities, found = sources.identities, []

    def number(read: Read) -> int:
        identity = identities[owner(read, identities)]
        return int(identity["features"][read.feature][0])

    for cell in cells:
        expression = parse(cell.feature)
        if not any(read.layers == "*" for read in reads(expression)):
            found.append(cell)
            continue
        for whole in _named(expression, sources):
            for one in map(str, each_layer(whole, number)):
                names = {**cell.names, "feature": one}
                found.append(replace(cell, feature=one, names=names))
    if len(found) > len(cells):
        try:
            refuse_cells(found)
        except QamroError as error:
            raise OptionError(str(error)) from error
    return found


def _named(expression: Expression, sources: Sources) -> list[Expression]:
    """Return an expression once for each encoder that it can be read of, named in full."""
    if len(sources.caches) == 1 or any(read.encoder for read in reads(expression)):
        return [resolved(expression, sources.identities)]
    found = []
    for alone in _each(sources):
        name = str(alone.identities[0]["name"])
        try:
            whole = resolved(expression, alone.identities)
        except OptionError:
            continue
        found.append(replaced(whole, partial(_of_encoder, name)))
    return found or [resolved(expression, sources.identities)]


def _of_encoder(name: str, read: Read) -> Read:
    return replace(read, encoder=name)


def _each(sources: Sources) -> list[Sources]:
    """Return each encoder's cache on its own."""
    pairs = zip(sources.caches, sources.rows, strict=True)
    return [replace(sources, caches=(cache,), rows=(rows,)) for cache, rows in pairs]


def _reading(sources: Sources, expression: Expression) -> Reading:
    only = sources.only(expression)
    return only, resolved(expression, only.identities)


def _checked(reading: Reading, context: str, head: Architecture) -> Reading:
    """Refuse what such a head cannot read."""
    sources, expression = reading
    refuse_pooling(expression, context, head.pooling)
    if head.takes_prompts:
        sources.text_source("")
    return reading
