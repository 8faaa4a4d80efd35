"""Search for a description's regular expression, in bounded time."""

from collections.abc import Callable
from pathlib import Path

import regex

from qamro_cache.errors import QamroError, quoted

#: Most seconds that a pattern may take on one text.
SECONDS = 2


def searcher(pattern: str, file: Path) -> "Callable[[str], regex.Match[str] | None]":
    """Return the search for a pattern in the texts of a file.

    Where it would try for hours, as ``(a|aa)+c`` does on a hundred letters, it raises a
    `QamroError` after `SECONDS`. The standard library's ``re`` cannot be stopped.
    """
    compiled = regex.compile(pattern)

    def search(value: str) -> "regex.Match[str] | None":
        try:
            return compiled.search(value, timeout=SECONDS)
        except TimeoutError:
            raise QamroError(
                f"{file}: {quoted(value)} keeps the pattern {quoted(pattern)} busy for more than "
                f"{SECONDS} s; write it without a repeat inside a repeat"
            ) from None

    return search
