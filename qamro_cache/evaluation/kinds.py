"""The kinds of 95 % interval by name, and where each is. Imports nothing heavy."""

from collections.abc import Mapping
from typing import NamedTuple

#: A new kind is a class in a file, and its line here; ``--interval`` offers it.
KINDS: Mapping[str, str] = {
    "jackknife": "qamro_cache.evaluation.jackknife:Jackknife",
    "bootstrap": "qamro_cache.evaluation.bootstrap:Bootstrap",
}


class Kind(NamedTuple):
    """A kind of 95 % interval, of `KINDS`, with the draws of one that draws."""

    name: str = "jackknife"
    draws: int = 0


#: Where none is named.
JACKKNIFE = Kind()
