"""The kinds of 95 % interval by name, and where each is. Imports nothing heavy."""

from collections.abc import Mapping
from typing import NamedTuple

#: A new kind is a class in a file, and its line here; ``--interval`` offers it.
KINDS: Mapping[str, str] = {
    "jackknife": "qamro_cache.evaluation.jackknife:Jackknife",
    "bootstrap": "qamro_cache.evaluation.bootstrap:Bootstrap",
}


#: What an interval may be over, of those ways alone that `Kind.over` names.
OVER = ("system", "group")


class Kind(NamedTuple):
    """A kind of 95 % interval.

    Attributes:
        name: of `KINDS`.
        draws: of one that draws.
        over: of `OVER` the one way that it is over, the other stays as it is; empty for both.
    """

    name: str = "jackknife"
    draws: int = 0
    over: str = ""


#: Where none is named.
JACKKNIFE = Kind()
