"""What the tab key offers: names of encoders, data sets, grids and losses, and what a cache has."""

import logging
from collections.abc import Iterable
from contextlib import suppress

import click
from click.shell_completion import CompletionItem


def offered(context: click.Context, name: str) -> tuple[str, ...]:
    """Return what an option may be; nothing where that is not known, and on any error.

    Args:
        context: of the command line so far, whose caches are looked into.
        name: of the option, with ``_`` for ``-``.
    """
    # A notice would stand in the middle of the line that is being typed.
    logging.getLogger("qamro_cache").setLevel(logging.CRITICAL)
    with suppress(Exception):
        return tuple(_names(context, name))
    return ()


def complete(context: click.Context, option: click.Parameter, text: str) -> list[CompletionItem]:
    """Complete a name that an option has, or else a file's."""
    found = [name for name in offered(context, str(option.name)) if name.startswith(text)]
    return [CompletionItem(name) for name in found] or [CompletionItem(text, type="file")]


def _names(context: click.Context, name: str) -> Iterable[str]:
    # Nothing is imported before the key is pressed.
    if name == "encoder":
        from qamro_cache.encoders.registry import list_encoders

        return [info.name + (":" if info.argument else "") for info in list_encoders()]
    if name == "dataset":
        from qamro_cache.datasets.registry import list_datasets

        return list_datasets()
    if name == "grid":
        from qamro_cache.experiments.grid import shipped_grids

        return shipped_grids()
    if name == "loss":
        from qamro_cache.losses.terms import TERMS

        return TERMS
    if name == "cv":
        from qamro_cache.experiments.options import CV_WORDS

        return CV_WORDS
    if name == "device":
        return ("cpu", "cuda")
    if name in ("axis", "feature", "text_feature") and context.params.get("cache"):
        from qamro_cache.cache.reader import open_cache

        cache = open_cache(context.params["cache"][0])
        if name == "axis":
            return [axis.name for axis in cache.labels.axes]
        return cache.features if name == "feature" else cache.text_features
    return ()
